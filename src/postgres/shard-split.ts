// Divides a stopped service's database into more shards.
//
// Entry points: `splitShards` and `cancelSplit`, used by `sendbatch shards`. States, kept in
// shard_split:
//
//   (none) ──begin──> copying ──all is copied, and equal──> removing ──old rows are gone──> (none)
//                        └──cancel──> (none)
//
// Invariants:
//  1. Each chunk is one transaction that locks the row of shard_split, reads the position from it,
//     and writes the position behind it. A split that was killed continues where it was, after
//     what PostgreSQL still runs of it.
//  2. Rows keep their keys, sequences and ids: only their schema changes. Old rows go after counts
//     and digests of all tables were compared.
//  3. No instance starts while a split is under way, and none may be connected when it begins, when
//     the copy is compared, and when old rows are removed.
//
// On Citus the copy from one shard to another is one statement over two nodes: the coordinator
// carries the rows, and commits on both by two-phase commit.

import { type RawBuilder, sql } from 'kysely';
import { bigintArray } from './binary-array.ts';
import { MigrationError } from './migration-error.ts';
import { listenerApplication } from './pg-notify.ts';
import type { Db, Tx } from './schema.ts';
import { createShard } from './shard-schemas.ts';
import { mainSchema, type Shard, ShardLayout, shardTables } from './shards.ts';

/** How far a split is. */
export interface SplitProgress {
  readonly step: 'copying' | 'comparing' | 'removing';
  /** Messages copied by this run. */
  readonly messages: number;
}

export interface SplitOptions {
  /** The number of shards to divide into. */
  readonly to: number;
  readonly onProgress?: (progress: SplitProgress) => void;
  /** Messages copied per transaction, about. */
  readonly chunkMessages?: number;
}

/** The name of the connections of a split: all others of sendbatch belong to instances. */
export const splitApplication = 'sendbatch split';

/** A chunk takes 1 to 2 s. */
const usualChunk = 50_000;
/** Channels per chunk at most. */
const chunkChannels = 2000;
const mostShards = 1024;

/** Tables that are copied as a whole, at last: they are not ordered by channel. */
const wholeTables: readonly ShardTable[] = ['flagged_message', 'webhook_outbox'];
/** Tables whose rows are found by the key of their channel, without messages. */
const keyedTables = shardTables.filter((table) => !['message', 'id_block', ...wholeTables].includes(table));
const copiedTables: readonly ShardTable[] = ['message', ...keyedTables, ...wholeTables];
type ShardTable = (typeof shardTables)[number];

/** A split under way. */
interface Split {
  readonly before: ShardLayout;
  readonly after: ShardLayout;
  readonly step: string;
  readonly lastKey: number;
  /** Of the next channel the messages up to this one are copied. */
  readonly lastSeq: number;
}

/**
 * Divides a database into `to` shards, or continues. `db` needs two connections without timeouts,
 * named `splitApplication`.
 */
export async function splitShards(db: Db, options: SplitOptions): Promise<void> {
  await whileOnlyOne(db, async () => {
    const earlier = await readSplit(db);
    const split = earlier ?? (await begin(db, options.to));
    const { before, after } = split;
    if (after.count !== options.to)
      throw new MigrationError(`a split into ${after.count} shards is under way: continue it with --to ${after.count}`);
    try {
      await refuseInstances(db);
    } catch (error) {
      // Nothing was done: instances may start again.
      if (earlier === undefined) await sql`delete from sendbatch.shard_split`.execute(db);
      throw error;
    }
    if (split.step === 'copying') {
      for (const shard of newShards(split)) await createShard(db, shard, schemaOfModel(before));
      await copyChannels(db, split, options);
      await copyWholeTables(db, split);
      options.onProgress?.({ step: 'comparing', messages: 0 });
      await refuseInstances(db);
      for (const table of copiedTables) await compare(db, split, table);
      await refuseInstances(db);
      await moveTo(db, split);
    }
    options.onProgress?.({ step: 'removing', messages: 0 });
    await removeOld(db, split, options.chunkMessages ?? usualChunk);
    for (const { schema } of after.all)
      for (const table of copiedTables) await sql`analyze ${sql.id(schema, table)}`.execute(db);
    await sql`delete from sendbatch.shard_split`.execute(db);
  });
}

