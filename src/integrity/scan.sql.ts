import { type RawBuilder, sql } from 'kysely';
import { flagRecalled } from '../messages/message.ts';
import { hashValues, int8Values } from '../postgres/binary-array.ts';
import type { Db } from '../postgres/schema.ts';
import { type HeadRows, type KeyRange, noHead, type ScannedMessages } from './scan.ts';

/**
 * Runs work on several connections that all see the same snapshot, read-only: what is sent or swept
 * meanwhile is seen by none of them. `work_mem` is raised, since PostgreSQL's 4 MB sort and hash on
 * disk; compiling the statements (jit) takes longer than running them.
 */
export async function inOneSnapshot(
  db: Db,
  connections: number,
  work: (connection: Db) => Promise<void>,
): Promise<void> {
  await inTransaction(db, undefined, async (first) => {
    if (connections === 1) return await work(first);
    const { rows } = await sql<{ id: string }>`select pg_export_snapshot() as id`.execute(first);
    const others = Array.from({ length: connections - 1 }, () => inTransaction(db, rows[0]?.id, work));
    // The snapshot lives as long as the first transaction: it waits for all, also after an error.
    for (const end of await Promise.allSettled([work(first), ...others]))
      if (end.status === 'rejected') throw end.reason;
  });
}

async function inTransaction(
  db: Db,
  snapshot: string | undefined,
  work: (connection: Db) => Promise<void>,
): Promise<void> {
  await db.connection().execute(async (connection) => {
    await sql`begin isolation level repeatable read read only`.execute(connection);
    try {
      if (snapshot !== undefined) await sql`set transaction snapshot ${sql.lit(snapshot)}`.execute(connection);
      await sql`
        select set_config('work_mem', '256MB', true), set_config('jit', 'off', true),
          set_config('idle_in_transaction_session_timeout', '0', true)`.execute(connection);
      await work(connection);
    } finally {
      // Fails only with its connection.
      await sql`rollback`.execute(connection).catch(() => {});
    }
  });
}

/**
 * Number of messages of a shard by its heads, less those that were swept: an estimate if heads are
 * wrong.
 */
export async function countByHeads(db: Db): Promise<number> {
  const { rows } = await sql<{ messages: number }>`
    select greatest(0, coalesce((select sum(last_seq::float8) from sendbatch.channel_head), 0)
      - coalesce((select sum(messages::float8) from sendbatch.swept), 0)) as messages`.execute(db);
  return rows[0]?.messages ?? 0;
}

/** Whether a message `m` was recalled. */
export const isRecalled = sql`m.flags & ${sql.lit(flagRecalled)} <> 0`;
/** Whether a message `m` was edited or recalled. */
export const isChanged = sql`(m.changed is not null or ${isRecalled})`;

export const inRange = ({ afterKey, lastKey }: KeyRange) =>
  lastKey === undefined ? sql`channel_key > ${afterKey}` : sql`channel_key > ${afterKey} and channel_key <= ${lastKey}`;

/** The next keys of channels after a key, in their order: of all shards, at most `limit`. */
export async function keysAfter(db: Db, afterKey: number, limit: number): Promise<Float64Array> {
  const { rows } = await sql<{ keys: Buffer | null }>`
    select array_send(array_agg(channel_key order by channel_key)) as keys from (
      select channel_key from sendbatch.channel where channel_key > ${afterKey} order by channel_key limit ${limit}
    ) ordered`.execute(db);
  return int8Values(rows[0]?.keys);
}

/** The heads of a shard in a range, and what was swept there, in the order of keys. */
export async function headRows(shard: Db, range: KeyRange): Promise<HeadRows> {
  const { rows } = await sql<{ keys: Buffer | null; last_seqs: Buffer | null; swept: Buffer | null }>`
    select array_send(array_agg(channel_key order by channel_key)) as keys,
      array_send(array_agg(last_seq order by channel_key)) as last_seqs,
      array_send(array_agg(swept order by channel_key)) as swept
    from (
      select channel_key, coalesce(h.last_seq, ${sql.lit(noHead)}) as last_seq, coalesce(s.messages, 0) as swept
      from (select channel_key, last_seq from sendbatch.channel_head where ${inRange(range)}) h
      full join (select channel_key, messages from sendbatch.swept where ${inRange(range)}) s using (channel_key)
    ) joined`.execute(shard);
  const [row] = rows;
  return { keys: int8Values(row?.keys), lastSeqs: int8Values(row?.last_seqs), swept: int8Values(row?.swept) };
}

/** The columns of messages that a scan compares, as arrays in PostgreSQL's binary format. */
interface PackedRow {
  readonly keys: Buffer | null;
  readonly seqs: Buffer | null;
  readonly ids: Buffer | null;
  readonly indexed: Buffer | null;
  readonly sent: Buffer | null;
  readonly changed: number;
}

