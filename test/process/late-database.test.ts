import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import pg from 'pg';
import { adminUrlVariable, createDatabase } from '../support/database.ts';
import { openFaultProxy } from '../support/fault-proxy.ts';
import { runToEnd, spawnCommand, spawnService } from '../support/process.ts';
import { until } from '../support/watch.ts';

describe('a database that is unreachable when the service starts', () => {
  for (const [what, begin] of [
    ['takes no connection', 'drop'],
    ['says nothing', 'stall'],
  ] as const) {
    test(`a start waits for a database that ${what}, and logs that it retries`, async () => {
      const database = await createDatabase();
      const proxy = await openFaultProxy(database.url);
      if (begin === 'drop') proxy.drop();
      else proxy.stall('both');
      const starting = spawnService({ DATABASE_URL: proxy.url, STATEMENT_TIMEOUT: '500', LOCK_TIMEOUT: '500' });
      starting.catch(() => {});
      await until('it has tried twice', () => proxy.connections >= 2);
      proxy.resume();
      const service = await starting;
      assert.match(service.output(), /database unreachable, retrying/);
      assert.equal(await service.end('SIGTERM'), 0, service.output());
      await proxy.close();
      await database.drop();
    });
  }

  test('startup fails with one line when the database stays unreachable for DATABASE_WAIT', async () => {
    const { code, output } = await runToEnd({
      DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x',
      DATABASE_WAIT: '1500',
    });
    assert.equal(code, 1);
    assert.match(
      output,
      /^sendbatch: the database cannot be reached: .*ECONNREFUSED.* \(tried for \d+\.\d s\)\. .*DATABASE_URL/m,
    );
    assert.doesNotMatch(output, /secret/);
  });

  test('startup fails with a line that names the host when it has no address', async () => {
    const { code, output } = await runToEnd({ DATABASE_URL: 'postgres://u@nowhere.invalid/x', DATABASE_WAIT: '1' });
    assert.equal(code, 1);
    assert.match(output, /^sendbatch: the database cannot be reached: .*(ENOTFOUND|EAI_AGAIN) nowhere\.invalid/m);
  });

  test('startup fails at once when the database does not exist', async () => {
    const database = await createDatabase();
    await database.drop();
    const { code, output } = await runToEnd({ DATABASE_URL: database.url, DATABASE_WAIT: '3600000' });
    assert.equal(code, 1);
    assert.match(output, /^sendbatch: the database cannot be reached: database .* does not exist/m);
  });

  test('a command does not wait for an unreachable database', async () => {
    const env = { DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x', DATABASE_WAIT: '3600000' };
    const { exit, output } = spawnCommand(env, ['key', 'list']);
    assert.equal(await exit, 1);
    assert.match(output(), /the database cannot be reached/);
  });
});

describe('an unusable database ends the start with one line and no stack', () => {
  const rows: [string, string, RegExp][] = [
    [
      'the database is read-only',
      'alter database %s set default_transaction_read_only = on',
      /^sendbatch: the database cannot be written: it is read-only: .* \(tried for \d+\.\d s\)\. Check that DATABASE_URL is the URL of the primary\n$/m,
    ],
    [
      'the database treats backslashes as escapes',
      'alter database %s set standard_conforming_strings = off',
      /^sendbatch: standard_conforming_strings is off: .*\n$/m,
    ],
    [
      'a table is missing',
      'drop table sendbatch.moderation_rule',
      /^sendbatch: the database refused a statement of the start: relation .* does not exist \(SQLSTATE 42P01\)\n$/m,
    ],
  ];
  for (const [what, change, words] of rows)
    test(`startup fails with one line and no stack because ${what}`, async (context) => {
      const database = await createDatabase();
      context.after(() => database.drop());
      await ask(database.url, change.replace('%s', new URL(database.url).pathname.slice(1)));
      const { code, output } = await runToEnd({
        DATABASE_URL: database.url,
        DATABASE_WAIT: '1000',
        LOG_LEVEL: 'fatal',
      });
      assert.equal(code, 1);
      assert.match(output, words);
      assert.equal(output.split('\n').length, 2, output);
    });

  test('startup fails with one line because the database is not UTF-8', async (context) => {
    const admin = process.env[adminUrlVariable] ?? '';
    const name = `sendbatch_test_ascii_${process.pid}`;
    await ask(admin, `create database ${name} encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0`);
    context.after(() => ask(admin, `drop database ${name} with (force)`));
    const url = new URL(admin);
    url.pathname = `/${name}`;
    const { code, output } = await runToEnd({ DATABASE_URL: url.href });
    assert.equal(code, 1);
    assert.match(
      output,
      /^sendbatch: the database's encoding is SQL_ASCII, and messages are UTF-8: .*encoding 'UTF8'.*\n$/,
    );
  });
});

test('a start that reaches a standby waits until it is the primary', async (context) => {
  const database = await createDatabase();
  context.after(() => database.drop());
  const name = new URL(database.url).pathname.slice(1);
  await ask(database.url, `alter database ${name} set default_transaction_read_only = on`);
  const starting = spawnService({ DATABASE_URL: database.url });
  starting.catch(() => {});
  await until('it has tried', async () => {
    const { rows } = await ask(
      database.url,
      `select from pg_stat_activity where datname = '${name}' and application_name = 'sendbatch' and state = 'idle'`,
    );
    return rows.length > 0;
  });
  await ask(database.url, `begin read write; alter database ${name} reset default_transaction_read_only; commit`);
  const service = await starting;
  assert.match(service.output(), /database unreachable, retrying/);
  assert.equal(await service.end('SIGTERM'), 0);
});

async function ask(url: string, text: string) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await client.query(text);
  } finally {
    await client.end();
  }
}
