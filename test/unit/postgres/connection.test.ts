import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import { SharedConnection, withConnection } from '../../../src/postgres/connection.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { all } from '../../../src/postgres/sql.ts';
import { inTransaction } from '../../../src/postgres/transaction.ts';
import { createDatabase, openStore, type TestDatabase } from '../../support/database.ts';

describe('a connection with several statements in flight', () => {
  let database: TestDatabase;
  let db: Db;
  /** What was sent and answered, in order. */
  const seen: string[] = [];

  before(async () => {
    database = await createDatabase();
    db = openStore(database.url, {
      poolSize: 2,
      trace: async ({ text }, run) => {
        seen.push(`sent ${text}`);
        try {
          return await run();
        } finally {
          seen.push(`answered ${text}`);
        }
      },
    });
  });
  after(async () => {
    await db.destroy();
    await database.drop();
  });
  const backend = async (connection: Db) => {
    const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(connection);
    return rows[0]?.pid;
  };

  test('statements are sent without waiting for the answers of earlier ones, and one that fails affects no other', async () => {
    seen.length = 0;
    const [one, failed, two] = await withConnection(db, (connection) =>
      Promise.allSettled([
        sql`select 1`.execute(connection),
        sql`select 1 / 0`.execute(connection),
        sql`select 2`.execute(connection),
      ]),
    );
    assert.deepEqual(seen.slice(0, 3), ['sent select 1', 'sent select 1 / 0', 'sent select 2']);
    assert.deepEqual([one.status, failed.status, two.status], ['fulfilled', 'rejected', 'fulfilled']);
  });

  test('a transaction takes two round trips: BEGIN with the reads, COMMIT with the writes', async () => {
    seen.length = 0;
    await inTransaction(
      db,
      async (tx) => await all([sql`select 'read a'`.execute(tx), sql`select 'read b'`.execute(tx)]),
      (tx) => ({ sent: [sql`select 'write a'`.execute(tx), sql`select 'write b'`.execute(tx)], result: undefined }),
    );
    assert.deepEqual(
      seen.map((each) => each.split(' ')[0]),
      [
        'sent',
        'sent',
        'sent',
        'answered',
        'answered',
        'answered',
        'sent',
        'sent',
        'sent',
        'answered',
        'answered',
        'answered',
      ],
    );
    assert.deepEqual(seen[0], 'sent begin isolation level read committed');
    assert.deepEqual(seen.at(-1), 'answered commit');
  });

  test('users share a connection while one of them needs it', async () => {
    const shared = new SharedConnection(db);
    const pids = await Promise.all([1, 2, 3].map(() => shared.run(backend)));
    assert.equal(new Set(pids).size, 1);
  });

  test('the next user takes another connection after one is lost, and a lost one fails its users only', async () => {
    const shared = new SharedConnection(db);
    const pid = await shared.run(async (connection) => {
      const own = await backend(connection);
      const lost = shared.run((same) => sql`select pg_terminate_backend(pg_backend_pid())`.execute(same));
      await assert.rejects(lost);
      const next = await shared.run(backend);
      assert.notEqual(next, own);
      return own;
    });
    assert.notEqual(await shared.run(backend), pid);
  });

  test('a user that finds no connection fails, and the next one finds it again', async () => {
    const away = openStore(database.url.replace(/\/[^/?]+\?/, '/no_such_database?'));
    const shared = new SharedConnection(away);
    for (let attempt = 0; attempt < 2; attempt++)
      await assert.rejects(
        Promise.all([shared.run(backend), shared.run(backend)]),
        (error: { code?: string }) => error.code === '3D000',
      );
    await away.destroy();
  });
});
