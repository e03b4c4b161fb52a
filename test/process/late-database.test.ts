import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import pg from 'pg';
import { adminUrlVariable, createDatabase } from '../support/database.ts';
import { openFaultProxy } from '../support/fault-proxy.ts';
import { runToEnd, spawnCommand, spawnService } from '../support/process.ts';
import { until } from '../support/watch.ts';

describe('a database that is not there when the service starts', () => {
  for (const [what, begin] of [
    ['takes no connection', 'drop'],
    ['says nothing', 'stall'],
  ] as const) {
    test(`and ${what} is waited for, with a line in the log`, async () => {
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

  test('and does not come ends the start, in one clear line after what waiting there was', async () => {
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

  test('because its host has no address says so', async () => {
    const { code, output } = await runToEnd({ DATABASE_URL: 'postgres://u@nowhere.invalid/x', DATABASE_WAIT: '1' });
    assert.equal(code, 1);
    assert.match(output, /^sendbatch: the database cannot be reached: .*(ENOTFOUND|EAI_AGAIN) nowhere\.invalid/m);
  });

  test('because its name is wrong is not waited for', async () => {
    const database = await createDatabase();
    await database.drop();
    const { code, output } = await runToEnd({ DATABASE_URL: database.url, DATABASE_WAIT: '3600000' });
    assert.equal(code, 1);
    assert.match(output, /^sendbatch: the database cannot be reached: database .* does not exist/m);
  });

  test('is not waited for by a command', async () => {
    const env = { DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x', DATABASE_WAIT: '3600000' };
    const { exit, output } = spawnCommand(env, ['key', 'list']);
    assert.equal(await exit, 1);
    assert.match(output(), /the database cannot be reached/);
  });
});

describe('a database that will not do ends the start in one line, without a stack', () => {
  const rows: [string, string, RegExp][] = [
    [
      'it is read-only',
      'alter database %s set default_transaction_read_only = on',
      /^sendbatch: the database cannot be written: it is read-only: .* \(tried for \d+\.\d s\)\. Is DATABASE_URL that of the primary\?\n$/m,
    ],
    [
      'backslashes are escapes in it',
      'alter database %s set standard_conforming_strings = off',
      /^sendbatch: standard_conforming_strings is off: .*\n$/m,
    ],
    [
      'a table was taken away',
      'drop table sendbatch.moderation_rule',
      /^sendbatch: the database refused a step of the start: relation .* does not exist \(SQLSTATE 42P01\)\n$/m,
    ],
  ];
  for (const [what, change, words] of rows)
    test(what, async (context) => {
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

  test('it is not UTF-8', async (context) => {
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

test('a standby at the start is waited for until it is the primary', async (context) => {
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
