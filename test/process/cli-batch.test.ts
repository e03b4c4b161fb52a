import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { jsonCaller } from '../support/json.ts';
import { runCommand } from '../support/process.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

describe('batch commands of the command line', () => {
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
  const run = (...args: string[]) => runCommand({ SENDBATCH_URL: service.url }, ['batch', ...args]);
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const last = (output: string) => JSON.parse(output.trim().split('\n').at(-1) ?? '');

  test('`batch submit` sends a table with a template; watch, list and results follow it', async () => {
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
    assert.match(
      again.output,
      new RegExp(`^${batchId} was already submitted, .*--request-id\n${batchId} {2}completed`),
    );
    assert.match((await run('ls')).output, new RegExp(`^${batchId} {2}completed .* 2 of 2 {2}people\n$`));
    assert.equal((await run('ls', '--state', 'queued,running')).output, '');
    const results = await run('results', batchId);
    assert.equal(results.output, '0\tpeople-1:0\t1\n1\tpeople-1:1\t1\n');
  });

  test('refused messages of a batch are named and have an exit code of their own; a scheduled batch can be cancelled', async () => {
    const line = (more: object) => JSON.stringify({ from_uid: 'u1', channel_id: 'cli', channel_type: 2, ...more });
    const mixed = file(
      `${'é'.repeat(70)}.ndjson`,
      `${line({ payload: 'aGk=' })}\n${line({ template: { name: 'none' } })}\n`,
    );
    const watched = await run('submit', mixed, '--watch', '--json');
    assert.equal(watched.code, 2, watched.output);
    const { batchId, name } = last(watched.output);
    // Of a long name, as many whole characters as a batch name may have.
    assert.equal(name, 'é'.repeat(64));
    assert.match(
      (await run('results', batchId, '--refused')).output,
      /^1\tfile-[0-9a-f]{40}:1\tline 2\tu1 to group cli\tTEMPLATE_NOT_FOUND\ttemplate "+none"+ does not exist/,
    );
    const [refused] = (await run('results', batchId, '--refused', '--json')).output.trim().split('\n');
    const { line: at, channelId, error } = JSON.parse(refused ?? '');
    assert.deepEqual([at, channelId, error.reason], [2, 'cli', 'TEMPLATE_NOT_FOUND']);
    const table = (await run('results', batchId, '--csv')).output.trim().split('\n');
    assert.match(table[0] ?? '', /^index,line,from_uid,channel_type,channel_id,client_msg_no,.*,reason,message$/);
    assert.match(table[1] ?? '', /^0,1,,2,cli,file-[0-9a-f]{40}:0,\d+,\d+,false,,$/);
    assert.match(
      table[2] ?? '',
      /^1,2,u1,2,cli,file-[0-9a-f]{40}:1,,,false,TEMPLATE_NOT_FOUND,"?template "+none"+ does not exist/,
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
    const moved = await run('resume', scheduled.batchId, '--send-at', `${day}T12:00Z`);
    assert.match(moved.output, new RegExp(`will be sent at ${day}T.*queued .*next at ${day}T12:00`, 's'));
    const repeated = await run('resume', scheduled.batchId, '--send-at', `${day}T12:00Z`);
    assert.match(repeated.output, new RegExp(`${scheduled.batchId} was already resumed, as `));
  });

  test('`batch retry` sends only the refused messages; the same file is one batch until --again', async () => {
    const json = jsonCaller(service.url);
    const closed = { channel_type: 2, channel_id: 'cli-shut' };
    assert.equal((await json.post('/channel', { ...closed, disband: 1 })).status, 200);
    const line = (channel: string) =>
      JSON.stringify({ from_uid: 'u1', channel_id: channel, channel_type: 2, payload: 'aGk=' });
    const path = file('retry.ndjson', `${line('cli-open')}\n\n${line('cli-shut')}\n`);
    const { batchId } = last((await run('submit', path, '--watch', '--json')).output);
    assert.equal((await json.post('/channel', { ...closed, disband: 0 })).status, 200);
    const retried = await run('retry', batchId, '--watch', '--json');
    assert.deepEqual([retried.code, last(retried.output).acceptedCount], [0, 1], retried.output);
    const nothing = await run('retry', last(retried.output).batchId);
    assert.deepEqual(
      [nothing.code, /BATCH_NOT_RETRYABLE: .*none of its messages was refused/.test(nothing.output)],
      [1, true],
    );
    const rows = (await readAll(service.databaseUrl)).filter((row) => /^cli-(open|shut)$/.test(row.channel));
    assert.deepEqual(rows.map((row) => row.key.replace(/^file-[0-9a-f]{40}:/, '')).sort(), ['0', '1']);
    const again = await run('submit', path);
    assert.match(
      again.output,
      new RegExp(`^${batchId} was already submitted, the same file .*--again submits it again\n${batchId} `),
    );
    const anew = last((await run('submit', path, '--again', '--watch', '--json')).output);
    assert.ok(anew.batchId !== batchId);
    assert.equal(anew.acceptedCount, 2);
  });

  test('`batch recall` asks for --yes, recalls what was sent and reports the counts', async () => {
    const line = JSON.stringify({ from_uid: 'u1', channel_id: 'cli-wrong', channel_type: 2, payload: 'aGk=' });
    const path = file('wrong.ndjson', `${line}\n${line}\n`);
    const { batchId } = last((await run('submit', path, '--name', 'wrong', '--watch', '--json')).output);
    const asked = await run('recall', batchId);
    assert.equal(asked.code, 1);
    assert.match(asked.output, new RegExp(`^sendbatch: --yes is needed to recall 2 sent messages of batch ${batchId}`));
    const recalled = await run('recall', batchId, '--yes');
    assert.equal(recalled.code, 0, recalled.output);
    assert.match(recalled.output, new RegExp(`^${batchId}  completed .*  2 of 2, 2 recalled  wrong\n$`));
    const again = await run('recall', batchId, '--json');
    assert.deepEqual([again.code, last(again.output).recallState], [0, 'RECALL_STATE_COMPLETED'], again.output);
    const rows = (await readAll(service.databaseUrl)).filter((row) => row.channel === 'cli-wrong');
    assert.deepEqual(
      rows.map((row) => row.payload),
      ['', ''],
    );
    assert.equal((await run('recall', 'nothing', '--yes')).code, 1);
  });

  test('a scheduled time needs a time zone and is printed in both; a column of times is accepted', async () => {
    const line = JSON.stringify({ from_uid: 'u1', channel_id: 'timed', channel_type: 2, payload: 'aGk=' });
    const path = file('timed.ndjson', line);
    const year = new Date().getUTCFullYear() + 1;
    const submitted = await run('submit', path, '--send-at', `${year}-01-01T09:00`, '--time-zone', 'Asia/Shanghai');
    assert.match(
      submitted.output,
      new RegExp(
        `^will be sent at ${year}-01-01T09:00:00\\+08:00 \\(Asia/Shanghai\\), ${year}-01-01T01:00:00.000Z in UTC\n`,
      ),
    );
    assert.match(submitted.output, new RegExp(`next at ${year}-01-01T01:00:00.000Z`));
    for (const [args, words] of [
      [['--send-at', `${year}-01-01T09:00`], /has no offset/],
      [['--send-at', '2027-02-29T12:00:00Z'], /does not exist/],
      [['--send-at', '2020-01-01T12:00:00Z'], /is in the past/],
      [['--send-at', `01/02/${year}`], /is not a time such as/],
      [['--time-zone', 'Europe/Berlin'], /--time-zone requires --send-at/],
    ] as const) {
      const odd = await run('submit', path, ...args);
      assert.deepEqual([odd.code, words.test(odd.output)], [1, true], odd.output);
    }
    const table = file('timed.csv', `uid,payload,send_at\nann,a,${year}-01-01T09:00:00+01:00\n`);
    const how = ['--from-uid', 'u1', '--channel-type', 'person', '--channel-id-column', 'uid', '--json'];
    const { batchId } = last((await run('submit', table, ...how)).output);
    const shown = await run('show', batchId);
    assert.match(shown.output, new RegExp(`queued .*0 of 1, next at ${year}-01-01T08:00:00.000Z`));
    await run('cancel', batchId);
  });

  test('a malformed file is not submitted, and one line says what is wrong', async () => {
    const bad = file('bad.ndjson', '{"from_uid":"u1"}\nno json\n');
    const { code, output } = await run('submit', bad);
    assert.equal(code, 1);
    assert.match(
      output,
      /^line 1: channel_id is required.*\nline 2: .*not valid JSON\nsendbatch: 2 lines of .* nothing was submitted\n$/,
    );
    const quoted = await run(
      'submit',
      file('quoted.csv', 'channel_id,payload\na,b\nc,"d" e\n'),
      '--from-uid',
      'u1',
      '--channel-type',
      '2',
    );
    assert.match(
      quoted.output,
      /^sendbatch: .*quoted\.csv: line 3: the quote opened here is closed .*; nothing was submitted\n$/,
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
