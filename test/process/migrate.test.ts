import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { schemaStatus } from '../../src/postgres/migrate.ts';
import { createDatabase, openStore, type TestDatabase } from '../support/database.ts';
import { runToEnd, spawnService } from '../support/process.ts';

describe('migrate as a step of its own', () => {
  let database: TestDatabase;
  const env = (more: Record<string, string> = {}) => ({ DATABASE_URL: database.url, ...more });
  before(async () => {
    database = await createDatabase('empty');
  });
  after(() => database.drop());

  test('MIGRATE=check refuses an empty database, names the pending migrations, and leaves it empty', async () => {
    const { code, output } = await runToEnd(env({ MIGRATE: 'check' }));
    assert.equal(code, 1);
    assert.match(
      output,
      /^sendbatch: the schema is not up to date \(pending: 0001-messages, .*\), and MIGRATE=check: run npm run cli -- migrate$/m,
    );
    const { rows } = await ask(database.url, `select from pg_namespace where nspname = 'sendbatch'`);
    assert.equal(rows.length, 0);
  });

  test('migrate --status lists and changes nothing, migrate applies once, and MIGRATE=check starts then', async () => {
    const readStatus = async () => JSON.parse((await runToEnd(env(), ['migrate', '--status', '--json'])).output);
    const status = await runToEnd(env(), ['migrate', '--status']);
    assert.equal(status.code, 2);
    assert.match(status.output, /^pending {2}0001-messages\npending {2}0002-channels\n/);
    const { applied, pending } = await readStatus();
    assert.deepEqual(applied, []);

    const first = await runToEnd(env(), ['migrate', '--json']);
    assert.deepEqual([first.code, JSON.parse(first.output)], [0, { applied: pending }]);
    const second = await runToEnd(env(), ['migrate']);
    assert.deepEqual(
      [second.code, second.output],
      [0, `nothing to apply: all ${pending.length} migrations are applied\n`],
    );
    assert.deepEqual(await readStatus(), { applied: pending, pending: [], newer: [] });

    const service = await spawnService(env({ MIGRATE: 'check' }));
    assert.equal(await service.end('SIGTERM'), 0);
  });

  test('migrate explains arguments that it cannot parse and a database that it cannot reach', async () => {
    assert.match((await runToEnd(env(), ['migrate', '--what'])).output, /^sendbatch: .*--what/);
    const away = await runToEnd({ DATABASE_URL: 'postgres://u:hush@127.0.0.1:1/x', DATABASE_WAIT: '1' }, [
      'migrate',
      '--status',
    ]);
    assert.equal(away.code, 1);
    assert.match(away.output, /^sendbatch: the database cannot be reached/);
    assert.doesNotMatch(away.output, /hush/);
  });
});

test('a role without the rights gets one line that says so, from migrate and from a start', async (context) => {
  const [empty, migrated] = [await createDatabase('empty'), await createDatabase()];
  const role = `weak_${process.pid}`;
  await ask(empty.url, `create role ${role} login`);
  context.after(async () => {
    await empty.drop();
    await migrated.drop();
  });
  try {
    for (const { url } of [empty, migrated])
      for (const command of [['migrate'], []]) {
        const weak = new URL(url);
        weak.username = role;
        const { code, output } = await runToEnd({ DATABASE_URL: weak.href }, command);
        assert.equal(code, 1);
        assert.match(output, /^sendbatch: permission denied for (database|schema) .*migrate needs a role with CREATE/m);
        assert.doesNotMatch(output, /^ {4}at /m);
      }
  } finally {
    await ask(migrated.url, `drop role ${role}`);
  }
});

describe('an older version on a newer schema', () => {
  let database: TestDatabase;
  before(async () => {
    database = await createDatabase();
  });
  after(() => database.drop());
  const having = async (names: readonly string[], work: () => Promise<void>) => {
    const list = names.map((name) => `'${name}'`).join(', ');
    await ask(database.url, `insert into sendbatch.migration (name, timestamp) select unnest(array[${list}]), ''`);
    try {
      await work();
    } finally {
      await ask(database.url, `delete from sendbatch.migration where name = any (array[${list}])`);
    }
  };

  for (const MIGRATE of ['auto', 'check'])
    test(`an older version with MIGRATE=${MIGRATE} starts on a schema that only added, or removed what it does not use`, async () => {
      await having(['9998-adds', '9999-drops-old-needs-0001'], async () => {
        const service = await spawnService({ DATABASE_URL: database.url, MIGRATE });
        assert.equal((await fetch(`${service.url}/v1/server-info`)).status, 200);
        assert.equal(await service.end('SIGTERM'), 0);
      });
    });

  const refused: [string, string, RegExp][] = [
    [
      'that removed what this version needs',
      '9999-drops-needs-9998',
      /9999-drops-needs-9998 it takes one that knows migration 9998/,
    ],
    ['of another line of versions', '0002-other', /the schema has 0002-other, which does not follow/],
  ];
  for (const [what, name, words] of refused)
    test(`a schema ${what} is refused by a start and by the schema check`, async () => {
      await having([name], async () => {
        const db = openStore(database.url);
        await assert.rejects(schemaStatus(db), words);
        await db.destroy();
        if (name !== '0002-other') return;
        const { code, output } = await runToEnd({ DATABASE_URL: database.url, MIGRATE: 'check' });
        assert.equal(code, 1);
        assert.match(output, words);
      });
    });
});

async function ask(url: string, sql: string) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await client.query(sql);
  } finally {
    await client.end();
  }
}
