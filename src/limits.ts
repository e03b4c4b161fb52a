/**
 * Every bound of the service, in one place. `GetServerInfo` serves them, each stands in the error that it causes, and a test compares
 * them with the rules in the proto.
 */
export const limits = {
  /** Messages in a batch. */
  batchMessages: 1000,
  /** Messages in a batch that serve latency and throughput best; the documented page's own advice. */
  batchMessagesAdvised: 100,
  /** Channels in a batch: each message goes to one, so that the bound on messages enforces it. */
  batchChannels: 1000,
  /** Receivers of a broadcast; the largest call that legacy callers are told to make. */
  broadcastSubscribers: 10_000,
  /** Receivers that one message may name. */
  messageSubscribers: 10_000,
  /** Bytes of a payload. */
  payloadBytes: 64 * 1024,
  /** Bytes of a request, as sent and unpacked. */
  requestBytes: 16 * 1024 * 1024,
  /** Bytes of memory that the messages of a request may take beyond its own bytes, by an estimate. 100,000 messages with a template and two variables are at 58 MB. */
  parsedBytes: 64 * 1024 * 1024,
  /** Fields of one message in a request, and of the request beside its list of messages: parsed in one piece, in about 60 ms. */
  messageFields: 200_000,
  /** Elements of a list in JSON that has no bound of its own. */
  listElements: 100_000,
  /** Keys of one object in JSON. */
  objectKeys: 10_000,
  /**
   * Times that a packed body may grow when it is unpacked. Batches of equal payloads pack to a hundredth, bombs to a
   * thousandth.
   */
  unpackedRatio: 200,
  /** Bytes to which a body may be unpacked whatever its ratio. */
  unpackedFreeBytes: 1024 * 1024,
  /** Bytes of the message of a Connect GET, unpacked. */
  getMessageBytes: 8 * 1024,
  /** Bytes of all requests that a process holds. */
  bodiesBytes: 256 * 1024 * 1024,
  /** Bytes of one caller's calls that wait for their turns at rendering and moderation. */
  callerWaitingBytes: 64 * 1024 * 1024,
  /** Messages on a page. */
  pageMessages: 1000,
  /** Messages on a page when the caller names no limit. */
  pageMessagesDefault: 100,
  /** Bytes of payloads on a page: gRPC clients take 4 MiB unless told otherwise. */
  pageBytes: 3 * 1024 * 1024,
  /** Messages among which a key is looked for without its sender. */
  keySearchMessages: 10_000,
  /** Bytes of a template's text. */
  templateBytes: 64 * 1024,
  /** Tags and outputs of a template: parsed, each is about a kilobyte. */
  templateTags: 1000,
  /** Instructions that a pattern of a rule about content compiles to: at 0.1 µs per character and instruction, 64 kB take 13 s at the worst, of which a message gets one. */
  patternInstructions: 2000,
  /** Instructions of all patterns of all rules. */
  ruleInstructions: 100_000,
  /** Characters of all keywords of all rules: a second to build what finds them, and 30 MB. */
  ruleKeywordChars: 1_000_000,
  /** Messages of a batch that is sent in the background. */
  submitMessages: 100_000,
  /** Bytes of such a batch as it is submitted, when it comes as a stream or as NDJSON. */
  submitBytes: 256 * 1024 * 1024,
  /** Messages in one frame of such a stream. */
  submitFrame: 10_000,
  /** Characters of a chunk of such a batch: what is read, rendered and sent at once. */
  chunkChars: 6 * 1024 * 1024,
  /** Unfinished batches of a caller. */
  callerBatches: 10_000,
  /** Days ahead that a message may be scheduled. */
  scheduleDays: 366,
  /** Results on a page, and when the caller names no number. */
  resultsPage: 1000,
  /** Commands that a user is handed at once when it names no number. */
  commandsDefault: 200,
  /** Channels that a subscription names. */
  subscribeChannels: 100,
  /** Channels of a user that a subscription follows. */
  subscribedChannels: 10_000,
  /** Entries on a page of a list of uids. */
  listPage: 10_000,
  /** Entries on a page of a list of uids when the caller names no number. */
  listPageDefault: 1000,
  /** Uids that one call puts on a list, or takes off. */
  listChange: 100_000,
  /** Bytes of a uid and of a channel id. */
  idBytes: 256,
  /** Bytes of a client_msg_no. */
  clientMsgNoBytes: 128,
  /** Bytes of a request_id: `<request_id>:<index>` has to be a client_msg_no. */
  requestIdBytes: 120,
  /** Violations named in one error; a batch can break a thousand rules, an error detail has to stay readable and small. */
  violationsNamed: 100,
  /** Messages that share a commit at most. 4000 was 1.1 to 1.2 times as fast as 1000 with 10,000 in flight: the larger a group, the fewer heads a message. Each goes to one channel, so that it bounds those too. */
  groupMessages: 4000,
  /** Bytes that share a commit at most: what PostgreSQL then writes in one flight. */
  groupBytes: 4 * 1024 * 1024,
  /** Messages that wait in a lane at most: at 15,000 a second and lane, one second. */
  laneMessages: 16_000,
  /** Bytes that wait in a lane at most. */
  laneBytes: 64 * 1024 * 1024,
  /** Webhooks. */
  webhooks: 100,
  /** Messages in a POST to a webhook. */
  webhookMessages: 100,
  /** Bytes of payloads in a POST to a webhook, if it has more than one message: in base64 it is below the 1 MB that proxies take unless told otherwise. */
  webhookBytes: 512 * 1024,
  /** Deliveries that a webhook gets at once: channels are parted among as many lanes. Those of what is queued stay in their lanes; another number needs a migration. */
  webhookLanes: 8,
  /** What waits for a connection to the database at most, besides the lanes: at 2 ms a page and 10 connections, a fifth of a second. */
  poolWaiting: 1000,
  /** Message ids that one block of the database's sequence holds; a transaction draws one block. */
  idsPerBlock: 4096,
} as const;

function assertRelation(holds: boolean, relation: string): void {
  if (!holds) throw new Error(`limits.ts: ${relation} does not hold`);
}

assertRelation(limits.batchMessagesAdvised <= limits.batchMessages, 'batchMessagesAdvised <= batchMessages');
assertRelation(limits.batchMessages <= limits.idsPerBlock, 'batchMessages <= idsPerBlock (one block numbers a batch)');
assertRelation(limits.groupMessages <= limits.idsPerBlock, 'groupMessages <= idsPerBlock (one block numbers a group)');
assertRelation(limits.batchMessages <= limits.groupMessages, 'batchMessages <= groupMessages');
assertRelation(limits.requestBytes <= limits.laneBytes, 'requestBytes <= laneBytes');
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
