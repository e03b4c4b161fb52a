/**
 * The heads of channels: one row per channel with its last sequence, whose lock numbers messages.
 *
 * - Locks, and what is done under them: `lockHeads`, `lockHeadsSkipLocked`, `setHeads`. Every
 *   transaction locks heads by ascending channel_key.
 * - Reads that wait for no lock: `probeHeads`, `readHeads`, `readPositions`, `readHeadsAndFirst`,
 *   `readManyHeadsAndFirst`.
 *
 * Heads are created with their channels: channel-keys.sql.ts.
 */
import { sql } from 'kysely';
import { BinaryArray, bigintArray } from '../postgres/binary-array.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { Statement } from '../postgres/sql.ts';

const lockStatement = (name: string, lock: string) =>
  new Statement<{ readonly channel_key: number; readonly last_seq: number }>({
    name,
    byKey: true,
    text: `select channel_key, last_seq from sendbatch.channel_head where channel_key = any($1::bigint[])
      order by channel_key ${lock}`,
  });
const lockAll = lockStatement('lock heads', 'for no key update');
const lockFree = lockStatement('lock free heads', 'for no key update skip locked');

/**
 * Locks the heads of these channels until the transaction ends, and returns their last sequences by
 * channel key.
 *
 * This is the row lock that numbers messages. Lock order: every transaction locks heads by
 * ascending channel_key, so that batches cannot deadlock one another. The optimistic append takes
 * the same locks by its UPDATE (optimistic-append.sql.ts).
 */
export async function lockHeads(tx: Tx, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const rows = await lockAll.run(tx, [bigintArray(channelKeys)]);
  const heads = new Map(rows.map((row) => [row.channel_key, row.last_seq]));
  if (heads.size !== channelKeys.length) throw new HeadsMissing(channelKeys.filter((key) => !heads.has(key)));
  return heads;
}

/** Channels were removed after their keys were looked up. */
export class HeadsMissing extends Error {
  readonly channelKeys: ReadonlySet<number>;

  constructor(channelKeys: readonly number[]) {
    super(`the heads of channels ${channelKeys.slice(0, 10).join(', ')} are missing`);
    this.channelKeys = new Set(channelKeys);
  }
}

/** Locks the heads that no other session has locked; the others are absent from the result. */
export async function lockHeadsSkipLocked(tx: Tx, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const rows = await lockFree.run(tx, [bigintArray(channelKeys)]);
  return new Map(rows.map((row) => [row.channel_key, row.last_seq]));
}

/**
 * Checks whether these heads could be locked now, and reads their last sequences. Waits for no lock
 * and keeps none.
 */
export async function probeHeads(
  db: Db,
  channelKeys: readonly number[],
): Promise<Map<number, { isFree: boolean; lastSeq: number }>> {
  const { rows } = await sql<{ channel_key: number; last_seq: number; is_free: boolean }>`
    with free as (
      select channel_key from sendbatch.channel_head
      where channel_key = any(${channelKeys}::bigint[])
      order by channel_key
      for no key update skip locked
    )
    select h.channel_key, h.last_seq, free.channel_key is not null as is_free
    from sendbatch.channel_head h left join free on free.channel_key = h.channel_key
    where h.channel_key = any(${channelKeys}::bigint[])`.execute(db);
  return new Map(rows.map((row) => [row.channel_key, { isFree: row.is_free, lastSeq: row.last_seq }]));
}

/** A channel and the new value of its head. */
export interface HeadChange {
  readonly channelKey: number;
  readonly value: number;
}

const setStatement = new Statement<never>({
  name: 'set heads',
  byKey: true,
  text: `
    update sendbatch.channel_head h set last_seq = w.last_seq, last_at = greatest(h.last_at, $3::bigint)
    from unnest($1::bigint[], $2::bigint[]) as w(channel_key, last_seq)
    where h.channel_key = w.channel_key`,
});

/**
 * Advances the heads of locked channels. `acceptedAt`: the time of the messages that advance them.
 */
export async function setHeads(tx: Tx, heads: readonly HeadChange[], acceptedAt: number): Promise<void> {
  const keys = new BinaryArray('bigint', heads.length * 12);
  const values = new BinaryArray('bigint', heads.length * 12);
  for (const { channelKey, value } of heads) {
    keys.bigint(channelKey);
    values.bigint(value);
  }
  await setStatement.run(tx, [keys.value(), values.value(), acceptedAt]);
}

const headsOf = new Statement<{
  readonly channel_key: number;
  readonly last_seq: number;
  readonly last_change: number | null;
}>({
  name: 'heads of channels',
  byKey: true,
  text: 'select channel_key, last_seq, last_change from sendbatch.channel_head where channel_key = any($1::bigint[])',
});

/** Reads the committed last sequences of these channels, without locks. */
export async function readHeads(db: Db, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const rows = await headsOf.run(db, [bigintArray(channelKeys)]);
  return new Map(rows.map((row) => [row.channel_key, row.last_seq]));
}

/** Reads the committed last sequence and last change of these channels, without locks. */
export async function readPositions(
  db: Db,
  channelKeys: readonly number[],
): Promise<Map<number, { readonly lastSeq: number; readonly lastChange: number }>> {
  const rows = await headsOf.run(db, [bigintArray(channelKeys)]);
  return new Map(rows.map((row) => [row.channel_key, { lastSeq: row.last_seq, lastChange: row.last_change ?? 0 }]));
}

/** The last sequence of a channel, and the first that is kept: one above the last when none is. */
export interface Heads {
  readonly lastSeq: number;
  readonly firstSeq: number;
}

/** The heads of a channel, and the number of the last change of a message. */
export interface Positions extends Heads {
  readonly lastChange: number;
}

/** The heads of a channel without messages. */
export const noHeads: Positions = { lastSeq: 0, firstSeq: 1, lastChange: 0 };

export async function readHeadsAndFirst(db: Db, channelKey: number): Promise<Heads> {
  return (await readManyHeadsAndFirst(db, [channelKey])).get(channelKey) ?? noHeads;
}

const positionsStatement = new Statement<{
  readonly channel_key: number;
  readonly last_seq: number;
  readonly last_change: number | null;
  readonly first_seq: number | null;
}>({
  name: 'positions of channels',
  byKey: true,
  text: `
    select h.channel_key, h.last_seq, h.last_change, (
      select m.message_seq from sendbatch.message m where m.channel_key = h.channel_key order by m.message_seq limit 1
    ) as first_seq
    from unnest($1::bigint[]) as w(channel_key) join sendbatch.channel_head h on h.channel_key = w.channel_key`,
});

/** Reads the heads of many channels, by key. */
export async function readManyHeadsAndFirst(db: Db, channelKeys: readonly number[]): Promise<Map<number, Positions>> {
  if (channelKeys.length === 0) return new Map();
  const rows = await positionsStatement.run(db, [bigintArray(channelKeys)]);
  return new Map(
    rows.map((row) => [
      row.channel_key,
      { lastSeq: row.last_seq, firstSeq: row.first_seq ?? row.last_seq + 1, lastChange: row.last_change ?? 0 },
    ]),
  );
}
