import type { Generated, Kysely, Transaction } from 'kysely';

/** The database, or a transaction in it. */
export type Db = Kysely<Tables>;
/** The parameter of a function that needs the locks of a transaction. */
export type Tx = Transaction<Tables>;

/**
 * All tables as Kysely sees them, in the PostgreSQL schema `sendbatch`. `migrations/` creates them
 * and says why each index exists; a test compares these types with a migrated database. Times are
 * milliseconds since 1970 unless a comment says otherwise. bigint columns are read as numbers:
 * every value is at most 2^53-1, and the parser in `pool.ts` throws on a larger one.
 */
export interface Tables {
  'sendbatch.api_key': ApiKeyTable;
  'sendbatch.batch': BatchTable;
  'sendbatch.batch_chunk': BatchChunkTable;
  'sendbatch.channel': ChannelTable;
  'sendbatch.channel_head': ChannelHeadTable;
  'sendbatch.channel_info': ChannelInfoTable;
  'sendbatch.channel_uid': ChannelUidTable;
  'sendbatch.command_head': CommandHeadTable;
  'sendbatch.command_inbox': CommandInboxTable;
  'sendbatch.command_taken': CommandTakenTable;
  'sendbatch.delivery_cursor': DeliveryCursorTable;
  'sendbatch.flagged_message': FlaggedMessageTable;
  'sendbatch.instance': InstanceTable;
  'sendbatch.live_message': LiveMessageTable;
  'sendbatch.message': MessageTable;
  'sendbatch.message_change': MessageChangeTable;
  'sendbatch.message_copy': MessageCopyTable;
  'sendbatch.migration_checksum': MigrationChecksumTable;
  'sendbatch.moderation_rule': ModerationRuleTable;
  'sendbatch.moderation_version': ModerationVersionTable;
  'sendbatch.person': PersonTable;
  'sendbatch.person_uid': PersonUidTable;
  'sendbatch.rate': RateTable;
  'sendbatch.read_cursor': ReadCursorTable;
  'sendbatch.shard_layout': ShardLayoutTable;
  'sendbatch.shard_split': ShardSplitTable;
  'sendbatch.swept': SweptTable;
  'sendbatch.system_uid': SystemUidTable;
  'sendbatch.template': TemplateTable;
  'sendbatch.template_deleted': TemplateDeletedTable;
  'sendbatch.webhook': WebhookTable;
  'sendbatch.webhook_change_queue': WebhookChangeQueueTable;
  'sendbatch.webhook_lane': WebhookLaneTable;
  'sendbatch.webhook_outbox': WebhookOutboxTable;
  'sendbatch.webhook_parked': WebhookParkedTable;
  'sendbatch.webhook_queue': WebhookQueueTable;
}

/** API keys; the secret is stored as a hash. */
interface ApiKeyTable {
  key_id: string;
  /** SHA-256 of the secret half. */
  secret_hash: Buffer;
  name: string;
  scopes: string[];
  senders: string[] | null;
  rate_per_second: number | null;
  created_at: number;
  expires_at: number | null;
  revoked_at: number | null;
  created_by: string | null;
  revoked_by: string | null;
}

/** Submitted batches. */
interface BatchTable {
  batch_id: string;
  created_at: number;
  send_at: number | null;
  received_at: number | null;
  started_at: number | null;
  ended_at: number | null;
  /** When the next chunk is due; null when the batch has ended or is being received. */
  due_at: number | null;
  /** Chunk slots used, by which batches of a caller take slots in fair order. */
  turns_taken: number;
  stalled_since: number | null;
  priority: number;
  message_count: number;
  accepted_count: Generated<number>;
  duplicate_count: Generated<number>;
  refused_count: Generated<number>;
  attempts: Generated<number>;
  in_flight: Generated<boolean>;
  state: string;
  caller_id: string;
  caller: unknown;
  name: string;
  request_id: string;
  content_hash: Buffer;
  templates: string;
  last_refusal: unknown;
  cancelled_by: string | null;
  cancelled_at: number | null;
  recalled_by: string | null;
  recall_requested_at: number | null;
  /** When its next chunks are recalled; null when none are left. */
  recall_due_at: number | null;
  recall_ended_at: number | null;
  /** Messages accepted earlier are too old to be recalled; null: none is. */
  recall_not_before: number | null;
  recalled_count: Generated<number>;
  recall_refused_count: Generated<number>;
  recall_missing_count: Generated<number>;
}

