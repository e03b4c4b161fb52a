import type { Generated, Kysely, Transaction } from 'kysely';

/** The database, or a transaction in it. */
export type Db = Kysely<Tables>;
/** A function that needs the locks of a transaction takes this. */
export type Tx = Transaction<Tables>;

/**
 * The tables, as Kysely sees them; `migrations/` makes them and says why each index is there. All live in the PostgreSQL schema
 * `sendbatch`, so that the service is a quiet guest in a database that others use too. bigint columns are read as numbers: every value
 * in them is at most 2^53-1, and the parser in `pool.ts` throws on a larger one.
 */
export interface Tables {
  'sendbatch.channel': ChannelTable;
  'sendbatch.channel_head': ChannelHeadTable;
  'sendbatch.message': MessageTable;
}

interface ChannelTable {
  channel_key: Generated<number>;
  channel_type: number;
  /** 0 messages, 1 commands. */
  sequence: number;
  channel_id: string;
  /** Milliseconds since 1970; kept for channels of types that have a retention. */
  oldest_at: Generated<number>;
  look_at: Generated<number>;
}

interface ChannelHeadTable {
  channel_key: number;
  last_seq: number;
}

export interface MessageTable {
  channel_key: number;
  message_seq: number;
  message_id: number;
  /** Milliseconds since 1970, by the database's clock. */
  accepted_at: number;
  dedupe_key: string;
  flags: number;
  content_hash: Buffer;
  from_uid: string;
  client_msg_no: string;
  payload: Buffer;
  /** Seconds from accepted_at; null = never. */
  expire: number | null;
  stream_no: string | null;
  tag_key: string | null;
  subscribers: string[] | null;
}
