import { sql } from 'kysely';
import type { Prepared } from '../domain/message.ts';
import type { Earlier } from '../domain/plan.ts';
import type { Db, Tx } from './database.ts';

/** A message and the surrogate key of its channel. */
export interface Keyed {
  readonly channelKey: number;
  readonly message: Prepared;
}

/** A numbered message, to be stored. */
export interface NewRow extends Keyed {
  readonly messageId: number;
  readonly messageSeq: number;
}

/**
 * The messages among these that were stored before, by message key. Under the heads' locks it sees every send that came first, provided that
 * it is a statement of its own after the one that waited for the locks: that one still has its old snapshot.
 *
 * `lateral … limit 1` makes it an index probe a message; as a plain join it was planned as a full scan on an empty table.
 */
export async function findEarlier(db: Db | Tx, messages: readonly Keyed[]): Promise<Map<string, Earlier>> {
  const { rows } = await sql<{ ordinal: number; message_id: number; message_seq: number; content_hash: Buffer }>`
    select w.ordinal, m.message_id, m.message_seq, m.content_hash
    from unnest(${messages.map((each) => each.channelKey)}::bigint[], ${messages.map((each) => each.message.dedupeKey)}::uuid[])
      with ordinality as w(channel_key, dedupe_key, ordinal)
    cross join lateral (
      select m.message_id, m.message_seq, m.content_hash from sendbatch.message m
      where m.channel_key = w.channel_key and m.dedupe_key = w.dedupe_key
      limit 1
    ) m`.execute(db);
  const earlier = new Map<string, Earlier>();
  for (const row of rows) {
    const keyed = messages[row.ordinal - 1];
    if (keyed === undefined) throw new Error(`ordinal ${row.ordinal} of ${messages.length}`);
    earlier.set(keyed.message.key, {
      messageId: row.message_id,
      messageSeq: row.message_seq,
      contentHash: row.content_hash,
    });
  }
  return earlier;
}

/** Draws a block of message ids. Drawn under the heads' locks, ids rise with the sequence within a channel. */
export async function drawBlock(db: Db | Tx): Promise<number> {
  const { rows } = await sql<{ block: number }>`select nextval('sendbatch.message_block') as block`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('nextval returned no row');
  return row.block;
}

/** Writes what was decided, in one statement: the new heads and the rows. */
export async function write(
  tx: Tx,
  heads: readonly { channelKey: number; lastSeq: number }[],
  rows: readonly NewRow[],
  acceptedAt: number,
): Promise<void> {
  const of = <T>(column: (row: NewRow) => T): T[] => rows.map(column);
  await sql`
    with head as (
      update sendbatch.channel_head h set last_seq = w.last_seq
      from unnest(${heads.map((head) => head.channelKey)}::bigint[], ${heads.map((head) => head.lastSeq)}::bigint[])
        as w(channel_key, last_seq)
      where h.channel_key = w.channel_key
    )
    insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash,
      from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers)
    select channel_key, message_seq, message_id, ${acceptedAt}::bigint, dedupe_key, flags, content_hash,
      from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers::jsonb
    from unnest(
      ${of((row) => row.channelKey)}::bigint[],
      ${of((row) => row.messageSeq)}::bigint[],
      ${of((row) => row.messageId)}::bigint[],
      ${of((row) => row.message.dedupeKey)}::uuid[],
      ${of((row) => row.message.flags)}::smallint[],
      ${of((row) => row.message.contentHash)}::bytea[],
      ${of((row) => row.message.fromUid)}::text[],
      ${of((row) => row.message.clientMsgNo)}::text[],
      ${of((row) => Buffer.from(row.message.payload.buffer, row.message.payload.byteOffset, row.message.payload.byteLength))}::bytea[],
      ${of((row) => row.message.expire || null)}::bigint[],
      ${of((row) => row.message.streamNo || null)}::text[],
      ${of((row) => row.message.tagKey || null)}::text[],
      ${of((row) => (row.message.subscribers.length > 0 ? JSON.stringify(row.message.subscribers) : null))}::text[]
    ) as w(channel_key, message_seq, message_id, dedupe_key, flags, content_hash,
      from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers)`.execute(tx);
}

/** A stored message, as history reads it. */
export interface StoredMessage {
  readonly messageId: number;
  readonly messageSeq: number;
  readonly acceptedAt: number;
  readonly flags: number;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  readonly payload: Buffer;
  readonly expire: number;
  readonly streamNo: string;
  readonly tagKey: string;
  readonly subscribers: readonly string[];
}

/** Which part of a channel to read: sequences between the two bounds, both exclusive. */
export interface Range {
  readonly afterSeq: number;
  readonly beforeSeq: number;
  readonly limit: number;
  readonly descending: boolean;
}

/** The messages of a range that are alive at `now` (milliseconds), at most `limit`. */
export async function readRange(db: Db, channelKey: number, range: Range, now: number): Promise<StoredMessage[]> {
  const rows = await db
    .selectFrom('sendbatch.message')
    .select(['message_id', 'message_seq', 'accepted_at', 'flags', 'from_uid', 'client_msg_no'])
    .select(['payload', 'expire', 'stream_no', 'tag_key', 'subscribers'])
    .where('channel_key', '=', channelKey)
    .where('message_seq', '>', range.afterSeq)
    .where('message_seq', '<', range.beforeSeq)
    .where((eb) => eb.or([eb('expire', 'is', null), sql<boolean>`accepted_at + expire * 1000 > ${now}::bigint`]))
    .orderBy('message_seq', range.descending ? 'desc' : 'asc')
    .limit(range.limit)
    .execute();
  return rows.map((row) => ({
    messageId: row.message_id,
    messageSeq: row.message_seq,
    acceptedAt: row.accepted_at,
    flags: row.flags,
    fromUid: row.from_uid,
    clientMsgNo: row.client_msg_no,
    payload: row.payload,
    expire: row.expire ?? 0,
    streamNo: row.stream_no ?? '',
    tagKey: row.tag_key ?? '',
    subscribers: row.subscribers ?? [],
  }));
}
