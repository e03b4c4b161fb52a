import { sql } from 'kysely';
import { commandSequence, messageSequence, tempType } from '../messages/channel.ts';
import { lockHeadsSkipLocked } from '../messages/channel-keys.sql.ts';
import { alive } from '../messages/messages-read.sql.ts';
import type { Db, Tx } from '../postgres/schema.ts';
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
const againMs = 6 * 3600_000;
/** Commands removed per channel and step. */
const atOnce = 5000;

/**
 * Checks at most `limit` due channels and removes those that are over. `more`: another call may
 * find more.
 */
export async function sweepTemporary(db: Db, now: number, limit: number): Promise<{ removed: number; more: boolean }> {
  const { rows: due } = await sql<{ channel_key: number; channel_id: string; look_at: number }>`
    select channel_key, channel_id, look_at from sendbatch.channel
    where channel_type = ${sql.lit(tempType)} and sequence = ${sql.lit(messageSequence)} and look_at <= ${now} order by look_at limit ${limit}`.execute(
    db,
  );
  let removed = 0;
  for (const { channel_key: key, channel_id: id, look_at: lookAt } of due) {
    const visit = { isFirst: lookAt === 0, now };
    const lookAgainAt = await db.transaction().execute((tx) => removeIfOver(tx, key, id, visit));
    if (lookAgainAt === undefined) removed++;
    else await sql`update sendbatch.channel set look_at = ${lookAgainAt} where channel_key = ${key}`.execute(db);
  }
  return { removed, more: due.length === limit };
}

/** Returns when the channel is checked again; undefined if it was removed. */
async function removeIfOver(
  tx: Tx,
  key: number,
  id: string,
  { isFirst, now }: { readonly isFirst: boolean; readonly now: number },
): Promise<number | undefined> {
  if (!madeId.test(id)) return Number.MAX_SAFE_INTEGER;
  const { rows: commands } = await sql<{ channel_key: number }>`
    select channel_key from sendbatch.channel
    where channel_type = ${tempType} and channel_id = ${id} and sequence = ${commandSequence}`.execute(tx);
  const later = now + againMs;
  // Without receivers it was created by hand.
  if (commands.length === 0) return later;
  const keys = [key, ...commands.map((row) => row.channel_key)];
  // The sweeper does not wait for senders.
  const heads = await lockHeadsSkipLocked(tx, keys);
  if (heads.size < keys.length) return later;
  // The instance that created it may be about to store the first command. One that died before that
  // has left it unused at the next visit too.
  if (isFirst && [...heads.values()].every((lastSeq) => lastSeq === 0)) return later;
  const { rows } = await sql<{ newest: number | null; is_kept: boolean; is_awaited: boolean }>`
    select (
        select max(last.accepted_at) from unnest(${keys}::bigint[]) as k(channel_key) cross join lateral (
          select m.accepted_at from sendbatch.message m where m.channel_key = k.channel_key order by m.message_seq desc limit 1) last
      ) as newest,
      exists (select from sendbatch.message m where m.channel_key = ${key})
        or exists (select from sendbatch.channel_info i where i.channel_key = ${key}) as is_kept,
      exists (
        select from sendbatch.channel_uid u cross join unnest(${keys}::bigint[]) as k(channel_key)
        where u.channel_key = ${key} and u.member and k.channel_key <> ${key} and (
          exists (
            select from sendbatch.command_inbox b join sendbatch.message m on m.channel_key = b.channel_key and m.message_seq = b.message_seq
            where b.uid = u.uid and b.channel_key = k.channel_key and ${alive(now)})
          or exists (
            select from sendbatch.message m
            where m.channel_key = k.channel_key
              and m.message_seq > coalesce((select t.taken_seq from sendbatch.command_taken t where t.uid = u.uid and t.channel_key = k.channel_key), 0)
              and (m.subscribers ? u.uid or (m.subscribers is null and m.from_uid <> u.uid))
              and ${alive(now)}))
      ) as is_awaited`.execute(tx);
  const [row] = rows;
  if (row === undefined || row.is_kept || row.is_awaited) return later;
  if (row.newest !== null && row.newest + dayMs > now) return row.newest + dayMs;
  const { rows: gone } = await sql`
    with oldest as (
      select channel_key, message_seq from sendbatch.message where channel_key = any(${keys}::bigint[]) order by channel_key, message_seq limit ${atOnce}
    ), forgotten as (
      delete from sendbatch.message_change c using oldest s
      where c.channel_key = s.channel_key and c.message_seq = s.message_seq
    )
    delete from sendbatch.message m using oldest s
    where m.channel_key = s.channel_key and m.message_seq = s.message_seq returning m.message_seq`.execute(tx);
  // The sequence stays dense: these are the oldest ones. `verify` knows how many are gone.
  if (gone.length === atOnce) {
    await sql`
      insert into sendbatch.swept (channel_key, messages)
      select h.channel_key, h.last_seq - (select count(*) from sendbatch.message m where m.channel_key = h.channel_key)
      from sendbatch.channel_head h where h.channel_key = any(${keys}::bigint[]) order by h.channel_key
      on conflict (channel_key) do update set messages = excluded.messages`.execute(tx);
    return now;
  }
  await sql`
    with members as (delete from sendbatch.channel_uid where channel_key = ${key} returning uid),
      taken as (
        delete from sendbatch.command_taken where uid in (select uid from members) and channel_key = any(${keys}::bigint[])),
      inbox as (
        delete from sendbatch.command_inbox where uid in (select uid from members) and channel_key = any(${keys}::bigint[])),
      cursors as (
        delete from sendbatch.read_cursor where uid in (select uid from members) and channel_key = any(${keys}::bigint[])),
      queued as (delete from sendbatch.webhook_queue where channel_key = any(${keys}::bigint[])),
      swept as (delete from sendbatch.swept where channel_key = any(${keys}::bigint[])),
      heads as (delete from sendbatch.channel_head where channel_key = any(${keys}::bigint[]))
    delete from sendbatch.channel where channel_key = any(${keys}::bigint[])`.execute(tx);
  return undefined;
}
