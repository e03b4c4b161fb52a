import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { onShard, shardTables } from '../postgres/shards.ts';
import { inRange } from './scan.sql.ts';
import type { KeyRange, ShardIds } from './scan.ts';
import type { ChannelFacts } from './violations.ts';

interface FactsRow {
  readonly channel_key: number;
  readonly last_seq: string | null;
  readonly swept: string;
  readonly kept: string;
  readonly first_kept: string | null;
  readonly last_kept: string | null;
  readonly before_gap: string | null;
  readonly falls: string;
  readonly fall_at: string | null;
  readonly odd_ids: string;
  readonly odd_id_at: string | null;
  readonly foreign_ids: string;
  readonly foreign_id_at: string | null;
  readonly suspects: string;
}

/** A connection that verifies, and the shard whose tables it reads. */
export interface VerifiedShard {
  readonly connection: Db;
  readonly ids: ShardIds;
}

const tablesOf = ({ connection, ids }: VerifiedShard): Db => onShard(connection, ids.shard);

/**
 * Examines channels of a shard exactly, in the order of their keys.
 *  1. One snapshot: a message sent meanwhile is seen with its head, or not at all.
 *  2. Numbers are returned as text: one that is too large must be a finding, not an error of the
 *     driver.
 *  3. Once-only keys are compared as indexed and as sent: by a hash of both texts, which is many
 *     times faster than sorting them, and exactly where two hashes are equal.
 */
export async function factsOf(at: VerifiedShard, channelKeys: readonly number[]): Promise<ChannelFacts[]> {
  const { shard, count, splitBlock } = at.ids;
  const isForeign = sql`${count} > 1 and message_id / ${limits.idsPerBlock} > ${splitBlock}
    and message_id / ${limits.idsPerBlock} % ${count} <> ${shard.index}`;
  const { rows } = await sql<FactsRow>`
    with piece as materialized (
      select channel_key from unnest(${channelKeys}::bigint[]) as w(channel_key)
    )
    select p.channel_key, h.last_seq::text, coalesce(s.messages, 0)::text as swept, m.*, d.suspects::text
    from piece p
    left join sendbatch.channel_head h on h.channel_key = p.channel_key
    left join sendbatch.swept s on s.channel_key = p.channel_key
    cross join lateral (
      select count(*)::text as kept, min(message_seq)::text as first_kept, max(message_seq)::text as last_kept,
        min(before_seq) filter (where message_seq > before_seq + 1)::text as before_gap,
        count(*) filter (where message_id <= before_id)::text as falls,
        min(message_seq) filter (where message_id <= before_id)::text as fall_at,
        count(*) filter (where message_id not between 1 and 9007199254740991)::text as odd_ids,
        min(message_seq) filter (where message_id not between 1 and 9007199254740991)::text as odd_id_at,
        count(*) filter (where ${isForeign})::text as foreign_ids,
        min(message_seq) filter (where ${isForeign})::text as foreign_id_at
      from (
        select message_seq, message_id, lag(message_seq) over sequenced as before_seq, lag(message_id) over sequenced as before_id
        from sendbatch.message m where m.channel_key = p.channel_key
        window sequenced as (order by message_seq)
      ) pairs
    ) m
    cross join lateral (
      select count(*) as suspects from (
        (select 1 from sendbatch.message m where m.channel_key = p.channel_key group by dedupe_key having count(*) > 1 limit 1)
        union all
        (select 1 from sendbatch.message m where m.channel_key = p.channel_key
          group by hashtextextended(client_msg_no, hashtextextended(from_uid, 0)) having count(*) > 1 limit 1)
      ) keys
    ) d
    order by p.channel_key`.execute(tablesOf(at));
  const names = await namesOf(at.connection, channelKeys);
  const facts: ChannelFacts[] = [];
  for (const row of rows) {
    const name = names.get(row.channel_key);
    const doubles = Number(row.suspects) === 0 ? noDoubles : await doublesOf(tablesOf(at), row.channel_key);
    if (name !== undefined) facts.push(toFacts(name, row, doubles));
  }
  return facts;
}

interface NameRow {
  readonly channel_key: number;
  readonly channel_type: number;
  readonly sequence: number;
  readonly channel_id: string;
}

/** The names of channels, by key. */
export async function namesOf(connection: Db, channelKeys: readonly number[]): Promise<Map<number, NameRow>> {
  const { rows } = await sql<NameRow>`
    select channel_key, channel_type, sequence, channel_id from sendbatch.channel
    where channel_key = any(${channelKeys}::bigint[])`.execute(connection);
  return new Map(rows.map((row) => [row.channel_key, row]));
}

interface Doubles {
  readonly doubles: string;
  readonly double_at: string | null;
}

const noDoubles: Doubles = { doubles: '0', double_at: null };

/** Once-only keys that a channel has more than once. */
async function doublesOf(db: Db, channelKey: number): Promise<Doubles> {
  const { rows } = await sql<Doubles>`
    select coalesce(sum(again), 0)::text as doubles, min(seq)::text as double_at from (
      select count(*) - 1 as again, max(message_seq) as seq from sendbatch.message m
      where m.channel_key = ${channelKey} group by dedupe_key having count(*) > 1
      union all
      select count(*) - 1, max(message_seq) from sendbatch.message m
      where m.channel_key = ${channelKey} group by from_uid, client_msg_no having count(*) > 1 and count(distinct dedupe_key) = count(*)
    ) keys`.execute(db);
  return rows[0] ?? noDoubles;
}