/** Ends a split that has not removed anything yet, and removes its copies. */
export async function cancelSplit(db: Db): Promise<void> {
  await whileOnlyOne(db, async () => {
    const split = await readSplit(db);
    if (split === undefined) throw new MigrationError('no split is under way');
    if (split.step !== 'copying')
      throw new MigrationError(
        `the split has moved to ${split.after.count} shards: continue it with --to ${split.after.count}`,
      );
    for (const { schema } of newShards(split)) await sql`drop schema if exists ${sql.id(schema)} cascade`.execute(db);
    await sql`delete from sendbatch.shard_split`.execute(db);
  });
}

/** Holds an advisory lock, so that two commands never work on the same split. */
async function whileOnlyOne(db: Db, work: () => Promise<void>): Promise<void> {
  await db.transaction().execute(async (lock) => {
    const { rows } = await sql<{ is_locked: boolean }>`
      select pg_try_advisory_xact_lock(hashtextextended('sendbatch.split', 0)) as is_locked`.execute(lock);
    if (rows[0]?.is_locked !== true) throw new MigrationError('another split is running');
    await work();
  });
}

/** The split under way. */
export async function readSplit(db: Db): Promise<Split | undefined> {
  const row = await db.selectFrom('sendbatch.shard_split').selectAll().executeTakeFirst();
  return (
    row && {
      before: new ShardLayout(row.shards_before),
      after: new ShardLayout(row.shards),
      step: row.step,
      lastKey: row.last_key,
      lastSeq: row.last_seq,
    }
  );
}

async function begin(db: Db, to: number): Promise<Split> {
  const layout = await db.selectFrom('sendbatch.shard_layout').selectAll().executeTakeFirst();
  if (layout?.is_ready !== true)
    throw new MigrationError('the database is not ready: run npm run cli -- migrate first');
  const { shards } = layout;
  if (to <= shards)
    throw new MigrationError(`the database has ${shards} shard${shards === 1 ? '' : 's'}: name a larger number`);
  if (to > mostShards || !Number.isInteger(Math.log2(to)))
    throw new MigrationError(`the number of shards must be a power of two up to ${mostShards}`);
  await sql`
    insert into sendbatch.shard_split (shards_before, shards, step, last_key, last_seq)
    values (${shards}, ${to}, 'copying', 0, 0)`.execute(db);
  return { before: new ShardLayout(shards), after: new ShardLayout(to), step: 'copying', lastKey: 0, lastSeq: 0 };
}

/**
 * Refuses while instances are connected. An instance that starts later finds the split; one that
 * started before has a connection by now. Connections that listen bypass poolers, and end with
 * their instance; a pooler keeps others open, under the name of the client that they last served.
 */
async function refuseInstances(db: Db): Promise<void> {
  const { rows } = await sql<{ listening: number; others: number }>`
    select count(*) filter (where application_name = ${listenerApplication}) as listening,
      count(*) filter (where application_name <> ${listenerApplication}) as others
    from pg_stat_activity
    where datname = current_database() and application_name like 'sendbatch%' and application_name <> ${splitApplication}`.execute(
    db,
  );
  const [{ listening, others } = { listening: 0, others: 0 }] = rows;
  if (listening > 0)
    throw new MigrationError(`${listening} instances are connected: stop every instance and command, and try again`);
  if (others > 0)
    throw new MigrationError(
      `${others} connections of sendbatch to this database are open: stop every instance and command, close what a pooler keeps open (PgBouncer: stop it, or RECONNECT), and try again`,
    );
}

/**
 * The shards that get rows: all where the tables leave the main schema, else those that are added.
 */
function newShards({ before, after }: Split): readonly Shard[] {
  return before.count === 1 ? after.all : after.all.slice(before.count);
}

const schemaOfModel = (before: ShardLayout): string =>
  before.count === 1 ? mainSchema : (before.all[0] as Shard).schema;

/** Copies all channels after the position of the split, chunk by chunk. */
async function copyChannels(
  db: Db,
  split: Split,
  { onProgress, chunkMessages = usualChunk }: SplitOptions,
): Promise<void> {
  for (;;) {
    const messages = await db.transaction().execute(async (tx) => await copyChunk(tx, split, chunkMessages));
    if (messages === undefined) return;
    onProgress?.({ step: 'copying', messages });
  }
}

