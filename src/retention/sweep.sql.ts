import { sql } from 'kysely';
import type { Db } from '../postgres/schema.ts';

/**
 * Removes at most `limit` expired messages whose once-only keys are a day old; returns how many.
 * Skips locked rows.
 */
export async function sweepExpired(db: Db, limit: number, now: number): Promise<number> {
  const { rows } = await sql<{ removed: number }>`
    with expired as materialized (
      select channel_key, message_seq from sendbatch.message
      where expire is not null and (accepted_at + greatest(expire * 1000, 86400000)) <= ${now}
      order by (accepted_at + greatest(expire * 1000, 86400000)) limit ${limit} for update skip locked
    ), ${removed('expired')}, ${counted}
    select count(*) as removed from removed`.execute(db);
  return rows[0]?.removed ?? 0;
}

/** Removes the messages of a list, and their changes. */
const removed = (what: 'expired' | 'old') => sql`removed as (
      delete from sendbatch.message m using ${sql.ref(what)} w
      where m.channel_key = w.channel_key and m.message_seq = w.message_seq returning m.channel_key
    ), forgotten as (
      delete from sendbatch.message_change c using ${sql.ref(what)} w
      where c.channel_key = w.channel_key and c.message_seq = w.message_seq
    )`;

/**
 * Records the number of removed messages per channel, for `verify`. In key order, so that two
 * sweepers cannot deadlock.
 */
const counted = sql`counted as (
      insert into sendbatch.swept (channel_key, messages)
      select channel_key, count(*) from removed group by channel_key order by channel_key
      on conflict (channel_key) do update set messages = swept.messages + excluded.messages
    )`;

/** Result of one step of a sweep by age. */
export interface OldSwept {
  readonly removed: number;
  /** Whether another step may find more. */
  readonly more: boolean;
}

/**
 * Removes messages accepted before a time from channels of a type: some of each of the channels
 * with the oldest ones, at most `total`. Records each channel's oldest kept message, or `now`: it
 * is visited again when that is too old.
 */
export async function sweepOld(
  db: Db,
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
  const keys = due.map((row) => row.channel_key);
  const { rows } = await sql<{ removed: string }>`
    with old as materialized (
      select c.channel_key, m.message_seq from unnest(${keys}::bigint[]) as c(channel_key) cross join lateral (
        select first.accepted_at from sendbatch.message first where first.channel_key = c.channel_key order by first.message_seq limit 1
      ) oldest cross join lateral (
        select f.message_seq, f.accepted_at from sendbatch.message f where f.channel_key = c.channel_key and oldest.accepted_at < ${before}
        order by f.message_seq limit ${bounds.messages} for update skip locked
      ) m
      where m.accepted_at < ${before} limit ${bounds.total}
    ), ${removed('old')}, ${counted}
    select count(*) as removed from removed`.execute(db);
  // A separate statement, so that it sees what is left.
  const { numAffectedRows } = await sql`
    with free as materialized (
      select channel_key from sendbatch.channel where channel_key = any(${keys}::bigint[]) for no key update skip locked
    )
    update sendbatch.channel c set oldest_at = w.oldest_at
    from free k cross join lateral (
      select coalesce((
        select m.accepted_at from sendbatch.message m where m.channel_key = k.channel_key order by m.message_seq limit 1
      ), ${now}::bigint) as oldest_at
    ) w
    where c.channel_key = k.channel_key and c.oldest_at <> w.oldest_at`.execute(db);
  const count = Number(rows[0]?.removed ?? 0);
  // Channels that another sweeper has locked are left to it; without progress there is no other
  // step.
  return { removed: count, more: count > 0 || (numAffectedRows ?? 0n) > 0n };
}

/** Where the next step of a sweep over command inboxes starts. */
export interface InboxCursor {
  readonly uid: string;
  readonly commandSeq: number;
}

/**
 * Checks inbox entries after a cursor, in the order of users, and removes those whose command is
 * gone: their users may never acknowledge them. Returns the next cursor; undefined at the end.
 */
export async function sweepInboxes(db: Db, after: InboxCursor, limit: number): Promise<InboxCursor | undefined> {
  const { rows } = await sql<{ uid: string; command_seq: number }>`
    with looked as materialized (
      select uid, command_seq, channel_key, message_seq from sendbatch.command_inbox
      where (uid, command_seq) > (${after.uid}::text, ${after.commandSeq}::bigint) order by uid, command_seq limit ${limit}
    ), removed as (
      delete from sendbatch.command_inbox b using looked w
      where b.uid = w.uid and b.command_seq = w.command_seq
        and not exists (select from sendbatch.message m where m.channel_key = w.channel_key and m.message_seq = w.message_seq)
    )
    select uid, command_seq from looked order by uid desc, command_seq desc limit 1`.execute(db);
  const [row] = rows;
  return row === undefined ? undefined : { uid: row.uid, commandSeq: row.command_seq };
}
