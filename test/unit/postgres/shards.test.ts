import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Kysely, sql } from 'kysely';
import { SharedConnection, withConnection } from '../../../src/postgres/connection.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { areShardsReady, forEachShard, prepareShards } from '../../../src/postgres/shard-schemas.ts';
import { oneShard, onShard, ShardLayout, shardTables, textOnShard } from '../../../src/postgres/shards.ts';
import { Statement } from '../../../src/postgres/sql.ts';
import { inTransaction } from '../../../src/postgres/transaction.ts';
import { createDatabase, openStore, type TestDatabase } from '../../support/database.ts';

const layout = new ShardLayout(8);
const third = layout.of(3);

test('a channel belongs to the shard that its key names, and a message to that of its block', () => {
  assert.deepEqual([layout.of(16).schema, layout.of(21).schema], ['sendbatch_000', 'sendbatch_005']);
  assert.equal(layout.ofMessage(4096 * 21 + 7).index, 5);
  assert.deepEqual(
    layout.group([9, 8, 17, 3], (key) => key).map(([{ index }, keys]) => [index, keys]),
    [
      [0, [8]],
      [1, [9, 17]],
      [3, [3]],
    ],
  );
  assert.deepEqual([oneShard.of(12345).schema, oneShard.ofMessage(12345).schema], ['sendbatch', 'sendbatch']);
  assert.equal(new ShardLayout(1024).of(1023).schema, 'sendbatch_1023');
});

test('only the tables of channels get the schema of a shard, with quotes or without', () => {
  assert.equal(
    textOnShard('select from sendbatch.message m join "sendbatch"."channel_head" using (channel_key)', third),
    'select from sendbatch_003.message m join "sendbatch_003"."channel_head" using (channel_key)',
  );
  const other = `select nextval('sendbatch.message_block') from sendbatch.channel, sendbatch.person_uid`;
  assert.equal(textOnShard(other, third), other);
});

describe('a database with eight shards', () => {
  let database: TestDatabase;
  let db: Db;
  before(async () => {
    database = await createDatabase('empty');
    db = openStore(database.url, { poolSize: 2 });
    await migrations(db, ({ number }) => number <= '0018');
    await prepareShards(db, 8);
    await migrations(db, ({ number }) => number > '0018');
  });
  after(async () => {
    await db.destroy();
    await database.drop();
  });

  test('each shard has the tables, indexes and constraints that migrations make in a database with one', async () => {
    const single = await createDatabase('empty');
    const other = openStore(single.url);
    try {
      await migrations(other, () => true);
      const expected = await shapeOf(other, 'sendbatch');
      assert.ok(expected.length > 80);
      for (const { schema } of layout.all) assert.deepEqual(await shapeOf(db, schema), expected, schema);
      assert.deepEqual(await shapeOf(db, 'sendbatch'), []);
    } finally {
      await other.destroy();
      await single.drop();
    }
  });

  test('another number of shards is refused in one line that says the way out', async () => {
    assert.equal(await areShardsReady(db, 8), true);
    await assert.rejects(prepareShards(db, 4), {
      message: 'the database has 8 shards, and SHARDS is 4: set SHARDS=8; shards are never joined',
    });
    await assert.rejects(areShardsReady(db, 16), {
      message:
        'the database has 8 shards, and SHARDS is 16: set SHARDS=8, or stop every instance and run npm run cli -- shards split --to 16',
    });
  });

  test('a pool, a connection, a shared one and both kinds of transaction reach the tables of the shard', async () => {
    const prepared = new Statement<{ name: string }>({
      name: 'where am I',
      text: `select distinct tableoid::regclass::text as name from sendbatch.id_block where $1 = 1`,
    });
    const whereOf = async (on: Db) => {
      const [built, [named]] = await Promise.all([
        sql<{ name: string }>`select tableoid::regclass::text as name from sendbatch.id_block`.execute(on),
        prepared.run(on, [1]),
      ]);
      return [built.rows[0]?.name, named?.name];
    };
    for (const shard of [third, layout.of(5)]) {
      const expected = [`${shard.schema}.id_block`, `${shard.schema}.id_block`];
      const shared = new SharedConnection(db);
      assert.deepEqual(await whereOf(onShard(db, shard)), expected);
      assert.deepEqual(await withConnection(db, (on) => whereOf(onShard(on, shard))), expected);
      assert.deepEqual(await withConnection(onShard(db, shard), whereOf), expected);
      assert.deepEqual(await shared.run((on) => whereOf(onShard(on, shard))), expected);
      assert.deepEqual(await db.transaction().execute((tx) => whereOf(onShard(tx, shard))), expected);
      const piped = inTransaction(
        db,
        (tx) => whereOf(onShard(tx, shard)),
        (_, read) => ({ sent: [], result: read }),
      );
      assert.deepEqual(await piped, expected);
    }
  });

  test('a transaction that is begun on a shard is rolled back when it fails', async () => {
    const on = onShard(db, third);
    const insert = sql`insert into sendbatch.swept (channel_key, messages) values (3, 1)`;
    await assert.rejects(
      on.transaction().execute(async (tx) => {
        await insert.execute(tx);
        throw new Error('no');
      }),
    );
    await on.transaction().execute((tx) => insert.execute(tx));
    const { rows } = await sql`select channel_key from sendbatch_003.swept`.execute(db);
    assert.equal(rows.length, 1);
  });
});

