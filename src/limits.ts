/**
 * Every limit of the service. GetServerInfo serves those that callers need; the error that a limit
 * causes names it; a test compares them with the rules in the proto. The comments are the text of
 * docs/reference/limits.md.
 */
export const limits = {
  /** Messages per batch. */
  batchMessages: 1000,
  /**
   * Messages per batch with the best latency and throughput, as the legacy documentation advises.
   */
  batchMessagesAdvised: 100,
  /** Channels per batch. Each message goes to one channel, so the bound on messages enforces it. */
  batchChannels: 1000,
  /** Receivers per broadcast. */
  broadcastSubscribers: 10_000,
  /** Receivers that one message can name. */
  messageSubscribers: 10_000,
  /** Bytes per payload. */
  payloadBytes: 64 * 1024,
  /** Bytes per request, both as sent and decompressed. */
  requestBytes: 16 * 1024 * 1024,
  /**
   * Estimated bytes of memory for the parsed messages of a request, beyond its own bytes. 100,000
   * messages with a template and two variables take 58 MB.
   */
  parsedBytes: 64 * 1024 * 1024,
  /**
   * Fields per message, and fields of a request besides its list of messages. They are parsed in
   * one piece, in about 60 ms.
   */
  messageFields: 200_000,
  /** Elements per JSON array that has no bound of its own. */
  listElements: 100_000,
  /** Keys per JSON object. */
  objectKeys: 10_000,
  /**
   * Ratio of decompressed to compressed bytes of a body. Batches of equal payloads compress to 1
   * %, decompression bombs to 0.1 %.
   */
  unpackedRatio: 200,
  /** Bytes up to which a body may decompress whatever its ratio. */
  unpackedFreeBytes: 1024 * 1024,
  /** Bytes of the request message of a Connect GET, decompressed. */
  getMessageBytes: 8 * 1024,
  /** Bytes of all request bodies that a process holds. */
  bodiesBytes: 256 * 1024 * 1024,
  /**
   * Bytes that the calls of a caller may hold while they wait for template rendering and
   * moderation. They may hold more as long as this much of `bodiesBytes` is left for others.
   */
  callerWaitingBytes: 64 * 1024 * 1024,
  /** Messages per page. */
  pageMessages: 1000,
  /** Messages per page when the caller names no limit. */
  pageMessagesDefault: 100,
  /** Bytes of payloads per page. gRPC clients accept 4 MiB by default. */
  pageBytes: 3 * 1024 * 1024,
  /** Most recent messages of a channel that are searched for a key without its sender. */
  keySearchMessages: 10_000,
  /** Bytes per template. */
  templateBytes: 64 * 1024,
  /** Tags and outputs per template. Each takes about 1 kB when parsed. */
  templateTags: 1000,
  /**
   * Compiled instructions per moderation pattern. At 0.1 µs per character and instruction, 64 kB
   * take 13 s in the worst case; the time limit per message stops it earlier.
   */
  patternInstructions: 2000,
  /** Compiled instructions of all moderation patterns. */
  ruleInstructions: 100_000,
  /**
   * Characters (UTF-16 units) of all moderation keywords. Compiling them takes one second and 30
   * MB.
   */
  ruleKeywordChars: 1_000_000,
  /** Messages per background batch. */
  submitMessages: 100_000,
  /** Bytes per background batch that arrives as a stream or as NDJSON. */
  submitBytes: 256 * 1024 * 1024,
  /** Messages per frame of SubmitBatchStream. */
  submitFrame: 10_000,
  /** Characters per chunk of a background batch, which is read, rendered and sent at once. */
  chunkChars: 6 * 1024 * 1024,
  /** Unfinished background batches per caller. */
  callerBatches: 10_000,
  /** Days ahead that a message can be scheduled. */
  scheduleDays: 366,
  /** Results of a background batch per page; also the default. */
  resultsPage: 1000,
  /** Commands per SyncCommands answer when the caller names no limit. */
  commandsDefault: 200,
  /** Channels that a subscription can name. */
  subscribeChannels: 100,
  /** Channels of a user that a subscription follows with `all_of_uid`. */
  subscribedChannels: 10_000,
  /** Entries per page of members, denylist or allowlist. */
  listPage: 10_000,
  /** Entries per such page when the caller names no size. */
  listPageDefault: 1000,
  /** Uids that one call adds to a list or removes from it. */
  listChange: 100_000,
  /** System uids that callers add. One answer lists them all, in at most 3 MB. */
  systemUids: 10_000,
  /** Bytes per uid and per channel id. */
  idBytes: 256,
  /** Bytes per client_msg_no. */
  clientMsgNoBytes: 128,
  /** Bytes per request_id: `<request_id>:<index>` must fit a client_msg_no. */
  requestIdBytes: 120,
  /** Violations named in one error. */
  violationsNamed: 100,
  /**
   * Messages per group commit, and so channels per group commit. With 10,000 messages in flight,
   * 4,000 is 1.1 to 1.2 times as fast as 1,000.
   */
  groupMessages: 4000,
  /** Bytes per group commit. */
  groupBytes: 4 * 1024 * 1024,
  /**
   * Sending calls in flight per process that are never refused as OVERLOADED: as many as an HTTP/2
   * connection has streams.
   */
  calmCalls: 250,
  /**
   * Messages that wait in a lane: the largest batch of each such call, all to one channel. Load
   * shedding refuses what would wait too long.
   */
  laneMessages: 250_000,
  /** Approximate bytes of memory that a message in a lane takes beside its payload. */
  messageOverheadBytes: 256,
  /**
   * Bytes that wait in all lanes together: those of as many request bodies as a process holds, and
   * of as many messages as wait in a lane.
   */
  lanesBytes: 320 * 1024 * 1024,
  /** Webhooks. */
  webhooks: 100,
  /** Messages per webhook POST. */
  webhookMessages: 100,
  /**
   * Bytes of payloads per webhook POST with several messages. In base64 this stays below 1 MB, the
   * default limit of common proxies.
   */
  webhookBytes: 512 * 1024,
  /**
   * Parallel deliveries per webhook. Channels are assigned to lanes; another number needs a
   * migration of the queues.
   */
  webhookLanes: 8,
  /**
   * Requests that wait for a pooled database connection: 0.2 s at 2 ms per page and 10
   * connections.
   */
  poolWaiting: 1000,
  /** Message ids per block of the database sequence. A transaction draws one block. */
  idsPerBlock: 4096,
} as const;