/**
 * One row for all messages of a set: rows of their own cost twice as much as the scan. Once-only
 * keys as hashes: as indexed, and of the texts that were sent.
 */
const packed = (messages: RawBuilder<unknown>) => sql<PackedRow>`
  select array_send(array_agg(channel_key)) as keys, array_send(array_agg(message_seq)) as seqs, array_send(array_agg(message_id)) as ids,
    array_send(array_agg(uuid_hash_extended(dedupe_key, channel_key))) as indexed,
    array_send(array_agg(hashtextextended(client_msg_no, hashtextextended(from_uid, channel_key)))) as sent,
    count(*) filter (where is_changed) as changed
  from (
    select channel_key, message_seq, message_id, dedupe_key, from_uid, client_msg_no, ${isChanged} as is_changed
    from sendbatch.message m ${messages}
  ) ordered`;

function unpack(row: PackedRow | undefined): ScannedMessages {
  return {
    keys: int8Values(row?.keys),
    seqs: int8Values(row?.seqs),
    ids: int8Values(row?.ids),
    indexedHashes: hashValues(row?.indexed),
    sentHashes: hashValues(row?.sent),
    changed: row?.changed ?? 0,
  };
}

/** At most `limit` messages of a range of a shard, in the order of channel and sequence. */
export async function messagesOf(db: Db, range: KeyRange, limit: number): Promise<ScannedMessages> {
  const { rows } = await packed(sql`where ${inRange(range)} order by channel_key, message_seq limit ${limit}`).execute(
    db,
  );
  return unpack(rows[0]);
}

/** The first and the last sequence of a channel; undefined without messages. */
export async function boundsOf(db: Db, channelKey: number): Promise<{ first: number; last: number } | undefined> {
  const { rows } = await sql<{ first: number | null; last: number | null }>`
    select min(message_seq)::float8 as first, max(message_seq)::float8 as last
    from sendbatch.message where channel_key = ${channelKey}`.execute(db);
  const { first, last } = rows[0] ?? { first: null, last: null };
  return first === null || last === null ? undefined : { first, last };
}

/** Messages of one channel between two sequences, both inclusive. */
export interface Segment {
  readonly channelKey: number;
  /** -Infinity: from the beginning. */
  readonly firstSeq: number;
  /** Infinity: to the end. */
  readonly lastSeq: number;
}

/** At most `limit` messages of a segment, in the order of their sequences. */
export async function messagesOfSegment(
  db: Db,
  { channelKey, firstSeq, lastSeq }: Segment,
  limit: number,
): Promise<ScannedMessages> {
  const { rows } = await packed(sql`
    where channel_key = ${channelKey} and message_seq >= ${bigint(firstSeq)} and message_seq <= ${bigint(lastSeq)}
    order by message_seq limit ${limit}`).execute(db);
  return unpack(rows[0]);
}

/** A sequence as a bigint; infinite ones as the smallest and the largest. */
const bigint = (seq: number) =>
  sql`${seq === -Infinity ? '-9223372036854775808' : seq === Infinity ? '9223372036854775807' : String(BigInt(seq))}::bigint`;

/**
 * Channels of a range in which a once-only key occurs twice, compared like the columns of
 * `messagesOf`: where only hashes are equal too. For channels whose hashes do not fit into memory.
 */
export async function repeatedKeys(db: Db, range: KeyRange): Promise<number[]> {
  const { rows } = await sql<{ channel_key: number }>`
    select channel_key from (
      select channel_key from sendbatch.message where ${inRange(range)}
      group by channel_key, dedupe_key having count(*) > 1
    ) as indexed
    union
    select channel_key from (
      select channel_key from sendbatch.message where ${inRange(range)}
      group by channel_key, hashtextextended(client_msg_no, hashtextextended(from_uid, channel_key)) having count(*) > 1
    ) as sent`.execute(db);
  return rows.map((row) => row.channel_key);
}

/**
 * Whether an id may occur twice in a shard, over all channels, and the largest valid id. Ids are
 * compared in sets of 64, as bits of a bigint: ids come in blocks, so that there are few sets,
 * which costs half of a group per id.
 */
export async function scanIds(db: Db): Promise<{ hasRepeated: boolean; largest: number }> {
  const { rows } = await sql<{ has_repeated: boolean; largest: number | null }>`
    select coalesce(bool_or(messages <> bit_count(bits::bit(64))), false) as has_repeated,
      max(largest) filter (where largest <= 9007199254740991) as largest
    from (
      select count(*) as messages, bit_or(1::bigint << (message_id & 63)::integer) as bits, max(message_id) as largest
      from sendbatch.message group by message_id >> 6
    ) sets`.execute(db);
  return { hasRepeated: rows[0]?.has_repeated ?? false, largest: rows[0]?.largest ?? 0 };
}
