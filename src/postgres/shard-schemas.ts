// The schemas of shards, and the number of shards that a database has.
//
// - `prepareShards`: fixes the number at the first start, and creates the schemas.
// - `readShardCount`: the number, or why this version cannot know it.
// - `forEachShard`: for migrations, which change the tables of every shard.
//
// A database with one shard has the tables of channels in `sendbatch`, as the migrations make them.
// With several shards they are moved: each shard's schema gets every table, index and constraint
// with the definition and name that it has in `sendbatch`, and those in `sendbatch` are dropped, so
// that a statement without a shard fails instead of finding nothing.

import { type Kysely, sql } from 'kysely';
import { citusCluster } from './citus.ts';
import { MigrationError } from './migration-error.ts';
import { mainSchema, onShard, type Shard, ShardLayout, shardTables } from './shards.ts';

// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
type AnyDb = Kysely<any>;

interface RecordedLayout {
  readonly shards: number;
  readonly is_ready: boolean;
}

/**
 * The number of shards that is recorded; undefined before the first start. The text of these
 * statements is part of the checksums of migrations that use `forEachShard`.
 */
export async function readShardCount(db: AnyDb): Promise<number | undefined> {
  return (await readLayout(db))?.shards;
}

async function readLayout(db: AnyDb): Promise<RecordedLayout | undefined> {
  const { rows } = await sql<{ exists: boolean }>`
    select to_regclass('sendbatch.shard_layout') is not null as exists`.execute(db);
  if (rows[0]?.exists !== true) return undefined;
  const recorded = await sql<RecordedLayout>`select shards, is_ready from sendbatch.shard_layout`.execute(db);
  return recorded.rows[0];
}

/**
 * Whether the number of shards is recorded and their schemas exist. Throws when the database has
 * another number than `wanted`.
 */
export async function areShardsReady(db: AnyDb, wanted: number): Promise<boolean> {
  await refuseSplit(db);
  const layout = await readLayout(db);
  if (layout !== undefined) assertCount(layout.shards, wanted);
  return layout?.is_ready === true;
}

/** Refuses while the database is divided into more shards (see shard-split.ts). */
async function refuseSplit(db: AnyDb): Promise<void> {
  const { rows } = await sql<{ exists: boolean }>`
    select to_regclass('sendbatch.shard_split') is not null as exists`.execute(db);
  if (rows[0]?.exists !== true) return;
  const found = await sql<{ shards: number }>`select shards from sendbatch.shard_split`.execute(db);
  const [split] = found.rows;
  if (split !== undefined)
    throw new MigrationError(
      `the database is being split into ${split.shards} shards: wait, or run npm run cli -- shards split --to ${split.shards} to continue`,
    );
}

function assertCount(shards: number, wanted: number): void {
  if (shards === wanted) return;
  const found = `the database has ${shards} shard${shards === 1 ? '' : 's'}, and SHARDS is ${wanted}: set SHARDS=${shards}`;
  throw new MigrationError(
    wanted > shards
      ? `${found}, or stop every instance and run npm run cli -- shards split --to ${wanted}`
      : `${found}; shards are never joined`,
  );
}

/**
 * Fixes the number of shards at the first start, creates their schemas, and checks the number at
 * every other start. A database that has channels already has one shard. Needs the lock of
 * `migrate`. A start that was killed is continued by the next one.
 */
export async function prepareShards(db: AnyDb, wanted: number): Promise<void> {
  let layout = await readLayout(db);
  if (layout === undefined) {
    const { rows } = await sql<{ used: boolean }>`select exists (select from sendbatch.channel) as used`.execute(db);
    if (rows[0]?.used === true) assertCount(1, wanted);
    layout = { shards: wanted, is_ready: wanted === 1 };
    await sql`
      insert into sendbatch.shard_layout (shards, is_ready) values (${layout.shards}, ${layout.is_ready})`.execute(db);
  }
  assertCount(layout.shards, wanted);
  if (layout.is_ready) return;
  // One transaction per schema: the locks of 1,024 schemas do not fit into PostgreSQL's lock table.
  for (const shard of new ShardLayout(wanted).all) await createShard(db, shard, mainSchema);
  await db.transaction().execute(async (tx) => {
    for (const table of shardTables) await sql`drop table if exists ${sql.id(mainSchema, table)}`.execute(tx);
    await sql`update sendbatch.shard_layout set is_ready = true`.execute(tx);
  });
}