/** Copies the next channels; returns the number of their messages, undefined when none is left. */
async function copyChunk(tx: Tx, split: Split, chunkMessages: number): Promise<number | undefined> {
  const at = await lockPosition(tx);
  const keys = await keysAfter(tx, at.lastKey);
  if (keys.length === 0) return undefined;
  const { moving, last, isLarge } = await nextChunk(tx, split, { keys, at, chunkMessages });
  const [key = 0] = moving;
  const part = isLarge ? await copyPart(tx, split, key, at.lastSeq, chunkMessages) : undefined;
  const messages = part?.count ?? (await copyMessages(tx, split, moving));
  const isPart = messages === chunkMessages && part !== undefined;
  if (!isPart) await copyKeyed(tx, split, moving);
  const to: Position = isPart ? { lastKey: key - 1, lastSeq: part.lastSeq } : { lastKey: last, lastSeq: 0 };
  await sql`update sendbatch.shard_split set last_key = ${to.lastKey}, last_seq = ${to.lastSeq}`.execute(tx);
  return messages;
}

/**
 * Locks and reads the position. What PostgreSQL still runs of a command that was killed holds this
 * lock: the transaction waits for its end, and then reads what it has committed.
 */
async function lockPosition(tx: Tx): Promise<Position> {
  const { rows } = await sql<{ step: string; last_key: number; last_seq: number }>`
    select step, last_key, last_seq from sendbatch.shard_split for update`.execute(tx);
  const [row] = rows;
  if (row?.step !== 'copying') throw new MigrationError('another split has just gone on: try again');
  return { lastKey: row.last_key, lastSeq: row.last_seq };
}

/** Channels up to `lastKey` are copied, and of the next one the messages up to `lastSeq`. */
interface Position {
  readonly lastKey: number;
  readonly lastSeq: number;
}

/**
 * The next channels to copy: those that move among these keys, of about `chunkMessages` messages.
 * `isLarge`: one channel that is copied in parts. `last`: the key up to which they are copied then.
 */
async function nextChunk(
  tx: Tx,
  split: Split,
  { keys, at, chunkMessages }: { keys: readonly number[]; at: Position; chunkMessages: number },
): Promise<{ readonly moving: readonly number[]; readonly last: number; readonly isLarge: boolean }> {
  const all = keys.filter((key) => moveOf(key, split) !== undefined);
  const sizes = await sizesOf(tx, split.before, all);
  const moving: number[] = [];
  let messages = 0;
  let last = keys.at(-1) ?? at.lastKey;
  for (const key of all) {
    const size = sizes.get(key) ?? 0;
    if (moving.length > 0 && (messages + size > chunkMessages || at.lastSeq > 0)) {
      last = key - 1;
      break;
    }
    moving.push(key);
    messages += size;
  }
  const isLarge = moving.length === 1 && (messages > chunkMessages || at.lastSeq > 0);
  return { moving, last, isLarge };
}

async function keysAfter(db: Db | Tx, lastKey: number): Promise<number[]> {
  const { rows } = await sql<{ channel_key: number }>`
    select channel_key from sendbatch.channel where channel_key > ${lastKey}
    order by channel_key limit ${chunkChannels}`.execute(db);
  return rows.map((row) => row.channel_key);
}

/** Where a channel moves from and to; undefined when it stays. */
function moveOf(
  channelKey: number,
  { before, after }: Split,
): { readonly from: Shard; readonly to: Shard } | undefined {
  const [from, to] = [before.of(channelKey), after.of(channelKey)];
  return from.schema === to.schema ? undefined : { from, to };
}

/** Messages of channels by their heads. */
async function sizesOf(tx: Tx, before: ShardLayout, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const sizes = new Map<number, number>();
  for (const [{ schema }, keys] of before.group(channelKeys, (key) => key)) {
    const { rows } = await sql<{ channel_key: number; size: number }>`
      select h.channel_key, greatest(0, h.last_seq - coalesce(s.messages, 0)) as size
      from ${sql.id(schema, 'channel_head')} h left join ${sql.id(schema, 'swept')} s using (channel_key)
      where h.channel_key = any(${bigintArray(keys)}::bigint[])`.execute(tx);
    for (const row of rows) sizes.set(row.channel_key, row.size);
  }
  return sizes;
}

