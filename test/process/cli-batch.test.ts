import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { runToEnd } from '../support/process.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

describe('batches on the command line', () => {
  let service: TestService;
  let folder: string;
  before(async () => {
    service = await startService();
    folder = temporaryFolder('cli-batch');
  });
  after(async () => {
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const run = (...args: string[]) => runToEnd({ SENDBATCH_URL: service.url }, ['batch', ...args]);
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const last = (output: string) => JSON.parse(output.trim().split('\n').at(-1) ?? '');

  test('a table with a template is submitted, watched, listed, and its results printed', async () => {
    const table = file('people.csv', 'uid,name\nann,Ann\nbob,"Bob, the second"\n');
    const template = file('hello.liquid', 'Hello {{ name }}');
    const how = ['--template-file', template, '--from-uid', 'u1', '--channel-type', 'person'];
    const submitted = await run(
      'submit',
      table,
      ...how,
      '--channel-id-column',
      'uid',
      '--name',
      'people',
      '--request-id',
      'people-1',
      '--watch',
      '--json',
    );
    assert.equal(submitted.code, 0, submitted.output);
    const { batchId, state, acceptedCount } = last(submitted.output);
    assert.deepEqual([state, acceptedCount], ['BATCH_STATE_COMPLETED', 2]);
    const rows = await readAll(service.databaseUrl);
    assert.deepEqual(rows.map((row) => row.payload).sort(), ['Hello Ann', 'Hello Bob, the second']);
    const again = await run(
      'submit',
      table,
      ...how,
      '--channel-id-column',
      'uid',
      '--name',
      'x',
      '--request-id',
      'people-1',
    );
    assert.match(again.output, new RegExp(`^${batchId} was submitted before, .*--request-id\n${batchId} {2}completed`));
    assert.match((await run('ls')).output, new RegExp(`^${batchId} {2}completed .* 2 of 2 {2}people\n$`));
    assert.equal((await run('ls', '--state', 'queued,running')).output, '');
    const results = await run('results', batchId);
    assert.equal(results.output, '0\tpeople-1:0\t1\n1\tpeople-1:1\t1\n');
  });

  test('refused messages are an exit code of their own, and are named; a scheduled one is cancelled', async () => {
    const line = (more: object) => JSON.stringify({ from_uid: 'u1', channel_id: 'cli', channel_type: 2, ...more });
    const mixed = file(
      `${'é'.repeat(70)}.ndjson`,
      `${line({ payload: 'aGk=' })}\n${line({ template: { name: 'none' } })}\n`,
    );
    const watched = await run('submit', mixed, '--watch', '--json');
    assert.equal(watched.code, 2, watched.output);
    const { batchId, name } = last(watched.output);
    // Of a long one as much as a batch takes, whole characters.
    assert.equal(name, 'é'.repeat(64));
    assert.match(
      (await run('results', batchId, '--refused')).output,
      /^1\t.*\tTEMPLATE_NOT_EXIST\tthere is no template/,
    );
    assert.equal((await run('watch', batchId)).code, 2);

    const good = file('good.ndjson', line({ payload: 'aGk=' }));
    const [day] = new Date(Date.now() + 30 * 86_400_000).toISOString().split('T');
    const later = await run('submit', good, '--send-at', `${day}T00:00Z`, '--priority', 'low', '--json');
    const scheduled = last(later.output);
    assert.equal(scheduled.state, 'BATCH_STATE_QUEUED', later.output);
    assert.match((await run('show', scheduled.batchId)).output, new RegExp(`queued .*next at ${day}`));
    assert.match((await run('cancel', scheduled.batchId)).output, /cancelled/);
    assert.equal((await run('watch', scheduled.batchId)).code, 2);
  });

  test('a file that is at fault is not submitted, and what is wrong is said in a line', async () => {
    const bad = file('bad.ndjson', '{"from_uid":"u1"}\nno json\n');
    const { code, output } = await run('submit', bad);
    assert.equal(code, 1);
    assert.match(
      output,
      /^line 1: channel_id is required.*\nline 2: .*not valid JSON\nsendbatch: 2 lines of .* nothing was submitted\n$/,
    );
    for (const args of [
      ['show', 'nothing'],
      ['ls', '--state', 'odd'],
      ['submit', '/nowhere'],
      ['submit', bad, '--send-at', 'soon'],
    ]) {
      const odd = await run(...args);
      assert.equal(odd.code, 1, args.join(' '));
      assert.match(odd.output, /^sendbatch: .*\n$/, args.join(' '));
    }
  });
});