/**
 * Creates the schema of a shard with the tables that `model` has, unless it exists. Statements are
 * sent one by one, since Citus refuses DDL inside DO. On Citus the schema is distributed: its
 * tables stand on one node together, which Citus chooses and can change.
 */
export async function createShard(db: AnyDb, shard: Shard, model: string): Promise<void> {
  const { index, schema } = shard;
  await db.transaction().execute(async (tx) => {
    const { rows } = await sql<{ exists: boolean }>`
      select to_regclass(${`${schema}.id_block`}) is not null as exists`.execute(tx);
    if (rows[0]?.exists === true) return;
    if ((await citusCluster(tx)) !== undefined)
      await sql`set local citus.enable_schema_based_sharding = on`.execute(tx);
    await sql`create schema if not exists ${sql.id(schema)}`.execute(tx);
    for (const table of shardTables) if (table !== 'id_block') await createTable(tx, schema, model, table);
    // The last block of message ids, congruent to the shard. Updated by the statement that stores:
    // a sequence would not do on Citus, where nodes know only those of column defaults.
    await sql`create table ${sql.id(schema, 'id_block')} (last bigint not null)`.execute(tx);
    await sql`insert into ${sql.id(schema, 'id_block')} (last) values (${sql.lit(index)})`.execute(tx);
  });
}

/** Creates a table of the model, if it has it: later migrations add tables to every shard. */
async function createTable(tx: AnyDb, schema: string, model: string, table: string): Promise<void> {
  const found = await sql<{
    exists: boolean;
  }>`select to_regclass(${`${model}.${table}`}) is not null as exists`.execute(tx);
  if (found.rows[0]?.exists !== true) return;
  const of = sql`${`${model}.${table}`}::regclass`;
  const here = sql.id(schema, table);
  const options = await sql<{ options: string | null }>`
    select array_to_string(reloptions, ', ') as options from pg_class where oid = ${of}`.execute(tx);
  const storage = options.rows[0]?.options ?? '';
  await sql`
    create table ${here} (like ${sql.id(model, table)} including defaults including identity including storage)
    ${sql.raw(storage === '' ? '' : `with (${storage})`)}`.execute(tx);
  const constraints = await sql<{ name: string; definition: string }>`
    select conname as name, pg_get_constraintdef(oid) as definition from pg_constraint
    where conrelid = ${of} and contype in ('p', 'u', 'c') order by conname`.execute(tx);
  for (const { name, definition } of constraints.rows)
    await sql`alter table ${here} add constraint ${sql.id(name)} ${sql.raw(definition)}`.execute(tx);
  const indexes = await sql<{ definition: string }>`
    select pg_get_indexdef(i.indexrelid) as definition from pg_index i
    where i.indrelid = ${of} and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
    order by 1`.execute(tx);
  for (const { definition } of indexes.rows)
    await sql.raw(definition.replace(` ON ${model}.${table} `, ` ON ${schema}.${table} `)).execute(tx);
}

/**
 * Runs statements of a migration on the tables of every shard: on `sendbatch`, or on each schema of
 * a database with several shards. Statements on tables of channels belong in here, others not.
 */
export async function forEachShard<T>(db: Kysely<T>, change: (db: Kysely<T>) => Promise<void>): Promise<void> {
  const count = (await readShardCount(db)) ?? 1;
  for (const shard of new ShardLayout(count).all) await change(onShard(db, shard));
}
