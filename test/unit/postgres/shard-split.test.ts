import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import pg from 'pg';
import { openShards } from '../../../src/app/database.ts';
import { loadConfig } from '../../../src/config/index.ts';
import { verify } from '../../../src/integrity/verify.ts';
import type { ChannelViolation } from '../../../src/integrity/violations.ts';
import { createLog } from '../../../src/observability/log.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { listShards } from '../../../src/postgres/shard-list.ts';
import { areShardsReady } from '../../../src/postgres/shard-schemas.ts';
import { cancelSplit, splitApplication, splitShards } from '../../../src/postgres/shard-split.ts';
import { onShard, ShardLayout, shardTables } from '../../../src/postgres/shards.ts';
import { adminUrlVariable, createDatabase, openStore, type TestDatabase } from '../../support/database.ts';
import { jsonCaller } from '../../support/json.ts';
import { runToEnd, spawnCommand } from '../../support/process.ts';
import { startService } from '../../support/service.ts';
import { mountSmallDisk } from '../../support/small-disk.ts';
import { query } from '../../support/verify.ts';
import { until } from '../../support/watch.ts';

const chunkMessages = 40;
const payload = Buffer.from('x').toString('base64');

describe('a split of a database into more shards', () => {
  let database: TestDatabase;
  const atEnd: (() => unknown)[] = [];
  before(async () => {
    database = await createDatabase('undivided');
  });
  after(async () => {
    await database.drop();
    for (const end of atEnd) await end();
  });

  const openSplit = () =>
    openStore(database.url, { poolSize: 2, statementTimeoutMs: 0, applicationName: splitApplication });
  const using = async <T>(db: Db, work: (db: Db) => Promise<T>): Promise<T> => {
    try {
      return await work(db);
    } finally {
      await db.destroy();
    }
  };
  const serve = async <T>(shards: number, work: (call: ReturnType<typeof jsonCaller>) => Promise<T>) => {
    const service = await startService({ databaseUrl: database.url, shards });
    try {
      return await work(jsonCaller(service.url));
    } finally {
      await service.stop();
    }
  };
  /** Every row of the tables of channels, as text, but for the numbers of the outbox. */
  const rowsOf = async (shards: number) =>
    await using(openSplit(), async (db) => {
      const rows: string[] = [];
      for (const shard of new ShardLayout(shards).all)
        for (const table of shardTables.filter((each) => !['id_block', 'webhook_outbox'].includes(each))) {
          const found = await sql<{ row: string }>`
            select t::text as row from ${sql.table(`sendbatch.${table}`)} t`.execute(onShard(db, shard));
          rows.push(...found.rows.map(({ row }) => `${table} ${row}`));
        }
      return rows.sort();
    });
  const faults = async (shards: number) =>
    await using(openStore(database.url, { poolSize: 2, statementTimeoutMs: 0 }), async (db) => {
      const found: ChannelViolation[] = [];
      for await (const step of verify({ db, shards: new ShardLayout(shards) }, 2)) found.push(...step.faults);
      return found;
    });
  const batch = (channel: string, from: number, count: number, more: object = {}) =>
    Array.from({ length: count }, (_, index) => ({
      from_uid: 'u0',
      channel_id: channel,
      channel_type: 2,
      client_msg_no: `${channel} ${from + index}`,
      payload,
      ...more,
    }));
  const send = async (call: ReturnType<typeof jsonCaller>, messages: readonly object[]) => {
    const { status, body } = await call.post('/message/sendbatch', messages);
    assert.equal(status, 200, JSON.stringify(body));
    return body;
  };
  const seqsOf = async (call: ReturnType<typeof jsonCaller>, channel: string) => {
    const { body } = await call.get(`/v1/channels/2/${channel}/messages?limit=1000`);
    return body.messages.map((each: { message_seq: number }) => each.message_seq);
  };
  /** Splits, and is killed at each of these progress reports, and once between two chunks. */
  const splitKilled = async (to: number) => {
    let reports = 0;
    for (let run = 0; ; run++) {
      const db = openSplit();
      let killed = false;
      const splitting = splitShards(db, {
        to,
        chunkMessages,
        onProgress() {
          reports++;
          if (run < 3 && reports === run * 2 + 2) {
            killed = true;
            throw new Error('killed');
          }
        },
      });
      try {
        await splitting;
        return run;
      } catch (error) {
        assert.ok(killed, String(error));
        await assert.rejects(areShardsReady(db, to), /is being split into/);
      } finally {
        await db.destroy();
      }
    }
  };

  test('a split that is killed continues, keeps every row, and refuses instances until it has ended', async () => {
    await serve(1, async (call) => {
      for (let index = 0; index < 20; index++) {
        const { status } = await call.post('/channel', {
          channel_id: `c${index}`,
          channel_type: 2,
          subscribers: ['u0', `m${index}`],
        });
        assert.equal(status, 200);
      }
      for (let index = 0; index < 20; index++) await send(call, batch(`c${index}`, 0, index === 7 ? 170 : 5 + index));
      await send(call, batch('c3', 0, 2, { header: { sync_once: 1 } }));
    });
    const before = await rowsOf(1);

    await using(openStore(database.url), async (instance) => {
      await sql`select 1`.execute(instance);
      await using(openSplit(), async (db) => {
        await assert.rejects(splitShards(db, { to: 8 }), /1 connections of sendbatch .* are open/);
        assert.deepEqual((await listShards(db)).split, undefined);
      });
    });
    await using(openSplit(), async (db) => {
      await assert.rejects(splitShards(db, { to: 1 }), /has 1 shard: name a larger number/);
      await assert.rejects(splitShards(db, { to: 6 }), /power of two/);
      await assert.rejects(
        splitShards(db, {
          to: 4,
          chunkMessages,
          onProgress() {
            throw new Error('killed');
          },
        }),
        /killed/,
      );
      await assert.rejects(splitShards(db, { to: 8 }), /a split into 4 shards is under way/);
      await cancelSplit(db);
      assert.deepEqual((await listShards(db)).split, undefined);
    });

    assert.equal(await splitKilled(2), 3, 'the split was killed three times');
    assert.deepEqual(await rowsOf(2), before);
    assert.equal(await splitKilled(8), 3, 'the split was killed three times');
    assert.deepEqual(await rowsOf(8), before);
    assert.deepEqual(await faults(8), []);
    await using(openSplit(), async (db) => {
      const { shards, split } = await listShards(db);
      assert.equal(split, undefined);
      assert.equal(shards.length, 8);
      assert.equal(
        shards.reduce((sum, each) => sum + each.messages, 0),
        before.filter((row) => row.startsWith('message ')).length,
      );
      await assert.rejects(areShardsReady(db, 1), /has 8 shards/);
    });

    await serve(8, async (call) => {
      const repeated = await send(call, batch('c7', 0, 100));
      assert.ok(repeated.every((each: { duplicate: boolean }) => each.duplicate));
      const stored = await send(call, batch('c7', 170, 3));
      assert.deepEqual(
        stored.map((each: { message_seq: number }) => each.message_seq),
        [171, 172, 173],
      );
      assert.deepEqual(
        await seqsOf(call, 'c7'),
        Array.from({ length: 173 }, (_, index) => index + 1),
      );
    });
    assert.deepEqual(await faults(8), []);
  });

  test('a split whose copy differs is refused, and can be canceled', async () => {
    // A message without a channel, which belongs to another shard of sixteen.
    const schema = 'sendbatch_001';
    await query(
      database.url,
      `insert into ${schema}.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
       values (${16 * 1000 + 9}, 1, 1, 0, gen_random_uuid(), 0, '', 'u', 'k', 'x')`,
    );
    assert.deepEqual(
      (await faults(8)).map(({ kind }) => kind),
      ['CHANNEL_MISSING'],
    );
    const before = await rowsOf(8);
    await using(openSplit(), async (db) => {
      await assert.rejects(splitShards(db, { to: 16, chunkMessages }), /nothing was removed/);
      await cancelSplit(db);
    });
    assert.deepEqual(await rowsOf(8), before);
    await query(database.url, `delete from ${schema}.message where channel_key = ${16 * 1000 + 9}`);
  });

  /** The statement that a split is executing. */
  const isExecuting = async (statement: string) => {
    const text = `select from pg_stat_activity
      where datname = current_database() and application_name = $1 and state = 'active' and query like $2`;
    return (await query(database.url, text, [splitApplication, `%${statement}%`])).length === 1;
  };
  /** Runs the command until it waits at a statement, which `lock` blocks, and kills it. */
  const killCommandAt = async (statement: string, lock: string) => {
    const session = new pg.Client({ connectionString: database.url });
    await session.connect();
    await session.query('begin');
    await session.query(lock);
    const command = spawnCommand({ DATABASE_URL: database.url }, ['shards', 'split', '--to', '16']);
    let hasEnded = false;
    void command.exit.then(() => (hasEnded = true));
    await until(`the split executes ${statement}`, async () => {
      assert.ok(!hasEnded, command.output());
      return await isExecuting(statement);
    });
    command.child.kill('SIGKILL');
    assert.equal(await command.exit, null);
    await session.end();
  };

  test('a split whose process is killed in a chunk, while it moves or while it removes rows continues', async () => {
    const before = await rowsOf(8);
    await using(openSplit(), async (db) => {
      const onProgress = () => {
        throw new Error('killed');
      };
      await assert.rejects(splitShards(db, { to: 16, chunkMessages, onProgress }), /killed/);
    });
    const [row] = await query(
      database.url,
      'select max(channel_key) as key from sendbatch.channel where channel_key % 16 >= 8',
    );
    const key = Number(row?.key);
    const head = `sendbatch_0${String(key % 16).padStart(2, '0')}.channel_head`;
    await killCommandAt(
      `insert into "${head.replace('.', '"."')}"`,
      `insert into ${head} (channel_key, last_seq) values (${key}, 0)`,
    );
    await killCommandAt('update "sendbatch_000"."id_block"', 'lock table sendbatch_000.id_block in share mode');
    const { shards } = await using(openSplit(), listShards);
    assert.equal(shards.length, 8);
    await killCommandAt('delete from "sendbatch_001"."swept"', 'lock table sendbatch_001.swept in share mode');
    const { code, output } = await runToEnd({ DATABASE_URL: database.url }, ['shards', 'split', '--to', '16']);
    assert.deepEqual([code, output.includes('the database has 16 shards: set SHARDS=16')], [0, true], output);
    assert.deepEqual(await rowsOf(16), before);
    assert.deepEqual(await faults(16), []);
  });

  test('a split on a full disk stops with one line, and continues once there is room', async (context) => {
    const disk = process.env.CITUS_URL === undefined ? mountSmallDisk(4) : 'the disk would have to be of another node';
    if (typeof disk === 'string') return context.skip(disk);
    const name = new URL(database.url).pathname.slice(1);
    // Both can go once the database has gone.
    atEnd.push(() => query(process.env[adminUrlVariable] ?? '', `drop tablespace if exists ${name}`));
    atEnd.push(() => disk.remove());
    const before = await rowsOf(16);
    await query(database.url, `create tablespace ${name} location '${disk.folder}'`);
    await query(database.url, `alter database ${name} set default_tablespace = ${name}`);
    const log = createLog({ level: 'silent', format: 'json' });
    const split = async (onProgress: () => void) => {
      const shards = await openShards(loadConfig({ DATABASE_URL: database.url }), log);
      await shards.split({ to: 32, chunkMessages, onProgress }).finally(() => shards.close());
    };
    await assert.rejects(
      split(() => disk.fill()),
      /^Error: no room on the disk of the database \(.*No space left on device\): make room, then call .* again/,
    );
    disk.free();
    await split(() => {});
    assert.deepEqual(await rowsOf(32), before);
    assert.deepEqual(await faults(32), []);
  });
});