function assertRelation(holds: boolean, relation: string): void {
  if (!holds) throw new Error(`limits.ts: ${relation} does not hold`);
}

assertRelation(limits.batchMessagesAdvised <= limits.batchMessages, 'batchMessagesAdvised <= batchMessages');
assertRelation(limits.batchMessages <= limits.idsPerBlock, 'batchMessages <= idsPerBlock (one block numbers a batch)');
assertRelation(limits.groupMessages <= limits.idsPerBlock, 'groupMessages <= idsPerBlock (one block numbers a group)');
assertRelation(limits.batchMessages <= limits.groupMessages, 'batchMessages <= groupMessages');
assertRelation(
  limits.calmCalls * limits.batchMessages <= limits.laneMessages,
  'calmCalls * batchMessages <= laneMessages (a full lane refuses none of them)',
);
assertRelation(
  limits.bodiesBytes + limits.calmCalls * limits.batchMessages * limits.messageOverheadBytes <= limits.lanesBytes,
  'bodiesBytes + calmCalls * batchMessages * messageOverheadBytes <= lanesBytes (nor do full lanes)',
);
assertRelation(limits.requestBytes * 8 <= limits.bodiesBytes, 'requestBytes * 8 <= bodiesBytes');
assertRelation(limits.batchChannels === limits.batchMessages, 'batchChannels === batchMessages');
assertRelation(
  limits.requestIdBytes + 1 + String(limits.broadcastSubscribers - 1).length <= limits.clientMsgNoBytes,
  '<request_id>:<index> fits a client_msg_no',
);
assertRelation(
  limits.requestIdBytes + 1 + String(limits.submitMessages - 1).length <= limits.clientMsgNoBytes,
  '<request_id>:<index> of a submitted batch fits a client_msg_no',
);
assertRelation(
  limits.payloadBytes * (4 / 3) + 64 * 1024 < limits.chunkChars && limits.chunkChars < limits.requestBytes,
  'a chunk holds any message, and is no larger than a request',
);
assertRelation(
  limits.batchMessagesAdvised * limits.payloadBytes * (4 / 3) <= limits.requestBytes,
  'an advised batch of the largest payloads, in base64, fits a request',
);
assertRelation(limits.listPageDefault <= limits.listPage, 'listPageDefault <= listPage');
assertRelation(limits.pageMessagesDefault <= limits.pageMessages, 'pageMessagesDefault <= pageMessages');
