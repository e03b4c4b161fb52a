import { sql } from 'kysely';
import { byShard } from '../postgres/over-shards.ts';
import type { Db } from '../postgres/schema.ts';
import type { ShardLayout } from '../postgres/shards.ts';

/** The database, and how the tables of channels are divided. */
interface Sharded {
  readonly db: Db;
  readonly shards: ShardLayout;
}

/**
 * Removes at most `limit` expired messages of a shard whose once-only keys are a day old; returns
 * how many. Skips locked rows.
 */
export async function sweepExpired(db: Db, limit: number, now: number): Promise<number> {
  const { rows } = await sql<{ removed: number }>`
    with locked as materialized (
      select channel_key, message_seq, changed from sendbatch.message
      where expire is not null and (accepted_at + greatest(expire * 1000, 86400000)) <= ${now}
      order by (accepted_at + greatest(expire * 1000, 86400000)) limit ${limit} for update skip locked
    ), ${unchanged('expired')}, ${removed('expired')}, ${counted}
    select count(*) as removed from removed`.execute(db);
  return rows[0]?.removed ?? 0;
}

/**
 * The locked messages that did not change since the snapshot of the statement, which has all of
 * their changes then. Others wait for the next sweep: a change that was committed before the lock
 * and after the snapshot would stay without its message.
 */
const unchanged = (what: 'expired' | 'old') => sql`${sql.ref(what)} as materialized (
      select l.channel_key, l.message_seq from locked l
      cross join lateral (
        select m.changed from sendbatch.message m
        where m.channel_key = l.channel_key and m.message_seq = l.message_seq limit 1
      ) seen
      where seen.changed is not distinct from l.changed
    )`;

/** Removes the messages of a list, their changes and copies of their contents. */
const removed = (what: 'expired' | 'old') => sql`removed as (
      delete from sendbatch.message m using ${sql.ref(what)} w
      where m.channel_key = w.channel_key and m.message_seq = w.message_seq returning m.channel_key
    ), forgotten as (
      delete from sendbatch.message_change c using ${sql.ref(what)} w
      where c.channel_key = w.channel_key and c.message_seq = w.message_seq returning c.channel_key
    ), copies as (
      delete from sendbatch.message_copy c using ${sql.ref(what)} w
      where c.channel_key = w.channel_key and c.message_seq = w.message_seq
    )`;

/**
 * Records the number of removed messages and changes per channel, for `verify`. In key order, so
 * that two sweepers cannot deadlock.
 */
const counted = sql`counted as (
      insert into sendbatch.swept (channel_key, messages, changes)
      select channel_key, sum(messages), sum(changes) from (
        select channel_key, 1 as messages, 0 as changes from removed
        union all
        select channel_key, 0, 1 from forgotten
      ) gone group by channel_key order by channel_key
      on conflict (channel_key) do update
        set messages = swept.messages + excluded.messages, changes = swept.changes + excluded.changes
    )`;

/** Result of one step of a sweep by age. */
export interface OldSwept {
  readonly removed: number;
  /** Whether another step may find more. */
  readonly more: boolean;
}

/**
 * Removes messages accepted before a time from channels of a type: some of each of the channels
 * with the oldest ones, at most `total` per shard. Records each channel's oldest kept message, or
 * `now`: it is visited again when that is too old.
 */
export async function sweepOld(
  { db, shards }: Sharded,
  channelType: number,
  { before, now }: { readonly before: number; readonly now: number },
  bounds: { readonly channels: number; readonly messages: number; readonly total: number },
): Promise<OldSwept> {
  const { rows: due } = await sql<{ channel_key: number }>`
    select channel_key from sendbatch.channel
    where channel_type = ${channelType} and oldest_at < ${before} order by oldest_at limit ${bounds.channels}`.execute(
    db,
  );
  if (due.length === 0) return { removed: 0, more: false };
  const keys = { items: due.map((row) => row.channel_key), channelKeyOf: (key: number) => key };
  const removed = await byShard(db, shards, keys, (shard, own) => removeOld(shard, own, before, bounds));
  // Separate statements, so that they see what is left.
  const oldest = (await byShard(db, shards, keys, oldestKept)).flat();
  const { numAffectedRows } = await sql`
    with free as materialized (
      select channel_key from sendbatch.channel
      where channel_key = any(${oldest.map((each) => each.channelKey)}::bigint[]) for no key update skip locked
    )
    update sendbatch.channel c set oldest_at = w.oldest_at
    from free, unnest(${oldest.map((each) => each.channelKey)}::bigint[], ${oldest.map((each) => each.at ?? now)}::bigint[])
      as w(channel_key, oldest_at)
    where c.channel_key = free.channel_key and w.channel_key = c.channel_key and c.oldest_at <> w.oldest_at`.execute(
    db,
  );
  const count = removed.reduce((sum, each) => sum + each, 0);
  // Channels that another sweeper has locked are left to it; without progress there is no other
  // step.
  return { removed: count, more: count > 0 || (numAffectedRows ?? 0n) > 0n };
}

