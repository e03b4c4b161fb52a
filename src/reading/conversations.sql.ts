import { sql } from 'kysely';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { followedKeys } from '../messages/member-lists.sql.ts';
import { alive, type MessageRow, messageColumns, toStored, visibleTo } from '../messages/message-select.sql.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import { bigintArray } from '../postgres/binary-array.ts';
import { byShard } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { all, runByKey } from '../postgres/sql.ts';

/** A channel of a user, as its list of conversations shows it. */
export interface ConversationRow {
  readonly channelKey: number;
  readonly channelId: string;
  readonly channelType: number;
  readonly lastSeq: number;
  readonly readSeq: number;
  readonly unread: number;
  /**
   * What orders conversations: the id of the newest message visible to the user, or its acceptance
   * time where there are several shards, whose ids do not tell which is newer; 0: there is none.
   */
  readonly place: number;
  /** The newest message visible to the user. */
  readonly last: StoredMessage | undefined;
}

/** Start of a page: after the conversation with this place and key. */
export interface ConversationCursor {
  readonly place: number;
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

/** Lists conversations of a user, the newest first, at most `limit`. */
export async function listConversations(
  store: ChannelStore,
  uid: string,
  before: ConversationCursor | undefined,
  limit: number,
  now: number,
): Promise<ConversationRow[]> {
  const { db, channelKeys } = store;
  const from = before ?? { place: Number.MAX_SAFE_INTEGER, channelKey: 0 };
  const page = await newestOf(store, await followedKeys(store, uid), { uid, from, limit, now });
  const keys = page.map((each) => each.channelKey);
  const [names, cursors] = await all([channelKeys.names(keys), readCursors(db, uid, keys)]);
  const newest = page.map((each) => ({
    ...each,
    readSeq: Math.max(cursors.get(each.channelKey) ?? 0, each.joinedSeq),
  }));
  const contents = await contentsOf(store, newest, uid, now);
  return newest.flatMap(({ channelKey, lastSeq, readSeq, place }) => {
    const channel = names.get(channelKey);
    if (channel === undefined) return [];
    const { unread, last } = contents.get(channelKey) ?? { unread: 0, last: undefined };
    return [{ channelKey, channelId: channel.id, channelType: channel.type, lastSeq, readSeq, unread, place, last }];
  });
}

/** A conversation in the order of the list. */
interface Newest {
  readonly channelKey: number;
  readonly lastSeq: number;
  readonly joinedSeq: number;
  readonly place: number;
  readonly messageSeq: number;
}

/**
 * The first of these channels by their newest visible messages, after a cursor: at most `limit`.
 */
async function newestOf(
  { db, shards }: ChannelStore,
  channelKeys: readonly number[],
  at: { readonly uid: string; readonly from: ConversationCursor; readonly limit: number; readonly now: number },
): Promise<Newest[]> {
  const { uid, from, limit, now } = at;
  const place = sql.ref(shards.count === 1 ? 'm.message_id' : 'm.accepted_at');
  const keys = { items: channelKeys, channelKeyOf: (channelKey: number) => channelKey };
  const ofShards = await byShard(db, shards, keys, async (shard, own) => {
    const query = sql<{
      channel_key: number;
      last_seq: number;
      joined_seq: number;
      place: number;
      message_seq: number | null;
    }>`
      select p.*, coalesce(u.joined_seq, 0) as joined_seq
      from (
        select w.channel_key, h.last_seq, coalesce(last.place, 0) as place, last.message_seq
        from unnest(${bigintArray(own)}::bigint[]) as w(channel_key)
        join sendbatch.channel_head h on h.channel_key = w.channel_key
        left join lateral (
          select ${place} as place, m.message_seq from sendbatch.message m
          where m.channel_key = w.channel_key and m.message_seq > h.last_seq - ${examinedMessages} and ${seen(uid, now)}
          order by m.message_seq desc limit 1
        ) last on true
        where (coalesce(last.place, 0), w.channel_key) < (${from.place}::bigint, ${from.channelKey}::bigint)
        order by place desc, w.channel_key desc
        limit ${limit}
      ) p
      left join lateral (
        select joined_seq from sendbatch.channel_uid u where u.channel_key = p.channel_key and u.uid = ${uid} limit 1
      ) u on true`;
    return await runByKey(shard, shards.count === 1 ? 'newest by id' : 'newest by time', query);
  });
  const newest = ofShards.flat().map((row) => ({
    channelKey: row.channel_key,
    lastSeq: row.last_seq,
    joinedSeq: row.joined_seq,
    place: row.place,
    messageSeq: row.message_seq ?? 0,
  }));
  return newest.sort((a, b) => b.place - a.place || b.channelKey - a.channelKey).slice(0, limit);
}

/** How far a user has read these channels, by channel key. */
async function readCursors(db: Db, uid: string, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const query = sql<{ channel_key: number; read_seq: number }>`
    select channel_key, read_seq from sendbatch.read_cursor
    where uid = ${uid} and channel_key = any(${bigintArray(channelKeys)}::bigint[])`;
  const rows = await runByKey(db, 'read cursors of a user', query);
  return new Map(rows.map((row) => [row.channel_key, row.read_seq]));
}

/** The newest message of a conversation, and the number of unread ones up to its head. */
interface Contents {
  readonly unread: number;
  readonly last: StoredMessage | undefined;
}

/** The contents of these conversations, by channel key. */
async function contentsOf(
  { db, shards }: ChannelStore,
  newest: readonly (Newest & { readonly readSeq: number })[],
  uid: string,
  now: number,
): Promise<Map<number, Contents>> {
  const conversations = { items: newest, channelKeyOf: ({ channelKey }: Newest) => channelKey };
  const ofShards = await byShard(db, shards, conversations, async (shard, own) => {
    const column = (of: (each: (typeof own)[number]) => number) => sql`${bigintArray(own.map(of))}::bigint[]`;
    const query = sql<{ channel_key: number; unread: string } & (MessageRow | { message_id: null })>`
      select w.channel_key, (
          select count(*) from (
            select from sendbatch.message m
            where m.channel_key = w.channel_key and m.message_seq <= w.last_seq
              and m.message_seq > greatest(w.read_seq, w.last_seq - ${examinedMessages})
              and m.flags & 2 <> 0 and m.from_uid <> ${uid} and ${seen(uid, now)}
            limit ${unreadCounted}) as counted
        ) as unread, ${messageColumns}
      from unnest(${column((each) => each.channelKey)}, ${column((each) => each.lastSeq)},
        ${column((each) => each.readSeq)}, ${column((each) => each.messageSeq)}
      ) as w(channel_key, last_seq, read_seq, message_seq)
      left join lateral (
        select * from sendbatch.message m where m.channel_key = w.channel_key and m.message_seq = w.message_seq limit 1
      ) m on true`;
    return await runByKey(shard, 'contents of conversations', query);
  });
  return new Map(
    ofShards.flat().map((row) => {
      const last = row.message_id === null ? undefined : toStored(row);
      return [row.channel_key, { unread: Number(row.unread), last }];
    }),
  );
}

/**
 * Advances a user's read cursor to a sequence that its channel has reached, never back.
 */
export async function markRead(db: Db, uid: string, channelKey: number, seq: number): Promise<void> {
  await sql`
    insert into sendbatch.read_cursor as r (uid, channel_key, read_seq)
    values (${uid}, ${channelKey}::bigint, ${seq}::bigint)
    on conflict (uid, channel_key) do update set read_seq = greatest(r.read_seq, excluded.read_seq)`.execute(db);
}

/**
 * Starts read cursors of new members at the head of the channel, unless they have one: a new member
 * has nothing unread.
 */
export async function beginCursors(
  tx: Tx,
  channelKey: number,
  uids: readonly string[],
  lastSeq: number,
): Promise<void> {
  await sql`
    insert into sendbatch.read_cursor (uid, channel_key, read_seq)
    select w.uid, ${channelKey}::bigint, ${lastSeq}::bigint from unnest(${[...uids]}::text[]) as w(uid)
    on conflict do nothing`.execute(tx);
}