function toFacts(name: NameRow, row: FactsRow, { doubles, double_at: doubleAt }: Doubles): ChannelFacts {
  return {
    channelType: name.channel_type,
    channelId: name.channel_id,
    sequence: name.sequence,
    lastSeq: numberOf(row.last_seq),
    swept: Number(row.swept),
    kept: Number(row.kept),
    firstKept: numberOf(row.first_kept),
    lastKept: numberOf(row.last_kept),
    beforeGap: numberOf(row.before_gap),
    doubles: Number(doubles),
    doubleAt: numberOf(doubleAt),
    falls: Number(row.falls),
    fallAt: numberOf(row.fall_at),
    oddIds: Number(row.odd_ids),
    oddIdAt: numberOf(row.odd_id_at),
    foreignIds: Number(row.foreign_ids),
    foreignIdAt: numberOf(row.foreign_id_at),
  };
}

function numberOf(text: string | null): number | undefined {
  return text === null ? undefined : Number(text);
}

/** An id that is used more than once. */
export interface DoubleId {
  readonly id: string;
  /** `type/id seq n`, of at most ten messages that have it. */
  readonly places: readonly string[];
}

/**
 * Ids of more than one message of a shard, over all channels. Without an index: PostgreSQL sorts
 * all ids, on disk if they are many.
 */
export async function doubleIds(at: VerifiedShard, limit: number): Promise<DoubleId[]> {
  const { rows } = await sql<{ id: string; keys: string[]; seqs: string[] }>`
    with again as materialized (
      select message_id from sendbatch.message group by message_id having count(*) > 1 order by message_id limit ${limit}
    )
    select m.message_id::text as id,
      (array_agg(m.channel_key::text order by m.channel_key, m.message_seq))[1:10] as keys,
      (array_agg(m.message_seq::text order by m.channel_key, m.message_seq))[1:10] as seqs
    from sendbatch.message m where m.message_id in (select message_id from again)
    group by m.message_id order by m.message_id`.execute(tablesOf(at));
  const names = await namesOf(at.connection, [...new Set(rows.flatMap((row) => row.keys.map(Number)))]);
  const placeOf = (key: string) => {
    const name = names.get(Number(key));
    return name === undefined ? `channel_key ${key}` : `${name.channel_type}/${name.channel_id}`;
  };
  return rows.map(({ id, keys, seqs }) => ({
    id,
    places: keys.map((key, index) => `${placeOf(key)} seq ${seqs[index]}`),
  }));
}

/**
 * Channel keys of messages or heads of a range of a shard that are not among `channelKeys`, with
 * the number of messages.
 */
export async function strayKeys(
  at: VerifiedShard,
  range: KeyRange,
  channelKeys: Float64Array,
  limit: number,
): Promise<{ channelKey: string; messages: number }[]> {
  const { rows } = await sql<{ channel_key: string; messages: string }>`
    with known as materialized (
      select channel_key from unnest(${[...channelKeys]}::bigint[]) as w(channel_key)
    ), stray as (
      select channel_key, count(*) as messages from sendbatch.message m
      where ${inRange(range)} and not exists (select from known k where k.channel_key = m.channel_key) group by channel_key
      union all
      select channel_key, 0 from sendbatch.channel_head h
      where ${inRange(range)} and not exists (select from known k where k.channel_key = h.channel_key)
    )
    select channel_key::text, sum(messages)::text as messages from stray group by channel_key order by stray.channel_key limit ${limit}`.execute(
    tablesOf(at),
  );
  return rows.map((row) => ({ channelKey: row.channel_key, messages: Number(row.messages) }));
}

/** A row that is in another shard than its key names. */
export interface MisplacedRow {
  readonly table: string;
  readonly channelKey: string;
}

/** Rows of a shard whose channel belongs to another one, besides messages and heads. */
export async function misplacedRows(at: VerifiedShard, limit: number): Promise<MisplacedRow[]> {
  const { shard, count } = at.ids;
  const found: MisplacedRow[] = [];
  for (const table of tablesWithoutScan) {
    const { rows } = await sql<{ channel_key: string }>`
      select distinct channel_key::text from ${sql.table(`sendbatch.${table}`)}
      where channel_key % ${count} <> ${shard.index} limit ${limit}`.execute(tablesOf(at));
    found.push(...rows.map((row) => ({ table, channelKey: row.channel_key })));
  }
  return found;
}

/** Tables of channels that the pass over the messages does not read. */
const tablesWithoutScan = shardTables.filter((table) => !['message', 'channel_head', 'id_block'].includes(table));

/** The last block of ids that was drawn for a shard. */
export async function lastBlock(at: VerifiedShard): Promise<number> {
  const { rows } =
    at.ids.count === 1
      ? await sql<{ given: string }>`
          select (case when is_called then last_value else 0 end)::text as given from sendbatch.message_block`.execute(
          at.connection,
        )
      : await sql<{ given: string }>`select last::text as given from sendbatch.id_block`.execute(tablesOf(at));
  return Number(rows[0]?.given ?? 0);
}

/** The last block of ids that was drawn before the database was split; 0: it never was. */
export async function readSplitBlock(db: Db): Promise<number> {
  const { rows } = await sql<{ split_block: number }>`select split_block from sendbatch.shard_layout`.execute(db);
  return rows[0]?.split_block ?? 0;
}
