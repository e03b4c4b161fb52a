import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Kysely, PostgresDialect, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { migrate } from '../../src/postgres/migrate.ts';
import { checksumOf } from '../../src/postgres/migration-checksum.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { runToEnd } from '../support/process.ts';
import { startService } from '../support/service.ts';

const folder = join(import.meta.dirname, '../../src/postgres/migrations');
const names = readdirSync(folder)
  .map((file) => file.replace(/\.ts$/, ''))
  .sort();

/**
 * What a database of each version contains besides: rows of the tables that its migration created.
 * `u2@u1` is a person channel.
 */
const rowsOf: Record<string, string> = {
  '0001-messages': `
    insert into sendbatch.channel (channel_type, sequence, channel_id) values (1, 0, 'u2@u1');
    insert into sendbatch.channel_head (channel_key, last_seq) select channel_key, 2 from sendbatch.channel;
    insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
      select channel_key, n, nextval('sendbatch.message_block') * 4096, 1700000000000 + n, gen_random_uuid(), 0, '\\x00', 'u1', 'no ' || n, 'old'
      from sendbatch.channel, generate_series(1, 2) n`,
  '0008-batches': `
    insert into sendbatch.batch (batch_id, created_at, ended_at, turns_taken, priority, message_count, accepted_count, state, caller_id, caller, name,
        request_id, content_hash, templates)
      values ('00000000-0000-4000-8000-000000000001', 1, null, 0, 1, 1, 0, 'receiving', 'open', '{}', 'broken off', '', '\\x00', '{}')`,
};

/** The text of 0008-batches before it was edited. */
const firstBatches: Migration = {
  async up(db) {
    const { up } = (await import(join(folder, '0008-batches.ts'))) as Migration;
    await up(db);
    for (const text of [
      'alter table sendbatch.batch drop column received_at',
      'drop index sendbatch.batch_chunk_order',
      'create index batch_chunk_next on sendbatch.batch_chunk (batch_id, due_at, ordinal) where not settled',
    ])
      await sql.raw(text).execute(db);
  },
};

describe('a database of every schema version, with data', () => {
  let current: TestDatabase;
  let wanted: unknown;
  before(async () => {
    current = await createDatabase();
    wanted = await schemaOf(current.url);
  });
  after(() => current.drop());

  test('a database of every older version is upgraded to the schema of a new one, keeps its rows, and can be served', async () => {
    for (const batches of ['as it is', 'as it was at first'] as const) {
      const growing = await createDatabase('empty');
      try {
        await ask(growing.url, 'create schema sendbatch');
        for (const name of names) {
          await applyUpTo(growing.url, name, batches === 'as it is' ? {} : { '0008-batches': firstBatches });
          const rows = rowsOf[name];
          if (rows !== undefined) await ask(growing.url, rows);
          if (batches === 'as it was at first' && name !== '0008-batches' && name !== '0012-unsettled') continue;
          const old = await createDatabase({ copyOf: growing.url });
          try {
            await upgrade(old.url);
            assert.deepEqual(await schemaOf(old.url), wanted, `${name}, 0008-batches ${batches}`);
            const { rows: kept } = await ask(
              old.url,
              'select message_seq, payload from sendbatch.message order by message_seq',
            );
            assert.deepEqual(
              kept.map(({ message_seq, payload }) => `${message_seq} ${payload}`),
              ['1 old', '2 old'],
              name,
            );
            if (batches === 'as it was at first' && name === '0008-batches') await isServed(old.url);
          } finally {
            await old.drop();
          }
        }
      } finally {
        await growing.drop();
      }
    }
  });
});

/**
 * Submits a batch, which needs what 0008-batches lacked at first, and sends and reads in the old
 * channel.
 */
async function isServed(url: string): Promise<void> {
  const service = await startService({ databaseUrl: url });
  try {
    const post = async (path: string, body: object) => {
      const answer = await fetch(`${service.url}${path}`, { method: 'POST', body: JSON.stringify(body) });
      return { status: answer.status, body: await answer.json() };
    };
    const message = { from_uid: 'u1', channel_id: 'u2', channel_type: 1, payload: 'bmV3' };
    const submitted = await post('/v1/batches', { messages: [message] });
    assert.equal(submitted.status, 200, JSON.stringify(submitted.body));
    const sent = await post('/message/send', message);
    assert.equal(sent.status, 200, JSON.stringify(sent.body));
    const { rows } = await ask(url, `select received_at from sendbatch.batch where name = 'broken off'`);
    assert.deepEqual(rows, [{ received_at: '1' }]);
  } finally {
    await service.stop();
  }
}

