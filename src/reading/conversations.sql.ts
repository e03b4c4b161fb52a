import { sql } from 'kysely';
import { followed } from '../messages/member-lists.sql.ts';
import {
  alive,
  type MessageRow,
  messageColumns,
  type StoredMessage,
  toStored,
  visibleTo,
} from '../messages/messages-read.sql.ts';
import type { Db, Tx } from '../postgres/schema.ts';

/** A channel of a user, as its list of conversations shows it. */
export interface ConversationRow {
  readonly channelKey: number;
  readonly channelId: string;
  readonly channelType: number;
  readonly lastSeq: number;
  readonly readSeq: number;
  readonly unread: number;
  /** The newest message visible to the user. */
  readonly last: StoredMessage | undefined;
}

/** Start of a page: after the conversation with this newest message and key. */
export interface ConversationCursor {
  readonly messageId: number;
  readonly channelKey: number;
}

/** Unread messages counted at most. */
const unreadCounted = 999;
/**
 * Messages at the end of a channel that are searched for a conversation's newest and its unread
 * ones. Without a bound a channel of a million messages without `red_dot`, or for others, takes 0.5
 * s per call.
 */
const examinedMessages = 10_000;

/** Whether a user may see a message `m` now. */
const seen = (uid: string, now: number) => sql`${alive(now)} and ${visibleTo(uid)}`;

export async function listConversations(
  db: Db,
  uid: string,
  before: ConversationCursor | undefined,
  limit: number,
  now: number,
): Promise<ConversationRow[]> {
  const from = before ?? { messageId: Number.MAX_SAFE_INTEGER, channelKey: 0 };
  const { rows } = await sql<
    {
      channel_key: number;
      channel_id: string;
      channel_type: number;
      last_seq: number;
      read_seq: number;
      unread: string;
    } & (MessageRow | { message_id: null })
  >`
    with page as materialized (
      select u.channel_key, c.channel_id, c.channel_type, h.last_seq, coalesce(u.joined_seq, 0) as joined_seq,
        coalesce(last.message_id, 0) as last_id, last.message_seq
      from sendbatch.channel_uid u
      join sendbatch.channel c using (channel_key)
      join sendbatch.channel_head h using (channel_key)
      left join sendbatch.channel_info i using (channel_key)
      left join lateral (
        select m.message_id, m.message_seq from sendbatch.message m
        where m.channel_key = u.channel_key and m.message_seq > h.last_seq - ${examinedMessages} and ${seen(uid, now)}
        order by m.message_seq desc limit 1
      ) last on true
      where ${followed(uid)}
        and (coalesce(last.message_id, 0), u.channel_key) < (${from.messageId}::bigint, ${from.channelKey}::bigint)
      order by last_id desc, u.channel_key desc
      limit ${limit}
    ), read as (
      select p.*, greatest(r.read_seq, p.joined_seq) as read_seq
      from page p left join sendbatch.read_cursor r on r.uid = ${uid} and r.channel_key = p.channel_key
    )
    select p.channel_key, p.channel_id, p.channel_type, p.last_seq, p.read_seq, (
        select count(*) from (
          select from sendbatch.message m
          where m.channel_key = p.channel_key
            and m.message_seq > greatest(p.read_seq, p.last_seq - ${examinedMessages})
            and m.flags & 2 <> 0 and m.from_uid <> ${uid} and ${seen(uid, now)}
          limit ${unreadCounted}) as counted
      ) as unread, ${messageColumns}
    from read p left join sendbatch.message m on m.channel_key = p.channel_key and m.message_seq = p.message_seq
    order by p.last_id desc, p.channel_key desc`.execute(db);
  return rows.map((row) => ({
    channelKey: row.channel_key,
    channelId: row.channel_id,
    channelType: row.channel_type,
    lastSeq: row.last_seq,
    readSeq: row.read_seq,
    unread: Number(row.unread),
    last: row.message_id === null ? undefined : toStored(row),
  }));
}

/**
 * Advances a user's read cursor, never back and never beyond the head; `seq` 0 is the head. Returns
 * the head.
 */
export async function markRead(db: Db, uid: string, channelKey: number, seq: number): Promise<number> {
  const { rows } = await sql<{ last_seq: number }>`
    with head as (select last_seq from sendbatch.channel_head where channel_key = ${channelKey}), noted as (
      insert into sendbatch.read_cursor as r (uid, channel_key, read_seq)
      select ${uid}, ${channelKey}::bigint, case when ${seq}::bigint = 0 then last_seq else ${seq}::bigint end
      from head where ${seq}::bigint <= last_seq
      on conflict (uid, channel_key) do update set read_seq = greatest(r.read_seq, excluded.read_seq)
    )
    select last_seq from head`.execute(db);
  return rows[0]?.last_seq ?? 0;
}

/**
 * Starts read cursors of new members at the head, unless they have one: a new member has nothing
 * unread.
 */
export async function beginCursors(tx: Tx, channelKey: number, uids: readonly string[]): Promise<void> {
  await sql`
    insert into sendbatch.read_cursor (uid, channel_key, read_seq)
    select w.uid, h.channel_key, h.last_seq from sendbatch.channel_head h, unnest(${[...uids]}::text[]) as w(uid)
    where h.channel_key = ${channelKey}
    on conflict do nothing`.execute(tx);
}