async function removeOld(
  shard: Db,
  keys: readonly number[],
  before: number,
  bounds: { readonly messages: number; readonly total: number },
): Promise<number> {
  const { rows } = await sql<{ removed: string }>`
    with locked as materialized (
      select c.channel_key, m.message_seq, m.changed from unnest(${keys}::bigint[]) as c(channel_key) cross join lateral (
        select first.accepted_at from sendbatch.message first where first.channel_key = c.channel_key order by first.message_seq limit 1
      ) oldest cross join lateral (
        select f.message_seq, f.accepted_at, f.changed from sendbatch.message f where f.channel_key = c.channel_key and oldest.accepted_at < ${before}
        order by f.message_seq limit ${bounds.messages} for update skip locked
      ) m
      where m.accepted_at < ${before} limit ${bounds.total}
    ), ${unchanged('old')}, ${removed('old')}, ${counted}
    select count(*) as removed from removed`.execute(shard);
  return Number(rows[0]?.removed ?? 0);
}

/** The acceptance time of the oldest kept message of each of these channels. */
async function oldestKept(
  shard: Db,
  keys: readonly number[],
): Promise<{ readonly channelKey: number; readonly at: number | undefined }[]> {
  const { rows } = await sql<{ channel_key: number; oldest_at: number | null }>`
    select w.channel_key, (
      select m.accepted_at from sendbatch.message m where m.channel_key = w.channel_key order by m.message_seq limit 1
    ) as oldest_at
    from unnest(${keys}::bigint[]) as w(channel_key)`.execute(shard);
  return rows.map((row) => ({ channelKey: row.channel_key, at: row.oldest_at ?? undefined }));
}

/** Where the next step of a sweep over command inboxes starts. */
export interface InboxCursor {
  readonly uid: string;
  readonly commandSeq: number;
}

interface InboxRow {
  readonly uid: string;
  readonly command_seq: number;
  readonly channel_key: number;
  readonly message_seq: number;
}

/**
 * Checks inbox entries after a cursor, in the order of users, and removes those whose command is
 * gone: their users may never acknowledge them. Returns the next cursor; undefined at the end.
 */
export async function sweepInboxes(
  { db, shards }: Sharded,
  after: InboxCursor,
  limit: number,
): Promise<InboxCursor | undefined> {
  const { rows } = await sql<InboxRow>`
    select uid, command_seq, channel_key, message_seq from sendbatch.command_inbox
    where (uid, command_seq) > (${after.uid}::text, ${after.commandSeq}::bigint) order by uid, command_seq limit ${limit}`.execute(
    db,
  );
  const entries = { items: rows, channelKeyOf: (row: InboxRow) => row.channel_key };
  const gone = (await byShard(db, shards, entries, withoutMessage)).flat();
  if (gone.length > 0)
    await sql`
      delete from sendbatch.command_inbox b
      using unnest(${gone.map((row) => row.uid)}::text[], ${gone.map((row) => row.command_seq)}::bigint[]) as w(uid, command_seq)
      where b.uid = w.uid and b.command_seq = w.command_seq`.execute(db);
  const last = rows.at(-1);
  return last === undefined ? undefined : { uid: last.uid, commandSeq: last.command_seq };
}

/** The entries of a shard whose message is not kept. */
async function withoutMessage(shard: Db, entries: readonly InboxRow[]): Promise<InboxRow[]> {
  const { rows } = await sql<{ ordinal: number }>`
    select w.ordinal
    from unnest(${entries.map((row) => row.channel_key)}::bigint[], ${entries.map((row) => row.message_seq)}::bigint[])
      with ordinality as w(channel_key, message_seq, ordinal)
    where not exists (
      select from sendbatch.message m where m.channel_key = w.channel_key and m.message_seq = w.message_seq)`.execute(
    shard,
  );
  return rows.flatMap((row) => entries[row.ordinal - 1] ?? []);
}