/** Parts of a submitted batch that are sent at once. */
interface BatchChunkTable {
  batch_id: string;
  ordinal: number;
  due_at: number;
  begun: Generated<boolean>;
  settled: Generated<boolean>;
  /** JSON of the drafts, with Base64 payloads. */
  drafts: string;
  results: string | null;
  waits_until: number | null;
  blocked: Generated<boolean>;
  under_way: Generated<boolean>;
  begun_at: number | null;
  attempts: Generated<number>;
  stalled_since: number | null;
  waiting: string | null;
  /** Whether its messages were recalled. */
  recalled: Generated<boolean>;
}

/** Channels: surrogate keys of type, sequence and id. */
interface ChannelTable {
  channel_key: Generated<number>;
  channel_type: number;
  /** 0 messages, 1 commands. */
  sequence: number;
  channel_id: string;
  /** Acceptance time of the oldest kept message; kept for channel types that have a retention. */
  oldest_at: Generated<number>;
  /** When the sweeper checks a temporary channel again. */
  look_at: Generated<number>;
}

/** The last sequence of each channel: the row that senders lock. */
interface ChannelHeadTable {
  channel_key: number;
  /** The number of the last message: the row that senders lock. */
  last_seq: Generated<number>;
  /** Acceptance time of the last message: never decreases. */
  last_at: Generated<number>;
  /** The number of the last change of a message; null: none. */
  last_change: number | null;
}

/** Flags of channels. */
interface ChannelInfoTable {
  channel_key: number;
  created_at: number;
  updated_at: number;
  large: Generated<boolean>;
  ban: Generated<boolean>;
  disband: Generated<boolean>;
  send_ban: Generated<boolean>;
  allow_stranger: Generated<boolean>;
}

/** Members, denylist and allowlist of channels. */
interface ChannelUidTable {
  channel_key: number;
  uid: string;
  created_at: number;
  updated_at: number;
  member: Generated<boolean>;
  denied: Generated<boolean>;
  allowed: Generated<boolean>;
  joined_seq: number | null;
  joined_command_seq: number | null;
}

/** The last command number of each user. */
interface CommandHeadTable {
  uid: string;
  last_seq: Generated<number>;
  acked_seq: Generated<number>;
}

/** Commands of each user in its own numbering. */
interface CommandInboxTable {
  uid: string;
  command_seq: number;
  channel_key: number;
  message_seq: number;
}

/** How far a channel of commands was examined for a user. */
interface CommandTakenTable {
  uid: string;
  channel_key: number;
  taken_seq: number;
}

/** How far channels were delivered to users. */
interface DeliveryCursorTable {
  uid: string;
  channel_key: number;
  delivered_seq: number;
}

/** Messages flagged by moderation. */
interface FlaggedMessageTable {
  message_id: number;
  channel_key: number;
  message_seq: number;
  rule_ids: number[];
  flagged_at: number;
}

/** Processes of the service, each with what it last reported. */
interface InstanceTable {
  instance_id: string;
  report: string;
  seen_at: number;
}

/** Ephemeral messages on their way to other instances. */
interface LiveMessageTable {
  live_id: Generated<number>;
  sent_at: number;
  /** A message with no_persist on its way to other instances. */
  body: unknown;
}

/** Messages. */
export interface MessageTable {
  channel_key: number;
  message_seq: number;
  message_id: number;
  /** Milliseconds since 1970, database time. */
  accepted_at: number;
  /** 16 bytes of a digest of sender and client_msg_no. */
  dedupe_key: string;
  flags: number;
  content_hash: Buffer;
  from_uid: string;
  client_msg_no: string;
  payload: Buffer;
  /** Seconds from accepted_at; null: never. */
  expire: number | null;
  stream_no: string | null;
  tag_key: string | null;
  /** Receivers of a command, as a JSON array. */
  subscribers: string[] | null;
  /** Null: the message is as it was sent. */
  changed: MessageChanges | null;
}

/** How a message differs from what was sent, as JSON. */
export interface MessageChanges {
  readonly revision: number;
  readonly editedAt?: number;
  readonly recalledAt?: number;
  readonly recalledBy?: string;
}

/** The changes of each channel, numbered. */
interface MessageChangeTable {
  channel_key: number;
  change_no: number;
  message_seq: number;
  /** 1 edited, 2 recalled. */
  kind: number;
  changed_at: number;
  /** The channel's last message when it changed. */
  after_seq: Generated<number>;
  /** Not routed to webhooks yet. */
  to_route: Generated<boolean>;
}