describe('a migration whose text differs from the one that the database was created with', () => {
  test('an edited migration is refused at a start, by migrate --status and by verify, with a way out that works', async (context) => {
    const database = await createDatabase();
    context.after(() => database.drop());
    const env = { DATABASE_URL: database.url };
    await ask(database.url, `update sendbatch.migration_checksum set checksum = 'other' where name = '0008-batches'`);
    for (const args of [[], ['migrate', '--status'], ['verify']]) {
      const { code, output } = await runToEnd(env, args);
      assert.equal(code, 1, args.join(' '));
      assert.match(
        output,
        /^sendbatch: the database was made with another text of 0008-batches \(other, here [0-9a-f]{16}\) than this version has: run the version that made it; .*delete the row from sendbatch\.migration_checksum/m,
      );
    }
    await ask(database.url, `delete from sendbatch.migration_checksum where name = '0008-batches'`);
    assert.equal((await runToEnd(env, ['migrate'])).code, 0);
    assert.equal((await runToEnd(env, ['migrate', '--status'])).code, 0);
    const { rows } = await ask(database.url, 'select count(*)::int as count from sendbatch.migration_checksum');
    assert.deepEqual(rows, [{ count: names.length }]);
  });

  test('a migration is identified by its SQL: white space does not matter, any word does', async () => {
    const sums = await Promise.all(
      ['create table a (b int)', 'create  table a\n (b int)', 'create table a (b bigint)'].map((text) =>
        checksumOf({
          up: async (db) => void (await sql.raw(text).execute(db)),
        }),
      ),
    );
    assert.equal(sums[0], sums[1]);
    assert.notEqual(sums[0], sums[2]);
  });
});

/** Applies the migrations as their version did, without checksums. */
async function applyUpTo(url: string, last: string, instead: Record<string, Migration>): Promise<void> {
  const files = names.filter((name) => name <= last);
  const entries = files.map(
    async (name) => [name, instead[name] ?? (await import(join(folder, `${name}.ts`)))] as const,
  );
  const all = Object.fromEntries(await Promise.all(entries)) as Record<string, Migration>;
  await withDatabase(url, async (db) => {
    const { error } = await new Migrator({
      db,
      provider: { getMigrations: async () => all },
      migrationTableSchema: 'sendbatch',
      migrationTableName: 'migration',
      migrationLockTableName: 'migration_lock',
    }).migrateToLatest();
    if (error !== undefined) throw error;
  });
}

async function upgrade(url: string): Promise<void> {
  await withDatabase(url, (db) => migrate(db));
}

async function withDatabase(url: string, work: (db: Kysely<unknown>) => Promise<unknown>): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool }) });
  try {
    await work(db);
  } finally {
    await db.destroy();
  }
}

/**
 * The schema's columns, indexes and constraints, sorted: columns that were added later have other
 * positions.
 */
async function schemaOf(url: string): Promise<unknown> {
  const columns = await ask(
    url,
    `select table_name, column_name, data_type, is_nullable, column_default, collation_name from information_schema.columns
      where table_schema = 'sendbatch' order by 1, 2`,
  );
  const indexes = await ask(url, `select indexdef from pg_indexes where schemaname = 'sendbatch' order by 1`);
  const constraints = await ask(
    url,
    `select conrelid::regclass::text as of, conname, pg_get_constraintdef(oid) as is from pg_constraint
      where connamespace = 'sendbatch'::regnamespace and contype <> 'n' order by 1, 2`,
  );
  const settings = await ask(
    url,
    `select relname, relkind, relpersistence, reloptions from pg_class where relnamespace = 'sendbatch'::regnamespace order by 1`,
  );
  return [columns.rows, indexes.rows, constraints.rows, settings.rows];
}

async function ask(url: string, text: string) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await client.query(text);
  } finally {
    await client.end();
  }
}