/** Runs work for channels that move between the same two schemas. */
async function perMove(
  split: Split,
  channelKeys: readonly number[],
  work: (move: { readonly from: Shard; readonly to: Shard }, keys: readonly number[]) => Promise<void>,
): Promise<void> {
  // A new shard gets its channels from one old one.
  for (const [, keys] of split.after.group(channelKeys, (key) => key)) {
    const move = moveOf(keys[0] ?? 0, split);
    if (move !== undefined) await work(move, keys);
  }
}

async function copyMessages(tx: Tx, split: Split, channelKeys: readonly number[]): Promise<number> {
  let count = 0;
  await perMove(split, channelKeys, async ({ from, to }, keys) => {
    const { numAffectedRows } = await sql`
      insert into ${sql.id(to.schema, 'message')}
      select m.* from unnest(${bigintArray(keys)}::bigint[]) as w(channel_key)
      join ${sql.id(from.schema, 'message')} m on m.channel_key = w.channel_key`.execute(tx);
    count += Number(numAffectedRows ?? 0n);
  });
  return count;
}

/** Copies the next messages of a channel that does not fit into a chunk. */
async function copyPart(
  tx: Tx,
  split: Split,
  channelKey: number,
  afterSeq: number,
  limit: number,
): Promise<{ count: number; lastSeq: number }> {
  const move = moveOf(channelKey, split);
  if (move === undefined) return { count: 0, lastSeq: afterSeq };
  const { rows } = await sql<{ count: number; last_seq: number | null }>`
    with copied as (
      insert into ${sql.id(move.to.schema, 'message')}
      select * from ${sql.id(move.from.schema, 'message')}
      where channel_key = ${channelKey} and message_seq > ${afterSeq} order by message_seq limit ${limit}
      returning message_seq
    )
    select count(*) as count, max(message_seq) as last_seq from copied`.execute(tx);
  return { count: rows[0]?.count ?? 0, lastSeq: rows[0]?.last_seq ?? afterSeq };
}

async function copyKeyed(tx: Tx, split: Split, channelKeys: readonly number[]): Promise<void> {
  await perMove(split, channelKeys, async ({ from, to }, keys) => {
    for (const table of keyedTables)
      await sql`
        insert into ${sql.id(to.schema, table)}
        select * from ${sql.id(from.schema, table)} where channel_key = any(${bigintArray(keys)}::bigint[])`.execute(
        tx,
      );
  });
}

/** Copies the tables that are not ordered by channel; a repeated copy replaces the first. */
async function copyWholeTables(db: Db, split: Split): Promise<void> {
  const { before, after } = split;
  for (const to of newShards(split)) {
    const from = before.of(to.index);
    const isOwn = sql`channel_key % ${after.count} = ${to.index}`;
    await db.transaction().execute(async (tx) => {
      await lockPosition(tx);
      for (const table of wholeTables) await sql`delete from ${sql.id(to.schema, table)}`.execute(tx);
      await sql`
        insert into ${sql.id(to.schema, 'flagged_message')}
        select * from ${sql.id(from.schema, 'flagged_message')} where ${isOwn}`.execute(tx);
      // Rows get new numbers, in their order.
      await sql`
        insert into ${sql.id(to.schema, 'webhook_outbox')} (channel_key, first_seq, last_seq)
        select channel_key, first_seq, last_seq from ${sql.id(from.schema, 'webhook_outbox')}
        where ${isOwn} order by outbox_id`.execute(tx);
    });
  }
}

/** Throws unless the new shards have the rows of a table that belong to them, and no others. */
async function compare(db: Db, split: Split, table: ShardTable): Promise<void> {
  const { before, after } = split;
  const row = table === 'webhook_outbox' ? sql`(t.channel_key, t.first_seq, t.last_seq)::text` : sql`t::text`;
  const digestsOf = async (schema: string) => {
    const { rows } = await sql<{ place: number; count: string; digest: string }>`
      select (channel_key % ${after.count})::integer as place, count(*)::text as count,
        sum(hashtextextended(${row}, 0)::numeric)::text as digest
      from ${sql.id(schema, table)} t group by 1`.execute(db);
    return new Map(rows.map(({ place, count, digest }) => [place, `${count} rows, digest ${digest}`]));
  };
  const none = 'no rows';
  const wayBack = 'nothing was removed; run shards split --cancel, then verify';
  for (const { schema, index } of before.all) {
    const old = await digestsOf(schema);
    for (const to of newShards(split)) {
      if (before.of(to.index).index !== index) continue;
      const copied = await digestsOf(to.schema);
      const wanted = old.get(to.index);
      old.delete(to.index);
      const found = copied.get(to.index);
      if (found === wanted && copied.size === (wanted === undefined ? 0 : 1)) continue;
      throw new MigrationError(
        `${to.schema}.${table} has ${found ?? none} and ${schema}.${table} ${wanted ?? none} for it: ${wayBack}`,
      );
    }
    // What stays, and what belongs to no shard of this one.
    old.delete(index);
    if (before.count > 1 && old.size > 0)
      throw new MigrationError(`${schema}.${table} has rows of channels of other shards: ${wayBack}`);
  }
}