test('a start that is killed while it creates the schemas is continued by the next one', async (context) => {
  const database = await createDatabase('empty');
  const db = openStore(database.url, { poolSize: 2 });
  context.after(async () => {
    await db.destroy();
    await database.drop();
  });
  await migrations(db, () => true);
  // A table in the way fails the creation of the third schema, as a kill would end it there.
  await sql`create schema sendbatch_002 create table message (odd integer)`.execute(db);
  await assert.rejects(prepareShards(db, 4));
  assert.equal(await areShardsReady(db, 4), false);
  await sql`drop schema sendbatch_002 cascade`.execute(db);
  await prepareShards(db, 4);
  assert.equal(await areShardsReady(db, 4), true);
  for (const { schema } of new ShardLayout(4).all)
    assert.deepEqual(await shapeOf(db, schema), await shapeOf(db, 'sendbatch_000'));
});

test('a database that has channels already has one shard', async (context) => {
  const database = await createDatabase('empty');
  const db = openStore(database.url, { poolSize: 2 });
  context.after(async () => {
    await db.destroy();
    await database.drop();
  });
  await migrations(db, () => true);
  await sql`insert into sendbatch.channel (channel_type, sequence, channel_id) values (2, 0, 'room')`.execute(db);
  await assert.rejects(prepareShards(db, 8), /^Error: .*has 1 shard, and SHARDS is 8/);
  await prepareShards(db, 1);
  assert.equal(await areShardsReady(db, 1), true);
});

/** Runs the migrations whose number is chosen, on an empty database or a migrated one. */
async function migrations(db: Db, isChosen: (migration: { number: string }) => boolean): Promise<void> {
  const folder = join(import.meta.dirname, '../../../src/postgres/migrations');
  await sql`create schema if not exists sendbatch`.execute(db);
  for (const file of readdirSync(folder).sort()) {
    if (!isChosen({ number: file.slice(0, 4) })) continue;
    const { up } = (await import(join(folder, file))) as { up(db: Kysely<unknown>): Promise<void> };
    await up(db as unknown as Kysely<unknown>);
  }
}

/** Columns, constraints, indexes and storage options of the tables of channels in a schema. */
async function shapeOf(db: Db, schema: string): Promise<string[]> {
  const tables = shardTables.filter((table) => table !== 'id_block');
  const { rows } = await sql<{ line: string }>`
    select replace(line, ${`${schema}.`}, '') as line from (
      select concat_ws(' ', table_name, ordinal_position, column_name, udt_name, collation_name, is_nullable, column_default,
        is_identity, identity_generation) as line
      from information_schema.columns where table_schema = ${schema} and table_name = any(${tables})
      union all
      select concat_ws(' ', t.relname, c.conname, pg_get_constraintdef(c.oid)) from pg_constraint c
      join pg_class t on t.oid = c.conrelid join pg_namespace n on n.oid = t.relnamespace
      where n.nspname = ${schema} and t.relname = any(${tables})
      union all
      select indexdef from pg_indexes where schemaname = ${schema} and tablename = any(${tables})
      union all
      select concat_ws(' ', t.relname, t.reloptions::text) from pg_class t join pg_namespace n on n.oid = t.relnamespace
      where n.nspname = ${schema} and t.relname = any(${tables})
    ) lines order by 1`.execute(db);
  return rows.map((row) => row.line);
}

test('forEachShard runs a change on every shard, and once on a database with one', async (context) => {
  for (const [count, expected] of [
    [1, ['sendbatch']],
    [2, ['sendbatch_000', 'sendbatch_001']],
  ] as const) {
    const database = await createDatabase('empty');
    const db = openStore(database.url, { poolSize: 2 });
    context.after(async () => {
      await db.destroy();
      await database.drop();
    });
    await migrations(db, () => true);
    await prepareShards(db, count);
    await forEachShard(db, async (at) => {
      await sql`alter table sendbatch.swept add column note text`.execute(at);
    });
    const { rows } = await sql<{ name: string }>`
      select table_schema as name from information_schema.columns
      where table_name = 'swept' and column_name = 'note' order by 1`.execute(db);
    assert.deepEqual(
      rows.map((row) => row.name),
      expected,
    );
  }
});
