import { sql } from 'kysely';
import { commandSequence, messageSequence, tempType } from '../messages/channel.ts';
import { lockHeadsSkipLocked } from '../messages/channel-heads.sql.ts';
import { alive } from '../messages/message-select.sql.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { onShard, type ShardLayout } from '../postgres/shards.ts';
import { dayMs } from '../time.ts';

/**
 * Temporary channels: those that the service creates for commands that name receivers instead of a
 * channel. Their id is a digest of the receivers.
 *
 * Such a channel is over when it has no message, nothing was sent to it for a day (for which a
 * once-only key holds), and each of its commands has expired or was acknowledged by every receiver.
 * Then it is removed under the locks of its heads: a sender that waits for them finds the channel
 * removed and creates it again.
 */

/** Ids as `receiversId` writes them. */
const madeId = /^[0-9a-f]{32}$/;
/** A channel that is not over is checked again after this long. */
const recheckMs = 6 * 3600_000;
/** Commands removed per channel and step. */
const atOnce = 5000;

/**
 * Checks at most `limit` due channels and removes those that are over. `more`: another call may
 * find more.
 */
export async function sweepTemporary(
  { db, shards }: { readonly db: Db; readonly shards: ShardLayout },
  now: number,
  limit: number,
): Promise<{ removed: number; more: boolean }> {
  const { rows: due } = await sql<{ channel_key: number; channel_id: string; look_at: number }>`
    select channel_key, channel_id, look_at from sendbatch.channel
    where channel_type = ${sql.lit(tempType)} and sequence = ${sql.lit(messageSequence)} and look_at <= ${now} order by look_at limit ${limit}`.execute(
    db,
  );
  let removed = 0;
  for (const { channel_key: key, channel_id: id, look_at: lookAt } of due) {
    const visit = { key, id, isFirst: lookAt === 0, now };
    const lookAgainAt = await db.transaction().execute((tx) => removeIfOver(tx, shards, visit));
    if (lookAgainAt === undefined) removed++;
    else await sql`update sendbatch.channel set look_at = ${lookAgainAt} where channel_key = ${key}`.execute(db);
  }
  return { removed, more: due.length === limit };
}

/** A temporary channel that is checked. */
interface Visit {
  readonly key: number;
  readonly id: string;
  /** Whether it was never checked. */
  readonly isFirst: boolean;
  readonly now: number;
}

/** Returns when the channel is checked again; undefined if it was removed. */
async function removeIfOver(tx: Tx, shards: ShardLayout, visit: Visit): Promise<number | undefined> {
  const { key, id, isFirst, now } = visit;
  if (!madeId.test(id)) return Number.MAX_SAFE_INTEGER;
  // Names before heads, as in the creation of heads. The sweeper does not wait for senders.
  const { rows: found } = await sql<{ channel_key: number; sequence: number }>`
    select channel_key, sequence from sendbatch.channel
    where channel_type = ${tempType} and channel_id = ${id} order by channel_key for update skip locked`.execute(tx);
  const later = now + recheckMs;
  const commandKey = found.find(({ sequence }) => sequence === commandSequence)?.channel_key;
  // Without receivers it was created by hand.
  if (commandKey === undefined || found.length < 2) return later;
  const keys = [key, commandKey];
  const heads = await mapByShard(tx, shards, keys, lockHeadsSkipLocked);
  if (heads.size < keys.length) return later;
  // The instance that created it may be about to store the first command. One that died before that
  // has left it unused at the next visit too.
  if (isFirst && [...heads.values()].every((lastSeq) => lastSeq === 0)) return later;
  const base = onShard(tx, shards.of(key));
  const commands = onShard(tx, shards.of(commandKey));
  if (await isKept(base, key)) return later;
  const members = await membersOf(base, key);
  if (await isAwaited(tx, commands, commandKey, members, now)) return later;
  const newest = await newestAt(commands, commandKey);
  if (newest !== undefined && newest + dayMs > now) return newest + dayMs;
  if ((await removeOldest(commands, commandKey)) === atOnce) {
    await countSwept(commands, commandKey);
    return now;
  }
  await sql`delete from sendbatch.channel_uid where channel_key = ${key}`.execute(base);
  for (const channelKey of keys) {
    const own = onShard(tx, shards.of(channelKey));
    await sql`
      with swept as (delete from sendbatch.swept where channel_key = ${channelKey})
      delete from sendbatch.channel_head where channel_key = ${channelKey}`.execute(own);
  }
  const ofMembers = sql`uid = any(${members}::text[]) and channel_key = any(${keys}::bigint[])`;
  await sql`
    with taken as (delete from sendbatch.command_taken where ${ofMembers}),
      inbox as (delete from sendbatch.command_inbox where ${ofMembers}),
      cursors as (delete from sendbatch.read_cursor where ${ofMembers}),
      delivered as (delete from sendbatch.delivery_cursor where ${ofMembers}),
      queued as (delete from sendbatch.webhook_queue where channel_key = any(${keys}::bigint[])),
      changes as (delete from sendbatch.webhook_change_queue where channel_key = any(${keys}::bigint[]))
    delete from sendbatch.channel where channel_key = any(${keys}::bigint[])`.execute(tx);
  return undefined;
}