/**
 * Makes the new shards the ones that count, and raises their blocks of ids above all that were
 * drawn.
 */
async function moveTo(db: Db, { before, after }: Split): Promise<void> {
  await db.transaction().execute(async (tx) => {
    await lockPosition(tx);
    const block = await lastBlock(tx, before);
    for (const { schema, index } of after.all) {
      const last = block + ((index - (block % after.count) + after.count) % after.count);
      await sql`update ${sql.id(schema, 'id_block')} set last = ${last}`.execute(tx);
    }
    await sql`update sendbatch.shard_layout set shards = ${after.count}, split_block = ${block}`.execute(tx);
    await sql`update sendbatch.shard_split set step = 'removing', last_key = 0, last_seq = 0`.execute(tx);
  });
}

/** The last block of ids that was drawn. */
async function lastBlock(tx: Tx, before: ShardLayout): Promise<number> {
  if (before.count === 1) {
    const { rows } = await sql<{ last: number }>`
      select case when is_called then last_value else 0 end as last from sendbatch.message_block`.execute(tx);
    return rows[0]?.last ?? 0;
  }
  let block = 0;
  for (const { schema } of before.all) {
    const { rows } = await sql<{ last: number }>`select last from ${sql.id(schema, 'id_block')}`.execute(tx);
    block = Math.max(block, rows[0]?.last ?? 0);
  }
  return block;
}

/** Removes the rows that have moved: with the tables of the main schema, or chunk by chunk. */
async function removeOld(db: Db, split: Split, chunkMessages: number): Promise<void> {
  const { before, after } = split;
  if (before.count === 1) {
    await db.transaction().execute(async (tx) => {
      for (const table of shardTables) await sql`drop table if exists ${sql.id(mainSchema, table)}`.execute(tx);
    });
    return;
  }
  let lastKey = split.step === 'removing' ? split.lastKey : 0;
  for (let keys = await keysAfter(db, lastKey); keys.length > 0; keys = await keysAfter(db, lastKey)) {
    const moved = keys.filter((key) => moveOf(key, split) !== undefined);
    for (const [{ schema }, own] of before.group(moved, (key) => key)) {
      const ofKeys = sql`channel_key = any(${bigintArray(own)}::bigint[])`;
      for (let removed = chunkMessages; removed === chunkMessages; )
        removed = await removeMessages(db, schema, ofKeys, chunkMessages);
      for (const table of keyedTables) await sql`delete from ${sql.id(schema, table)} where ${ofKeys}`.execute(db);
    }
    lastKey = keys.at(-1) ?? lastKey;
    await sql`update sendbatch.shard_split set last_key = ${lastKey}`.execute(db);
  }
  for (const { schema, index } of before.all)
    for (const table of wholeTables)
      await sql`delete from ${sql.id(schema, table)} where channel_key % ${after.count} <> ${index}`.execute(db);
}

async function removeMessages(db: Db, schema: string, ofKeys: RawBuilder<unknown>, limit: number): Promise<number> {
  const { rows } = await sql<{ removed: number }>`
    with old as materialized (
      select channel_key, message_seq from ${sql.id(schema, 'message')} where ${ofKeys} limit ${limit}
    ), gone as (
      delete from ${sql.id(schema, 'message')} m using old
      where m.channel_key = old.channel_key and m.message_seq = old.message_seq returning m.message_seq
    )
    select count(*) as removed from gone`.execute(db);
  return rows[0]?.removed ?? 0;
}