/** Contents that edits and recalls replaced, while RECALL_KEEP_DAYS keeps them. */
interface MessageCopyTable {
  channel_key: number;
  message_seq: number;
  /** Of the content; 0: as it was sent. */
  revision: number;
  /** Of the change that replaced it. */
  kind: number;
  payload: Buffer;
  subscribers: string[] | null;
  copied_at: number;
}

/** Checksums of applied migrations. */
interface MigrationChecksumTable {
  name: string;
  checksum: string;
}

/** Moderation rules. */
interface ModerationRuleTable {
  rule_id: Generated<number>;
  action: string;
  keywords: string[];
  patterns: string[];
  channel_types: number[];
  tag_keys: string[];
  note: string;
}

/** Changes with every change of a rule. */
interface ModerationVersionTable {
  version: number;
}

/** Flags of users. */
interface PersonTable {
  /** A user: its flags. */
  uid: string;
  created_at: number;
  updated_at: number;
  large: Generated<boolean>;
  ban: Generated<boolean>;
  disband: Generated<boolean>;
  send_ban: Generated<boolean>;
  allow_stranger: Generated<boolean>;
}

/** Denylist and allowlist of users. */
interface PersonUidTable {
  owner: string;
  uid: string;
  created_at: number;
  updated_at: number;
  denied: Generated<boolean>;
  allowed: Generated<boolean>;
}

/** Windows of shared rate limits. */
interface RateTable {
  key: string;
  points: Generated<number>;
  /** End of the window, in milliseconds since 1970. */
  expire: number | null;
}

/** How far a user has read a channel. */
interface ReadCursorTable {
  uid: string;
  channel_key: number;
  read_seq: number;
}

/** The split under way, in at most one row. */
interface ShardSplitTable {
  shards_before: number;
  shards: number;
  step: string;
  last_key: number;
  last_seq: number;
}

/** The number of shards, in at most one row. */
interface ShardLayoutTable {
  shards: number;
  /** Whether the schemas of all shards exist. */
  is_ready: boolean;
  /** Blocks of ids up to this one were drawn before the last split. */
  split_block: Generated<number>;
}

/** Messages removed per channel. */
interface SweptTable {
  channel_key: number;
  /** Messages removed by the sweeper, for `verify`. */
  messages: number;
  /** Their changes. */
  changes: Generated<number>;
}

/** System users. */
interface SystemUidTable {
  uid: string;
}

/** Templates. */
interface TemplateTable {
  name: string;
  version: number;
  body: string;
  format: string;
  created_at: number;
}

/** Deleted templates that scheduled batches may still use. */
interface TemplateDeletedTable {
  name: string;
  version: number;
  deleted_at: number;
}

/** Webhooks. */
interface WebhookTable {
  webhook_key: Generated<number>;
  name: string;
  url: string;
  format: string;
  channel_types: number[];
  disabled_by: string | null;
  batch_size: number;
  max_wait_ms: number;
  secret: string;
  previous_secret: string | null;
  previous_until: number | null;
  created_at: number;
  updated_at: number;
  failures: Generated<number>;
  paused_until: Generated<number>;
}

/** Lanes of webhooks: leases, and the delivery in progress. */
interface WebhookLaneTable {
  webhook_key: number;
  lane: number;
  token: string | null;
  leased_until: Generated<number>;
  next_at: Generated<number>;
  delivery_id: number | null;
  message_id: string | null;
  /** Ranges of the delivery in progress. */
  ranges: unknown;
  attempts: Generated<number>;
  last_status: number | null;
  last_error: string | null;
  created_at: number | null;
  /** Of a delivery of changes: their kind and ranges. */
  changes: unknown;
}

/** Stored ranges that are not routed to webhooks yet. */
interface WebhookOutboxTable {
  outbox_id: Generated<number>;
  channel_key: number;
  first_seq: number;
  last_seq: number;
}

/** Deliveries that failed for good. */
interface WebhookParkedTable {
  delivery_id: number;
  webhook_key: number;
  message_id: string;
  ranges: unknown;
  attempts: number;
  last_status: number | null;
  last_error: string | null;
  created_at: number;
  parked_at: number;
  redeliver: Generated<boolean>;
  changes: unknown;
}

/** Ranges of changes that wait for delivery, per webhook and channel. */
interface WebhookChangeQueueTable {
  webhook_key: number;
  channel_key: number;
  lane: number;
  queued_id: Generated<number>;
  first_change: number;
  last_change: number;
  since: number;
}

/** Ranges that wait for delivery, per webhook and channel. */
interface WebhookQueueTable {
  webhook_key: number;
  channel_key: number;
  lane: number;
  queued_id: Generated<number>;
  first_seq: number;
  last_seq: number;
  since: number;
}
