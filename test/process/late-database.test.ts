import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createDatabase } from '../support/database.ts';
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
      assert.match(service.output(), /the database cannot be reached yet: it is waited for/);
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
