import { sql } from 'kysely';
import type { Db } from './database.ts';

/** The database's clock, in milliseconds. */
export async function databaseClock(db: Db): Promise<number> {
  const { rows } = await sql<{ now: number }>`
    select (extract(epoch from clock_timestamp()) * 1000)::bigint as now`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('the database did not say the time');
  return row.now;
}

/** Removes messages that have expired, and whose once-only keys are a day old; at most `limit`. Returns how many. Rows that somebody holds are left for later. */
export async function sweepExpired(db: Db, limit: number, now: number): Promise<number> {
  const { rows } = await sql<{ removed: number }>`
    with removed as (
      delete from sendbatch.message where ctid = any(array(
        select ctid from sendbatch.message
        where expire is not null and (accepted_at + greatest(expire * 1000, 86400000)) <= ${now}
        limit ${limit} for update skip locked
      )) returning channel_key
    ), ${counted}
    select count(*) as removed from removed`.execute(db);
  return rows[0]?.removed ?? 0;
}

/** Notes how many messages of each channel went, for `verify`. In the order of keys, so that two sweepers wait for each other in one direction only. */
const counted = sql`counted as (
      insert into sendbatch.swept (channel_key, messages)
      select channel_key, count(*) from removed group by channel_key order by channel_key
      on conflict (channel_key) do update set messages = swept.messages + excluded.messages
    )`;

/** Removes messages of channels of a type that were accepted before a time: from a few channels after a key, a few of each. Returns the last channel looked at, and how many went. */
export async function sweepOld(
  db: Db,
  channelType: number,
  before: number,
  afterKey: number,
  bounds: { readonly channels: number; readonly messages: number },
): Promise<{ lastKey: number | undefined; removed: number }> {
  const { rows } = await sql<{ last_key: number | null; removed: string }>`
    with looked as materialized (
      select channel_key from sendbatch.channel
      where channel_type = ${channelType} and channel_key > ${afterKey} order by channel_key limit ${bounds.channels}
    ), old as materialized (
      select m.ctid from looked cross join lateral (
        select ctid from sendbatch.message m
        where m.channel_key = looked.channel_key and m.accepted_at < ${before}
          and m.message_seq < (select min(message_seq) + ${bounds.messages} from sendbatch.message f where f.channel_key = looked.channel_key)
        order by m.message_seq limit ${bounds.messages}
      ) m
    ), removed as (
      delete from sendbatch.message where ctid = any(array(select ctid from old)) returning channel_key
    ), ${counted}
    select (select max(channel_key) from looked) as last_key, (select count(*) from removed) as removed`.execute(db);
  const [row] = rows;
  return { lastKey: row?.last_key ?? undefined, removed: Number(row?.removed ?? 0) };
}
