import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { installJobs } from '../../src/batches/job-queue.sql.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { type DatabaseOptions, openDatabase } from '../../src/postgres/pool.ts';
import type { Db } from '../../src/postgres/schema.ts';
import { prepareShards } from '../../src/postgres/shard-schemas.ts';
import { ShardLayout, shardTables, textOnShard } from '../../src/postgres/shards.ts';
import { byTest } from './by-test.ts';
import { citusUrl, createCitusDatabase, dropCitusDatabase } from './citus.ts';

export const adminUrlVariable = 'TEST_ADMIN_URL';
/** The migrated template, with this many shards. */
export const templateName = (count: number) => `sendbatch_test_template_${count}`;
/** The numbers of shards that test files use: one, and what files with several set as SHARDS. */
export const shardCounts = [1, 8];

/** How the databases of this process are divided; SHARDS is set for files that run with several. */
export const shards = new ShardLayout(Number(process.env.SHARDS ?? '1'));

/** Schema of views over the tables of all shards, in databases with several. */
const viewSchema = 'every_shard';

/**
 * SQL of a test that reads the tables of channels, for databases of this process: with several
 * shards it reads views over all of them.
 */
export function acrossShards(text: string): string {
  if (shards.count === 1) return text;
  return text.replace(new RegExp(`\\bsendbatch\\.(?=(${shardTables.join('|')})\\b)`, 'g'), `${viewSchema}.`);
}

/**
 * SQL of a test that changes the tables of channels, once per shard: rows are changed where they
 * are. SQL about other tables once.
 */
export function perShard(text: string): string[] {
  if (shards.count === 1) return [text];
  return [...new Set(shards.all.map((shard) => `${byTest}${textOnShard(text, shard)}`))];
}

/** Creates the views that `acrossShards` names, unless they exist. */
export async function createShardViews(client: pg.Client): Promise<void> {
  if (shards.count === 1) return;
  await client.query(`create schema if not exists ${viewSchema}`);
  for (const table of shardTables) {
    const parts = shards.all.map(({ schema }) => `select * from ${schema}.${table}`);
    await client.query(`create or replace view ${viewSchema}.${table} as ${parts.join(' union all ')}`);
  }
}

/** A database of one test file. */
export interface TestDatabase {
  /** In the form of DATABASE_URL. */
  readonly url: string;
  drop(): Promise<void>;
}

/**
 * Clones the migrated template (50 ms) or another database without sessions, or creates an empty
 * one. `undivided`: one shard, whatever SHARDS says, and on Citus too.
 */
export async function createDatabase(
  from: 'template' | 'undivided' | 'empty' | { readonly copyOf: string } = 'template',
): Promise<TestDatabase> {
  const adminUrl = process.env[adminUrlVariable];
  if (adminUrl === undefined)
    throw new Error(
      'no test server: run all tests as `npm test`, one file as `npm run test:file -- test/contract/send-batch.test.ts`',
    );
  const name = `sendbatch_test_${randomBytes(6).toString('hex')}`;
  const count = from === 'undivided' ? 1 : shards.count;
  if (citusUrl !== undefined && (shards.count > 1 || from === 'undivided')) {
    // A copy would share the metadata of its template.
    if (typeof from !== 'string') throw new Error('a database on Citus cannot be copied');
    const distributed = await createCitusDatabase(name);
    if (from !== 'empty') await migrateDatabase(distributed, count);
    return { url: distributed, drop: () => dropCitusDatabase(name) };
  }
  const source = typeof from === 'string' ? templateName(count) : new URL(from.copyOf).pathname.slice(1);
  // Copying files takes 20 ms of CPU; writing each page to the WAL takes 35 to 120 ms.
  const copied = from === 'empty' ? '' : ` template ${source} strategy file_copy`;
  await administer(adminUrl, `create database ${name}${copied}`);
  const url = new URL(adminUrl);
  url.pathname = `/${name}`;
  return { url: url.href, drop: () => administer(adminUrl, `drop database if exists ${name} with (force)`) };
}

/** The session of this process that creates and drops databases, opened for the first of them. */
let admin: AdminClient | undefined;
/** pg's types omit these. */
type AdminClient = pg.Client & { ref(): void; unref(): void };
let administering: Promise<unknown> = Promise.resolve();

/** Runs statements of this process one after the other, in one session for all. */
function administer(adminUrl: string, statement: string): Promise<void> {
  const done = administering.then(() => carryOut(adminUrl, statement));
  administering = done.catch(() => {});
  return done;
}

/** The template can be busy while another file clones it: PostgreSQL reports object_in_use. */
async function carryOut(adminUrl: string, statement: string): Promise<void> {
  admin ??= await openAdmin(adminUrl);
  const client = admin;
  // The session keeps this process alive only while it works.
  client.ref();
  try {
    for (let attempt = 0; ; attempt++)
      try {
        await client.query(statement);
        return;
      } catch (error) {
        if ((error as { code?: string }).code !== '55006' || attempt === 50) throw error;
      }
  } finally {
    client.unref();
  }
}

async function openAdmin(adminUrl: string): Promise<AdminClient> {
  const client = new pg.Client({ connectionString: adminUrl }) as AdminClient;
  // Lost: the next statement opens another one.
  client.on('error', () => {
    admin = undefined;
  });
  await client.connect();
  return client;
}

/** Migrates a database to the current schema, with this many shards. */
export async function migrateDatabase(url: string, count: number): Promise<void> {
  const db = openDatabase({
    connection: { url },
    poolSize: 2,
    lockTimeoutMs: 0,
    statementTimeoutMs: 0,
    connectTimeoutMs: 60_000,
    onConnectionError: () => {},
  });
  await migrate(db, async () => {
    await prepareShards(db, count);
    return [];
  });
  await db.destroy();
  await installJobs({ connectionString: url });
}

/** A database of one test, opened as the store opens it; `close` drops it. */
export async function openOwnStore(): Promise<{ readonly db: Db; close(): Promise<void> }> {
  const database = await createDatabase();
  const db = openStore(database.url);
  return {
    db,
    async close() {
      await db.destroy();
      await database.drop();
    },
  };
}

/** Opens a database as the store does, with one connection unless `more` says otherwise. */
export function openStore(url: string, more: Partial<DatabaseOptions> = {}): Db {
  return openDatabase({
    connection: { url },
    poolSize: 1,
    lockTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    connectTimeoutMs: 60_000,
    onConnectionError: () => {},
    ...more,
  });
}

/** Locks the heads of channels in the session's transaction, as an operator might. */
export async function lockHeadsOf(session: pg.Client, channelIds: readonly string[]): Promise<void> {
  const { rows } = await session.query<{ key: string }>(
    'select channel_key as key from sendbatch.channel where channel_id = any($1) order by channel_key',
    [channelIds],
  );
  for (const [{ schema }, keys] of shards.group(rows, ({ key }) => Number(key)))
    await session.query(
      `select from ${schema}.channel_head where channel_key = any($1) order by channel_key for update`,
      [keys.map(({ key }) => key)],
    );
}
