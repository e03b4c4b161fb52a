import { sql } from 'kysely';
import { changeKinds } from '../messages/message.ts';
import type { Db } from '../postgres/schema.ts';
import { inRange, isChanged, isRecalled } from './scan.sql.ts';
import type { KeyRange } from './scan.ts';
import type { ChangeFacts } from './violations.ts';

/** The next channels of a shard that have or had changes, after a key and in the order of keys. */
export async function changedChannels(shard: Db, afterKey: number, limit: number): Promise<number[]> {
  const { rows } = await sql<{ channel_key: number }>`
    select channel_key from sendbatch.channel_head
    where channel_key > ${afterKey} and last_change is not null order by channel_key limit ${limit}`.execute(shard);
  return rows.map((row) => row.channel_key);
}

/** Channels of a shard that have changes, and whose head has none. */
export async function uncountedChannels(shard: Db, limit: number): Promise<number[]> {
  const { rows } = await sql<{ channel_key: number }>`
    select distinct c.channel_key from sendbatch.message_change c
    where not exists (
      select from sendbatch.channel_head h where h.channel_key = c.channel_key and h.last_change is not null)
    limit ${limit}`.execute(shard);
  return rows.map((row) => row.channel_key);
}

/** Channels of a range in which a message is changed, and whose head has no changes. */
export async function unnumberedChannels(shard: Db, range: KeyRange): Promise<number[]> {
  const { rows } = await sql<{ channel_key: number }>`
    select distinct channel_key from sendbatch.message m where ${inRange(range)} and ${isChanged} and not exists (
      select from sendbatch.channel_head h where h.channel_key = m.channel_key and h.last_change is not null)`.execute(
    shard,
  );
  return rows.map((row) => row.channel_key);
}

interface FactsRow {
  readonly channel_key: number;
  readonly last_change: string | null;
  readonly swept: string;
  readonly kept: string;
  readonly last_kept: string | null;
  readonly strays: string;
  readonly stray_at: string | null;
  readonly wrong: string;
  readonly wrong_at: string | null;
  readonly unerased: string;
  readonly unerased_at: string | null;
}

/** Compares the changes of channels of a shard with their heads and messages. */
export async function changeFactsOf(shard: Db, channelKeys: readonly number[]): Promise<ChangeFacts[]> {
  const { rows } = await sql<FactsRow>`
    select p.channel_key, h.last_change::text, coalesce(s.changes, 0)::text as swept, c.*, w.*
    from unnest(${[...channelKeys]}::bigint[]) as p(channel_key)
    left join sendbatch.channel_head h on h.channel_key = p.channel_key
    left join sendbatch.swept s on s.channel_key = p.channel_key
    cross join lateral (
      select count(*)::text as kept, max(change_no)::text as last_kept
      from sendbatch.message_change c where c.channel_key = p.channel_key
    ) c
    cross join lateral (
      select count(*) filter (where is_stray)::text as strays, min(message_seq) filter (where is_stray)::text as stray_at,
        count(*) filter (where is_wrong)::text as wrong, min(message_seq) filter (where is_wrong)::text as wrong_at,
        count(*) filter (where is_unerased)::text as unerased, min(message_seq) filter (where is_unerased)::text as unerased_at
      from (
        select w.message_seq, m.message_seq is null as is_stray,
          m.message_seq is not null and (c.edits <> coalesce((m.changed ->> 'revision')::bigint, 0)
            or c.recalls <> (${isRecalled})::integer
            or (${isRecalled}) <> coalesce(m.changed ? 'recalledAt', false)
            or coalesce(c.last_recall < c.last_change, false)) as is_wrong,
          ${isRecalled} and (octet_length(m.payload) > 0 or m.subscribers is not null) as is_unerased
        from (
          select message_seq from sendbatch.message_change where channel_key = p.channel_key
          union
          select message_seq from sendbatch.message m where m.channel_key = p.channel_key and ${isChanged}
        ) w
        cross join lateral (
          select count(*) filter (where kind = ${sql.lit(changeKinds.edited)}) as edits,
            count(*) filter (where kind = ${sql.lit(changeKinds.recalled)}) as recalls, max(change_no) as last_change,
            max(change_no) filter (where kind = ${sql.lit(changeKinds.recalled)}) as last_recall
          from sendbatch.message_change c where c.channel_key = p.channel_key and c.message_seq = w.message_seq
        ) c
        left join sendbatch.message m on m.channel_key = p.channel_key and m.message_seq = w.message_seq
      ) compared
    ) w`.execute(shard);
  return rows.map((row) => ({
    channelKey: row.channel_key,
    lastChange: Number(row.last_change ?? 0),
    swept: Number(row.swept),
    kept: Number(row.kept),
    lastKept: Number(row.last_kept ?? 0),
    strays: Number(row.strays),
    strayAt: Number(row.stray_at),
    wrong: Number(row.wrong),
    wrongAt: Number(row.wrong_at),
    unerased: Number(row.unerased),
    unerasedAt: Number(row.unerased_at),
  }));
}
