import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { runToEnd, spawnCommand } from '../support/process.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

describe('the command line', () => {
  let service: TestService;
  let folder: string;
  before(async () => {
    service = await startService();
    folder = temporaryFolder('cli');
  });
  after(async () => {
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const env = () => ({ SENDBATCH_URL: service.url });
  const lineOf = (channel_id: string, index: number) =>
    JSON.stringify({
      from_uid: 'u1',
      channel_id,
      channel_type: 2,
      payload: Buffer.from(`m${index}`).toString('base64'),
    });
  const rowsOf = async (channel: string) =>
    (await readAll(service.databaseUrl)).filter((row) => row.channel === channel);

  test('send: all lines once, those that are none or refused in a report, and the exit code says so', async () => {
    const file = join(folder, 'mixed.ndjson');
    const lines = [
      ...Array.from({ length: 1200 }, (_, index) => lineOf('mixed', index)),
      'no json',
      '',
      '{"from_uid":"u1"}',
      '{"from":1}',
    ];
    writeFileSync(file, lines.join('\r\n'));
    const { code, output } = await runToEnd(env(), ['send', file, '--json']);
    assert.equal(code, 2, output);
    const { sent, refused } = JSON.parse(output);
    assert.deepEqual([sent, refused], [1200, 3]);
    assert.equal((await rowsOf('mixed')).length, 1200);
    const report = readFileSync(`${file}.refused.ndjson`, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.deepEqual(
      report.map((each) => [each.line, each.reason, each.text]),
      [
        [1201, 'INVALID_LINE', 'no json'],
        [1203, 'INVALID_LINE', '{"from_uid":"u1"}'],
        [1204, 'INVALID_LINE', '{"from":1}'],
      ],
    );
    assert.match(report[1].message, /channel_id is required.*payload is required/);
    assert.ok(!existsSync(`${file}.journal`));
  });

  test('send, ended by a service that is not there, goes on under the same keys', async () => {
    const file = join(folder, 'away.ndjson');
    writeFileSync(file, Array.from({ length: 10 }, (_, index) => lineOf('away', index)).join('\n'));
    const strict = await startService({ databaseUrl: service.databaseUrl, asks: true, open: false });
    assert.equal((await runToEnd({ SENDBATCH_URL: strict.url }, ['send', file])).code, 1);
    await strict.stop();
    assert.ok(existsSync(`${file}.journal`));
    assert.equal((await runToEnd(env(), ['send', file])).code, 0);
    assert.equal((await rowsOf('away')).length, 10);
  });

  test('send, killed in the middle: the next run goes on, and every line is stored once', async () => {
    const file = join(folder, 'killed.ndjson');
    const total = 40_000;
    writeFileSync(file, Array.from({ length: total }, (_, index) => lineOf(`killed-${index % 50}`, index)).join('\n'));
    const { child, exit } = spawnCommand(env(), ['send', file]);
    const start = performance.now();
    while (!existsSync(`${file}.journal`) && performance.now() - start < 20_000)
      await new Promise((resolve) => setImmediate(resolve));
    child.kill('SIGKILL');
    await exit;
    const { code, output } = await runToEnd(env(), ['send', file, '--json']);
    assert.equal(code, 0, output);
    const rows = (await readAll(service.databaseUrl)).filter((row) => row.channel.startsWith('killed-'));
    assert.equal(rows.length, total);
    await assertSound(service.databaseUrl);
  });

  test('tail: what is stored, as text or JSON, from a cursor on', async () => {
    const file = join(folder, 'tail.ndjson');
    writeFileSync(file, Array.from({ length: 3 }, (_, index) => lineOf('tailed', index)).join('\n'));
    assert.equal((await runToEnd(env(), ['send', file])).code, 0);
    const { code, output } = await runToEnd(env(), ['tail', '2', 'tailed', '--after', '1', '--count', '2']);
    assert.deepEqual([code, output], [0, '2\tu1\tm1\n3\tu1\tm2\n']);
    const json = await runToEnd(env(), ['tail', '2', 'tailed', '--count', '1', '--json']);
    assert.equal(JSON.parse(json.output).messageSeq, '1');
  });

  test('what cannot be followed says how it is written', async () => {
    for (const args of [
      ['send'],
      ['send', '/nowhere'],
      ['tail', '2'],
      ['tail', 'x', 'y'],
      ['send', 'x', '--what'],
      ['key'],
      ['key', 'create'],
      ['nothing'],
    ]) {
      const { code, output } = await runToEnd({ ...env(), DATABASE_URL: service.databaseUrl }, args);
      assert.equal(code, 1, args.join(' '));
      assert.match(output, /^sendbatch: /m, args.join(' '));
      assert.doesNotMatch(output, /at file:/);
    }
    const away = await runToEnd({ SENDBATCH_URL: 'http://127.0.0.1:1' }, ['tail', '2', 'x', '--count', 'x']);
    assert.equal(away.code, 1);
  });

  test('keys: made, listed, revoked; the secret is shown once', async () => {
    const database = { DATABASE_URL: service.databaseUrl };
    const made = await runToEnd(database, [
      'key',
      'create',
      '--name',
      'cli',
      '--scopes',
      'send',
      '--senders',
      'a,b',
      '--expires',
      '1d',
      '--json',
    ]);
    const { keyId, key } = JSON.parse(made.output);
    assert.match(key, /^sb_/);
    const list = JSON.parse((await runToEnd(database, ['key', 'list', '--json'])).output);
    assert.deepEqual([list[0].id, list[0].state, list[0].senders], [keyId, 'active', 'a,b']);
    assert.ok(!JSON.stringify(list).includes(key.split('_')[2]));
    assert.equal((await runToEnd(database, ['key', 'revoke', keyId])).code, 0);
    assert.equal((await runToEnd(database, ['key', 'revoke', keyId])).code, 1);
    assert.match((await runToEnd(database, ['key', 'list'])).output, /revoked/);
  });
});
