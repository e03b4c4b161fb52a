/**
 * What statements that read messages share: conditions, columns, rows, a binary search. `m` is the
 * message's table.
 */
import { type Expression, type RawBuilder, sql } from 'kysely';
import type { Db, MessageTable } from '../postgres/schema.ts';
import { flagRecalled, flagWasRestricted } from './message.ts';
import type { StoredMessage } from './stored-row.ts';

/** The user that reads; undefined for a service, which sees every message. */
export interface Eyes {
  readonly viewerUid: string | undefined;
}

/** What a message `m` that has not expired is, up to `>` and the time in milliseconds. */
const expiry = 'm.expire is null or m.accepted_at + m.expire * 1000';
/** `alive` for the text of a statement: the time is its parameter. */
export const aliveAt = (parameter: string) => `(${expiry} > ${parameter}::bigint)`;
/** Whether a message `m` is for everybody who may read its channel. */
export const isForAll = `m.subscribers is null and m.flags & ${flagWasRestricted} = 0`;
/** Whether a message `m` was not recalled. */
export const isNotRecalled = `m.flags & ${flagRecalled} = 0`;

/** Whether a message `m` has not expired at `now` (milliseconds). */
export const alive = (now: number) => sql<boolean>`(${sql.raw(expiry)} > ${now}::bigint)`;

/** Whether a message `m` is visible to a uid. */
export const visibleTo = (uid: string) =>
  sql<boolean>`((${sql.raw(isForAll)}) or m.from_uid = ${uid} or m.subscribers ? ${uid})`;

/** The columns of a message `m` that a reader receives, for the text of a statement. */
export const messageColumnNames = `m.message_id, m.message_seq, m.accepted_at, m.flags, m.from_uid, m.client_msg_no,
  m.payload, m.expire, m.stream_no, m.tag_key, m.subscribers, m.changed`;

/** The columns of a message `m` that a reader receives. */
export const messageColumns = sql.raw(messageColumnNames);

/**
 * The messages of a channel that have not expired at `now` (milliseconds) and are visible to the
 * viewer.
 */
export function visible(db: Db, channelKey: number, { viewerUid: eyes }: Eyes, now: number) {
  const living = db
    .selectFrom('sendbatch.message as m')
    .select(['m.message_id', 'm.message_seq', 'm.accepted_at', 'm.flags', 'm.from_uid', 'm.client_msg_no'])
    .select(['m.payload', 'm.expire', 'm.stream_no', 'm.tag_key', 'm.subscribers', 'm.changed'])
    .where('m.channel_key', '=', channelKey)
    .where(alive(now));
  return eyes === undefined ? living : living.where(visibleTo(eyes));
}

/**
 * The messages `m` of a query, each with the bytes of those before it. Sizes are known without
 * reading TOASTed values, so that a thousand of the largest messages are not fetched to be cut to a
 * page of 3 MiB.
 */
export const withSizesBefore = (messages: Expression<unknown> | RawBuilder<unknown>, order: RawBuilder<unknown>) => sql`
  select m.*, coalesce(sum(octet_length(m.payload) + coalesce(pg_column_size(m.subscribers), 0))
    over (order by ${order} rows between unbounded preceding and 1 preceding), 0) as bytes_before
  from ${messages} m`;

/**
 * The step `halving` of a recursive statement: where `low >= high`, `low` is the first sequence of a
 * channel from which on no message is below the value. These columns never decrease with the
 * sequence, so a binary search takes log2(length) probes. Swept messages leave gaps: each probe
 * takes the first kept message from the middle on.
 */
export function halving(
  channelKey: RawBuilder<unknown>,
  column: 'accepted_at' | 'message_id',
  value: RawBuilder<unknown>,
): RawBuilder<unknown> {
  const found = sql.ref(column);
  return sql`halving(low, high) as (
      select 1::bigint, last_seq + 1 from sendbatch.channel_head where channel_key = ${channelKey}
      union all
      select case when m.${found} < ${value} then m.message_seq + 1 else h.low end,
        case when m.${found} < ${value} then h.high else (h.low + h.high) / 2 end
      from halving h
      left join lateral (
        select ${found}, message_seq from sendbatch.message
        where channel_key = ${channelKey} and message_seq >= (h.low + h.high) / 2 and message_seq < h.high
        order by message_seq limit 1
      ) m on true
      where h.low < h.high
    )`;
}

/** A row of `messageColumns`. */
export type MessageRow = Pick<
  MessageTable,
  | 'message_id'
  | 'message_seq'
  | 'accepted_at'
  | 'flags'
  | 'from_uid'
  | 'client_msg_no'
  | 'payload'
  | 'expire'
  | 'stream_no'
  | 'tag_key'
  | 'subscribers'
  | 'changed'
>;

export function toStored(row: MessageRow): StoredMessage {
  return {
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
    ...(row.changed === null ? {} : { changes: row.changed }),
  };
}
