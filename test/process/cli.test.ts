import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Command } from 'commander';
import { createProgram } from '../../src/cli/program.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { createDatabase } from '../support/database.ts';
import { runCommand, runToEnd, spawnCommand } from '../support/process.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query, readAll } from '../support/verify.ts';

/** A command and its subcommands. */
function* allOf(command: Command): Iterable<Command> {
  yield command;
  for (const each of command.commands) yield* allOf(each);
}

function nameOf(command: Command): string {
  return command.parent === null ? command.name() : `${nameOf(command.parent)} ${command.name()}`;
}

function helpOf(command: Command): string {
  let help = '';
  command.configureOutput({ writeOut: (text) => (help += text) }).outputHelp();
  return help;
}

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

  test('send stores every line once, reports malformed and refused lines, and says so in the exit code', async () => {
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
    assert.ok(JSON.parse(readFileSync(`${file}.journal`, 'utf8')).finished);
  });

  test('send that stopped because the service was down continues with the same keys', async () => {
    const file = join(folder, 'away.ndjson');
    writeFileSync(file, Array.from({ length: 10 }, (_, index) => lineOf('away', index)).join('\n'));
    const strict = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false });
    assert.equal((await runCommand({ SENDBATCH_URL: strict.url }, ['send', file])).code, 1);
    await strict.stop();
    assert.ok(existsSync(`${file}.journal`));
    assert.equal((await runCommand(env(), ['send', file])).code, 0);
    assert.equal((await rowsOf('away')).length, 10);
  });

  test('after a kill in the middle of send, the next run continues and every line is stored once', async () => {
    const file = join(folder, 'killed.ndjson');
    const total = 40_000;
    writeFileSync(file, Array.from({ length: total }, (_, index) => lineOf(`killed-${index % 50}`, index)).join('\n'));
    const { child, exit } = spawnCommand(env(), ['send', file]);
    const start = performance.now();
    while (!existsSync(`${file}.journal`) && performance.now() - start < 20_000)
      await new Promise((resolve) => setTimeout(resolve, 2));
    child.kill('SIGKILL');
    await exit;
    const { code, output } = await runCommand(env(), ['send', file, '--json']);
    assert.equal(code, 0, output);
    const rows = await readAll(service.databaseUrl, { channel: /^killed-/ });
    assert.equal(rows.length, total);
    await assertSound(service.databaseUrl);
  });

  test('tail prints stored messages as text or JSON, from a cursor on', async () => {
    const file = join(folder, 'tail.ndjson');
    writeFileSync(file, Array.from({ length: 3 }, (_, index) => lineOf('tailed', index)).join('\n'));
    assert.equal((await runCommand(env(), ['send', file])).code, 0);
    const { code, output } = await runCommand(env(), ['tail', '2', 'tailed', '--after', '1', '--count', '2']);
    assert.deepEqual([code, output], [0, '2\tu1\tm1\n3\tu1\tm2\n']);
    const json = await runCommand(env(), ['tail', '2', 'tailed', '--count', '1', '--json']);
    assert.equal(JSON.parse(json.output).messageSeq, '1');
  });

  test('tail exits with success when its reader closes the pipe, and as interrupted on Ctrl-C', async () => {
    const file = join(folder, 'piped.ndjson');
    writeFileSync(file, Array.from({ length: 3 }, (_, index) => lineOf('piped', index)).join('\n'));
    assert.equal((await runCommand(env(), ['send', file])).code, 0);
    const head = spawnCommand(env(), ['tail', 'group', 'piped']);
    await once(head.child.stdout ?? assert.fail(), 'data');
    head.child.stdout?.destroy();
    assert.equal((await runCommand(env(), ['send', file, '--again'])).code, 0);
    assert.equal(await head.exit, 0, head.output());
    const stopped = spawnCommand(env(), ['tail', 'group', 'piped', '--from-now']);
    const sending = (async () => {
      while (stopped.stdout() === '') assert.equal((await runCommand(env(), ['send', file, '--again'])).code, 0);
    })();
    await once(stopped.child.stdout ?? assert.fail(), 'data');
    stopped.child.kill('SIGINT');
    assert.equal(await stopped.exit, 130, stopped.output());
    await sending;
    assert.equal(stopped.output(), stopped.stdout());
  });

  test('a full disk behind stdout is an error of one line', { skip: !existsSync('/dev/full') }, () => {
    const full = openSync('/dev/full', 'w');
    const { status, stderr } = spawnSync(process.execPath, ['src/main.ts', 'config'], {
      stdio: ['ignore', full, 'pipe'],
      encoding: 'utf8',
    });
    closeSync(full);
    assert.equal(status, 1);
    assert.match(stderr, /^sendbatch: cannot write to standard output: ENOSPC.*\n$/);
  });

  test('tail waits for a service that goes down, and says so; it gives up on one that was never reachable', async () => {
    const first = await startService({ databaseUrl: service.databaseUrl });
    const at = { SENDBATCH_URL: first.url };
    const file = join(folder, 'outlived.ndjson');
    writeFileSync(file, lineOf('outlived', 1));
    assert.equal((await runCommand(env(), ['send', file])).code, 0);
    const { child, exit, output, stdout } = spawnCommand(at, ['tail', 'group', 'outlived', '--count', '2']);
    await once(child.stdout ?? assert.fail(), 'data');
    await first.stop();
    const never = runCommand(at, ['tail', 'group', 'outlived']);
    while (!output().includes('service unreachable, retrying: ')) await once(child.stderr ?? assert.fail(), 'data');
    const refused = await never;
    assert.deepEqual([refused.code, refused.stdout], [1, '']);
    assert.match(refused.output, /^sendbatch: cannot reach the service: [^\n]*\n$/);
    const second = await startService({ databaseUrl: service.databaseUrl, port: Number(new URL(first.url).port) });
    assert.equal((await runCommand(env(), ['send', file, '--again'])).code, 0);
    assert.equal(await exit, 0, output());
    assert.equal(stdout(), '1\tu1\tm1\n2\tu1\tm1\n');
    assert.match(output(), /the service answers again/);
    await second.stop();
  });

  test('channel creates, shows and disbands a channel, changes and pages its members and lists, and prints its messages', async () => {
    const cli = async (...args: string[]) => {
      const { code, output } = await runCommand(env(), ['channel', ...args]);
      assert.equal(code, 0, output);
      return output;
    };
    const members = join(folder, 'members.txt');
    writeFileSync(members, 'bob\n\ncarol\r\n');
    await cli('create', 'group', 'made', '--member', 'ann,dora', '--members-file', members, '--large');
    assert.match(await cli('info', '2', 'made'), /group \(2\) made\nflags {5}large\nlast seq {2}0/);
    assert.equal(await cli('members', 'ls', '2', 'made'), 'ann\nbob\ncarol\ndora\n');
    assert.match(await cli('members', 'add', '2', 'made', 'ed', 'fay', 'ed'), /^2 uids added$/m);
    assert.match(await cli('members', 'remove', '2', 'made', 'ann'), /^1 uid removed$/m);
    const page = (await cli('members', 'ls', '2', 'made', '--limit', '2', '--json')).trim().split('\n');
    assert.deepEqual(
      page.map((line) => JSON.parse(line).uid),
      ['bob', 'carol'],
    );
    await cli('members', 'remove', '2', 'made', '--all');
    assert.equal(await cli('members', 'ls', '2', 'made'), '');
    for (const list of ['denylist', 'allowlist']) {
      await cli(list, 'add', '2', 'made', 'x', 'y');
      await cli(list, 'rm', '2', 'made', 'y');
      assert.equal(await cli(list, 'ls', '2', 'made'), 'x\n');
    }
    const file = join(folder, 'made.ndjson');
    writeFileSync(file, Array.from({ length: 1203 }, (_, index) => lineOf('made', index)).join('\n'));
    assert.equal((await runCommand(env(), ['send', file])).code, 0);
    const all = (await cli('messages', '2', 'made', '--all', '--json')).trim().split('\n');
    assert.deepEqual(
      all.map((line) => Number(JSON.parse(line).messageSeq)),
      Array.from({ length: 1203 }, (_, index) => index + 1),
    );
    const newest = await cli('messages', '2', 'made', '--newest', '--limit', '2');
    assert.match(newest, /^\S+Z\t1203\tu1\tm1202\n\S+Z\t1202\tu1\tm1201\n$/);
    assert.match(await cli('messages', '2', 'made', '--after', '1', '--before', '3'), /^\S+\t2\tu1\tm1\n$/);
    await cli('delete', '2', 'made');
    assert.equal(JSON.parse(await cli('info', '2', 'made', '--json')).disband, true);
  });

  test('template stores, lists, reads, renders and deletes templates', async () => {
    const cli = (args: string[], input?: string) =>
      input === undefined
        ? runCommand(env(), ['template', ...args])
        : runToEnd(env(), ['template', ...args], undefined, input);
    assert.match((await cli(['create', 'x', 'nowhere.liquid'])).output, /^sendbatch: nowhere\.liquid does not exist$/m);
    assert.match((await cli(['create', 'x', folder])).output, /is a folder, not a file$/m);
    const made = await cli(['create', 'greeting', '-'], 'Hello {{ name }}\n');
    assert.deepEqual([made.code, made.output], [0, 'greeting@1 stored; variables: name\n']);
    assert.match((await cli(['ls'])).output, /^greeting@1\ttext\t\S+Z\tvariables: name$/m);
    assert.equal((await cli(['get', 'greeting@1'])).output, 'Hello {{ name }}\n');
    assert.equal((await cli(['preview', 'greeting', '--var', 'name=A=B'])).output, 'Hello A=B\n');
    const json = ['preview', '--file', '-', '--format', 'json', '--vars', '{"name":"\\"x\\""}'];
    assert.equal((await cli(json, '{"n":"{{ name }}"}')).output, '{"n":"\\"x\\""}\n');
    const lacking = await cli(['preview', 'greeting']);
    assert.deepEqual([lacking.code, /TEMPLATE_FAILED.*name/.test(lacking.output)], [1, true]);
    assert.equal((await cli(['delete', 'greeting'])).code, 0);
    assert.match((await cli(['get', 'greeting'])).output, /^sendbatch: .*TEMPLATE_NOT_FOUND/);
  });

  test('every command has its own help with exit codes and examples, and a typo is answered with the intended command', async () => {
    const commands = ['send', 'tail', 'channel', 'template', 'key', 'verify'];
    const [all, ...each] = await Promise.all(
      [[], ...commands.map((name) => [name])].map((name) => runToEnd({}, [...name, '--help'])),
    );
    for (const name of [...commands, 'serve', 'config', 'version'])
      assert.match(all?.output ?? '', new RegExp(`^ {2}${name}\\b`, 'm'));
    for (const { code, stdout } of each) {
      assert.equal(code, 0);
      assert.match(stdout, /Exit codes: .*0 .*1 /);
      assert.match(stdout, /Examples:\n {2}.*sendbatch /);
    }
    const program = await createProgram('');
    const helps = new Map([...allOf(program)].map((command) => [nameOf(command), helpOf(command)]));
    assert.ok(helps.size > 35, `${helps.size}`);
    for (const [name, help] of helps) {
      assert.match(help, /^Exit codes:\s+0 /m, name);
      assert.match(help, new RegExp(`^Examples:\n(  .*\n)*?  .*${name}\\b`, 'm'), name);
    }
    const submit = helps.get('sendbatch batch submit') ?? '';
    assert.match(submit, /File formats, by name:/);
    assert.doesNotMatch(submit, /journal/);
    const typos: [string[], RegExp][] = [
      [['tial'], /^sendbatch: unknown command 'tial' \(Did you mean tail\?\)[^\n]*\n$/],
      [['channel', 'membrs'], /^sendbatch: .*Did you mean members\?/],
      [['send', 'x', '--dryrun'], /^sendbatch: .*Did you mean --dry-run\?/],
      [['tail', 'grup', 'x'], /^sendbatch: argument '<channel_type>' 'grup' is invalid. Expected 1 to 12, or person, /],
    ];
    for (const [args, words] of typos) {
      const { code, output } = await runCommand({}, args);
      assert.equal(code, 1);
      assert.match(output, words);
    }
    const away = await runCommand({ SENDBATCH_URL: 'http://127.0.0.1:1' }, ['channel', 'info', '2', 'x']);
    assert.match(away.output, /^sendbatch: cannot reach the service: .*ECONNREFUSED.*--url[^\n]*\n$/);
    const odd = await runCommand({ SENDBATCH_URL: 'localhost' }, ['channel', 'info', '2', 'x']);
    assert.match(odd.output, /^sendbatch: SENDBATCH_URL: "localhost" is not a URL such as/);
  });

  test('verify reports what holds, and a violation by its name, with the exit code', async () => {
    const own = await createDatabase();
    const database = { DATABASE_URL: own.url };
    const sound = await runCommand(database, ['verify']);
    assert.deepEqual(
      [sound.code, /^0 channels, 0 messages, 0 faults, in /.test(sound.output)],
      [0, true],
      sound.output,
    );
    await query(
      own.url,
      `insert into sendbatch.channel (channel_type, sequence, channel_id) values (2, 0, 'headless')`,
    );
    const faulty = await runCommand(database, ['verify']);
    assert.equal(faulty.code, 2);
    assert.match(
      faulty.output,
      /^HEAD_MISSING\tgroup headless: it has no head, and 0 messages\n1 channels, .* 1 faults/,
    );
    const [fault, summary] = (await runCommand(database, ['verify', '--json'])).output.trim().split('\n');
    assert.equal(JSON.parse(fault ?? '').kind, 'HEAD_MISSING');
    assert.equal(JSON.parse(summary ?? '').faults, 1);
    await own.drop();
  });

  test('verify --journal reports a lost message and counts the others, and names a file that it cannot read', async () => {
    const own = await createDatabase();
    const database = { DATABASE_URL: own.url };
    const { key } = (
      await query(
        own.url,
        `with made as (insert into sendbatch.channel (channel_type, sequence, channel_id) values (2, 0, 'room') returning channel_key),
           head as (insert into sendbatch.channel_head (channel_key, last_seq) select channel_key, 1 from made)
         insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
         select channel_key, 1, 4096, 0, md5('k')::uuid, 2, '', 'u', 'k', '' from made returning client_msg_no as key`,
      )
    )[0] as { key: string };
    await query(own.url, `select setval('sendbatch.message_block', 1)`);
    const entry = { channel_type: 2, channel_id: 'room', from_uid: 'u', client_msg_no: key };
    const journal = join(folder, 'acknowledged.ndjson');
    writeFileSync(
      journal,
      [
        { ...entry, message_seq: 1, message_id: 4096 },
        { ...entry, message_seq: 2, message_id: 4097, client_msg_no: 'lost' },
      ]
        .map((each) => `${JSON.stringify(each)}\n`)
        .join(''),
    );
    const faulty = await runCommand(database, ['verify', '--journal', journal]);
    assert.equal(faulty.code, 2, faulty.output);
    assert.match(
      faulty.output,
      /^ACKNOWLEDGED_LOST\tgroup room: .*acknowledged.ndjson:2: seq 2, id 4097 of u with key "lost" was/,
    );
    assert.match(faulty.output, /1 messages, 2 acknowledged \(0 removed since, 0 without a number\), 1 faults/);
    const [, summary] = (await runCommand(database, ['verify', '--json', '--journal', journal])).output
      .trim()
      .split('\n');
    assert.equal(JSON.parse(summary ?? '').acknowledged, 2);
    for (const [text, words] of [
      ['{"run":"x","tally":{}}\n', /^sendbatch: .*acknowledged.ndjson:1: a progress file of `send`/],
      [undefined, /^sendbatch: .*acknowledged.ndjson does not exist/],
    ] as const) {
      if (text === undefined) rmSync(journal);
      else writeFileSync(journal, text);
      const { code, output } = await runCommand(database, ['verify', '--journal', journal]);
      assert.equal(code, 1);
      assert.match(output, words);
    }
    await own.drop();
  });

  test('an argument that cannot be parsed is answered with its syntax', async () => {
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
      const { code, output } = await runCommand({ ...env(), DATABASE_URL: service.databaseUrl }, args);
      assert.equal(code, 1, args.join(' '));
      assert.match(output, /^sendbatch: /m, args.join(' '));
      assert.doesNotMatch(output, /at file:/);
    }
    const away = await runCommand({ SENDBATCH_URL: 'http://127.0.0.1:1' }, ['tail', '2', 'x', '--count', 'x']);
    assert.equal(away.code, 1);
  });

  test('key creates, lists and revokes keys, and shows the secret once', async () => {
    const database = { DATABASE_URL: service.databaseUrl };
    const made = await runCommand(database, [
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
    const list = JSON.parse((await runCommand(database, ['key', 'list', '--json'])).output);
    assert.deepEqual([list[0].id, list[0].state, list[0].senders], [keyId, 'active', 'a,b']);
    // The secret may contain a `_`, even as its first character.
    const secret = key.slice(`sb_${keyId}_`.length);
    assert.equal(secret.length, 43);
    assert.ok(!JSON.stringify(list).includes(secret));
    assert.equal((await runCommand(database, ['key', 'revoke', keyId])).code, 0);
    assert.equal((await runCommand(database, ['key', 'revoke', keyId])).code, 1);
    assert.match((await runCommand(database, ['key', 'list'])).output, /revoked/);
  });
});