/** Whether a channel has messages of its own, or was created by name. */
async function isKept(shard: Tx, key: number): Promise<boolean> {
  const { rows } = await sql<{ is_kept: boolean }>`
    select exists (select from sendbatch.message m where m.channel_key = ${key})
      or exists (select from sendbatch.channel_info i where i.channel_key = ${key}) as is_kept`.execute(shard);
  return rows[0]?.is_kept !== false;
}

async function membersOf(shard: Tx, key: number): Promise<string[]> {
  const { rows } = await sql<{ uid: string }>`
    select uid from sendbatch.channel_uid where channel_key = ${key} and member`.execute(shard);
  return rows.map((row) => row.uid);
}

/** Whether some of these receivers have not acknowledged a command that has not expired. */
async function isAwaited(
  tx: Tx,
  commands: Tx,
  commandKey: number,
  uids: readonly string[],
  now: number,
): Promise<boolean> {
  const { rows: handedOut } = await sql<{ message_seq: number }>`
    select distinct b.message_seq from unnest(${uids}::text[]) as w(uid)
    join sendbatch.command_inbox b on b.uid = w.uid and b.channel_key = ${commandKey}`.execute(tx);
  const { rows: taken } = await sql<{ uid: string; taken_seq: number }>`
    select w.uid, coalesce(t.taken_seq, 0) as taken_seq from unnest(${uids}::text[]) as w(uid)
    left join sendbatch.command_taken t on t.uid = w.uid and t.channel_key = ${commandKey}`.execute(tx);
  const { rows } = await sql<{ is_awaited: boolean }>`
    select exists (
        select from sendbatch.message m
        where m.channel_key = ${commandKey} and m.message_seq = any(${handedOut.map((row) => row.message_seq)}::bigint[])
          and ${alive(now)})
      or exists (
        select from unnest(${taken.map((row) => row.uid)}::text[], ${taken.map((row) => row.taken_seq)}::bigint[])
          as u(uid, taken_seq)
        join sendbatch.message m on m.channel_key = ${commandKey} and m.message_seq > u.taken_seq
          and (m.subscribers ? u.uid or (m.subscribers is null and m.from_uid <> u.uid))
        where ${alive(now)}) as is_awaited`.execute(commands);
  return rows[0]?.is_awaited !== false;
}

/** The acceptance time of the newest command; undefined if none is kept. */
async function newestAt(commands: Tx, commandKey: number): Promise<number | undefined> {
  const { rows } = await sql<{ accepted_at: number }>`
    select accepted_at from sendbatch.message where channel_key = ${commandKey} order by message_seq desc limit 1`.execute(
    commands,
  );
  return rows[0]?.accepted_at;
}

/** Removes the oldest commands, so that the rest stays dense; returns how many. */
async function removeOldest(commands: Tx, commandKey: number): Promise<number> {
  const { rows } = await sql`
    with oldest as (
      select message_seq from sendbatch.message where channel_key = ${commandKey} order by message_seq limit ${atOnce}
    ), forgotten as (
      delete from sendbatch.message_change c using oldest s
      where c.channel_key = ${commandKey} and c.message_seq = s.message_seq
    )
    delete from sendbatch.message m using oldest s
    where m.channel_key = ${commandKey} and m.message_seq = s.message_seq returning m.message_seq`.execute(commands);
  return rows.length;
}

/** Records how many commands are gone, for `verify`. */
async function countSwept(commands: Tx, commandKey: number): Promise<void> {
  await sql`
    insert into sendbatch.swept (channel_key, messages)
    select h.channel_key, h.last_seq - (select count(*) from sendbatch.message m where m.channel_key = h.channel_key)
    from sendbatch.channel_head h where h.channel_key = ${commandKey}
    on conflict (channel_key) do update set messages = excluded.messages`.execute(commands);
}
