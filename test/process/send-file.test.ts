import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { createConnectTransport } from '@connectrpc/connect-node';
import { parse } from 'csv-parse/sync';
import { randomOf } from '../../bench/workload.ts';
import { sendFile } from '../../src/cli/send-file/send-file.ts';
import { createSendbatch } from '../../src/client/index.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { endWithFile } from '../support/file-end.ts';
import { jsonCaller } from '../support/json.ts';
import { runCommand, runToEnd, spawnCommand } from '../support/process.ts';
import { main } from '../support/program.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

describe('sendbatch send <file>', () => {
  let service: TestService;
  let folder: string;
  before(async () => {
    service = await startService();
    folder = temporaryFolder('send-file');
  });
  after(async () => {
    await assertSound(service.databaseUrl);
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const env = () => ({ SENDBATCH_URL: service.url });
  const send = (...args: string[]) => runCommand(env(), ['send', ...args]);
  const rowsOf = (channel: RegExp) => readAll(service.databaseUrl, { channel });
  /** A file in a folder of its own, so that what a run leaves beside it is that run's only. */
  const fileOf = (name: string, content: string | Buffer) => {
    const file = join(folder, name, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    return file;
  };
  const reportOf = (file: string) =>
    readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .map(
        (line) =>
          JSON.parse(line) as { line: number; recipient?: string; reason: string; message: string; text: string },
      );
  const waitFor = async (what: string, holds: () => boolean) => {
    const until = performance.now() + 30_000;
    while (!holds()) {
      assert.ok(performance.now() < until, `waited too long for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const standingOf = (file: string) => {
    try {
      return JSON.parse(readFileSync(`${file}.journal`, 'utf8')) as {
        run: string;
        line: number;
        tally: { refused: number };
        finished?: { at: string };
      };
    } catch {
      return undefined;
    }
  };
  /** Many lines, of which every thousandth is refused. */
  const manyLines = (channel: string, count: number) =>
    Array.from({ length: count }, (_, index) =>
      index % 1000 === 999
        ? `broken ${index + 1}`
        : JSON.stringify({
            from_uid: 'u1',
            channel_id: `${channel}-${index % 20}`,
            channel_type: 2,
            payload: Buffer.from(`m${index}`).toString('base64'),
          }),
    ).join('\n');
  /** Asserts that every good line is stored once, and every bad one is in the report once. */
  const assertWhole = async (file: string, channel: string, count: number) => {
    const rows = await rowsOf(new RegExp(`^${channel}-`));
    const expected = Array.from({ length: count }, (_, index) => `m${index}`).filter(
      (_, index) => index % 1000 !== 999,
    );
    assert.deepEqual(rows.map((row) => row.payload).sort(), expected.sort());
    const lines = reportOf(`${file}.refused.ndjson`).map((each) => each.line);
    assert.deepEqual(
      lines,
      Array.from({ length: Math.floor(count / 1000) }, (_, index) => (index + 1) * 1000),
    );
    assert.ok(standingOf(file)?.finished);
    for (const left of ['.journal.lock', '.journal.new']) assert.ok(!existsSync(file + left), left);
  };

  describe('send <file>: CSV', () => {
    test('send <file> with a template takes its variables from the columns; malformed rows are named by line', async () => {
      const file = fileOf(
        'people.csv',
        '\ufeffuid,name,note\r\nann,"Ann, A.",one\r\nbob,Bob,"two\nlines ""quoted"""\r\n\r\nshort\r\ncarl,bad"quote,x\r\ndora,Dora,\r\n',
      );
      const template = fileOf('hello.liquid', 'Hi {{ name }}{% if note != blank %} ({{ note }}){% endif %}\n');
      const options = ['--template-file', template, '--from-uid', 'csv', '--channel-type', 'person'];
      const { code, output } = await send(file, ...options, '--channel-id-column', 'uid', '--json');
      assert.equal(code, 2, output);
      assert.deepEqual([JSON.parse(output).sent, JSON.parse(output).refused], [3, 2]);
      assert.deepEqual((await rowsOf(/csv/)).map((row) => row.payload).sort(), [
        'Hi Ann, A. (one)',
        'Hi Bob (two\nlines "quoted")',
        'Hi Dora',
      ]);
      const report = reportOf(`${file}.refused.ndjson`);
      assert.deepEqual(
        report.map((each) => [each.line, each.reason]),
        [
          [6, 'INVALID_LINE'],
          [7, 'INVALID_LINE'],
        ],
      );
      assert.match(report[0]?.message ?? '', /expected 3 columns, got 1/);
    });

    test('send <file> accepts a template that produces JSON, and names a variable that the template lacks', async () => {
      const file = fileOf('json.csv', 'channel_id,name\njson-csv,"say ""hi"""\n');
      const template = fileOf('json.liquid', '{"text": "{{ name }}"}');
      const options = ['--from-uid', 'u', '--channel-type', '2'];
      assert.equal((await send(file, '--template-file', template, '--format', 'json', ...options)).code, 0);
      const [row] = await rowsOf(/^json-csv$/);
      assert.deepEqual(JSON.parse((row?.payload ?? '').replaceAll('\\\\', '\\')), { text: 'say "hi"' });
      const lacking = fileOf('lacking.liquid', '{{ surname }}');
      assert.equal((await send(file, '--template-file', lacking, ...options)).code, 2);
      const [refused] = reportOf(`${file}.refused.ndjson`);
      assert.deepEqual([refused?.line, refused?.reason], [2, 'TEMPLATE_FAILED']);
    });

    test('send <file> with a stored template uses the version that is the latest when the run begins', async () => {
      const template = fileOf('stored.liquid', 'v1 {{ name }}');
      assert.equal((await runCommand(env(), ['template', 'create', 'stored', template])).code, 0);
      writeFileSync(template, 'v2 {{ name }}');
      assert.equal((await runCommand(env(), ['template', 'create', 'stored', template])).code, 0);
      const file = fileOf('stored.csv', 'channel_id,name\nstored,a\nstored,b\n');
      const options = ['--from-uid', 'u', '--channel-type', '2'];
      assert.equal((await send(file, '--template', 'stored', ...options)).code, 0);
      assert.equal((await send(file, '--template', 'stored@1', ...options)).code, 0);
      assert.deepEqual(
        (await rowsOf(/^stored$/)).map((row) => row.payload),
        ['v2 a', 'v2 b', 'v1 a', 'v1 b'],
      );
      const nowhere = await send(file, '--template', 'nowhere', ...options);
      assert.equal(nowhere.code, 1);
      assert.match(nowhere.output, /^sendbatch: .*TEMPLATE_NOT_FOUND/);
    });

    test('send <file> without a template reads a payload column, message fields by name or mapping, and defaults for the rest', async () => {
      const file = fileOf(
        'plain.tsv.gz',
        gzipSync(
          'who\tchannel_id\tchannel_type\ttext\tclient_msg_no\ttag_key\nann\tplain\t\t héllo \tk1\tt\n\tplain\t2\tyo\t\t\n',
        ),
      );
      const mapped = ['--column', 'from_uid=who', '--column', 'payload=text'];
      const { code, output } = await send(
        file,
        ...mapped,
        '--from-uid',
        'default',
        '--channel-type',
        'group',
        '--json',
      );
      assert.equal(code, 0, output);
      const rows = await rowsOf(/^plain$/);
      assert.deepEqual(
        rows.map((row) => [row.fromUid, row.payload.replaceAll('\\303\\251', 'é')]),
        [
          ['ann', ' héllo '],
          ['default', 'yo'],
        ],
      );
      assert.equal(rows[0]?.key, 'k1');
      const base64 = fileOf('base64.csv', 'channel_id,payload\nbase64,SGk=\nbase64,S G\n');
      const both = await send(base64, '--payload-base64', '--from-uid', 'u', '--channel-type', '2');
      assert.equal(both.code, 2);
      assert.deepEqual(
        (await rowsOf(/^base64$/)).map((row) => row.payload),
        ['Hi'],
      );
      assert.match(reportOf(`${base64}.refused.ndjson`)[0]?.message ?? '', /base64/);
    });

    test('send <file> accepts channel types by name, and reports an invalid line in the words of its own file', async () => {
      const rows = fileOf('named.csv', 'channel_id,channel_type,payload\nnamed,group,a\nnamed,grup,b\nna#med,2,c\n');
      assert.equal((await send(rows, '--from-uid', 'u')).code, 2);
      const named = (key: string, type: string) =>
        `{"from_uid":"u","channel_id":"${key}","channel_type":${type},"payload":"SGk="}`;
      const lines = fileOf(
        'named.ndjson',
        [named('named', '"group"'), '[]', named('named', '22'), named('named', '2').replace('SGk=', 'S!k=')].join('\n'),
      );
      assert.equal((await send(lines)).code, 2);
      assert.deepEqual(
        (await rowsOf(/^named$/)).map((row) => row.payload),
        ['a', 'Hi'],
      );
      const said = [rows, lines].flatMap((file) => reportOf(`${file}.refused.ndjson`).map(({ message }) => message));
      for (const [index, words] of [
        /^channel_type must be 1 to 12, or person, group, .*, not "grup"$/,
        /^channel_id must not contain # or &$/,
        /^a line must be a JSON object/,
        /^channel_type must be one of 1 \(person\), 2 \(group\)/,
        /^payload: invalid base64 string$/,
      ].entries())
        assert.match(said[index] ?? '', words);
      assert.equal(said.length, 5);
    });

    test('send <file> refuses an impossible run before anything is sent, and leaves no files behind', async () => {
      const file = fileOf('wrong.csv', 'channel_id,text\nwrong,a\n');
      for (const [args, words] of [
        [[], /no column for the payload.*channel_id, text/],
        [['--column', 'payload=text', '--from-uid', 'u'], /no value for channel_type: .*--channel-type/],
        [['--column', 'payload=body'], /no column "body" for payload/],
        [['--template', 'a', '--template-file', 'b'], /must not be set together/],
        [['--template-file', join(folder, 'nowhere.liquid')], /nowhere\.liquid/],
        [['--column', 'colour=text'], /Expected payload, from_uid/],
        [['--channel-type', '13'], /1 to 12/],
      ] as const) {
        const { code, output } = await send(file, ...args);
        assert.equal(code, 1, output);
        assert.match(output, words);
        assert.match(output, /^sendbatch: [^\n]*\n$/);
        assert.ok(!existsSync(`${file}.journal`));
      }
      for (const [name, content, words] of [
        ['empty.csv', '', /no header line/],
        ['twice.csv', 'a,payload,a\n1,2,3\n', /column "a" twice/],
        ['no.ndjson.gz', 'not packed at all', /no\.ndjson\.gz: is damaged or not compressed by gzip/],
      ] as const) {
        const { code, output } = await send(fileOf(name, content));
        assert.deepEqual([code, words.test(output)], [1, true], output);
      }
      assert.match((await send(folder)).output, /is a folder, not a file\n$/);
      assert.match((await send('/dev/null')).output, /is a pipe or a device, not a file/);
    });
  });

  describe('send <file>: malformed files and repeated runs', () => {
    const mapping = ['--from-uid', 'u', '--channel-type', '2', '--column', 'payload=text', '--column', 'channel_id=to'];

    test('send <file> ends at a line with a quote closed inside a cell; once corrected, the next run continues there', async () => {
      const rows = Array.from({ length: 6000 }, (_, index) => `ends,t${index}`);
      const broken = rows.with(5200, 'ends,"Fast" Eddie');
      const file = fileOf('ends.csv', `to,text\n${broken.join('\n')}\n`);
      const { code, stdout, output } = await send(file, ...mapping, '--json');
      assert.equal(code, 1, output);
      const { sent, duplicates, refused, fault } = JSON.parse(stdout);
      assert.deepEqual([sent, duplicates, refused, fault.line], [5200, 0, 0, 5202]);
      assert.match(
        output,
        /^sendbatch: .*ends\.csv: line 5202: the quote opened here is closed before the end of the cell.*continue there with --resume$/m,
      );
      writeFileSync(file, `to,text\n${rows.join('\n')}\n`);
      assert.match((await send(file, ...mapping)).output, /--resume/);
      const rest = await send(file, ...mapping, '--resume');
      assert.deepEqual([rest.code, /^6000 sent/.test(rest.output)], [0, true], rest.output);
      assert.deepEqual(
        (await rowsOf(/^ends$/)).map((row) => row.payload),
        rows.map((row) => row.slice(5)),
      );
    });

    test('send <file> ends at a line that is not UTF-8, and --encoding reads it', async () => {
      const file = fileOf('latin.csv', Buffer.from('to;text\nlatin;a\nlatin;M\xfcller \x80\n', 'latin1'));
      const first = await send(file, ...mapping);
      assert.equal(first.code, 1, first.output);
      assert.match(first.output, /^detected delimiter ";"/m);
      assert.match(first.output, /line 3: byte 24 \(0xFC, .*--encoding windows-1252 reads "latin;Müller/);
      const rest = await send(file, ...mapping, '--encoding', 'windows-1252', '--resume');
      assert.equal(rest.code, 0, rest.output);
      const shown = (await rowsOf(/^latin$/)).map((row) =>
        row.payload.replaceAll(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8))),
      );
      assert.deepEqual(
        shown.map((each) => Buffer.from(each, 'latin1').toString()),
        ['a', 'Müller €'],
      );
      const stdin = await runToEnd(env(), ['send', '-'], folder, Buffer.from('{"from_uid":"\xfc"}\n', 'latin1'));
      assert.match(stdin.output, /^sendbatch: standard input: line 1: byte 14 \(0xFC.*nothing was sent\n$/);
    });

    test('send <file> does not send a file twice unless asked to; lines added to it are sent alone', async () => {
      const file = fileOf('twice.csv', 'to,text\ntwice,a\ntwice,b\n');
      assert.equal((await send(file, ...mapping)).code, 0);
      assert.equal(statSync(`${file}.journal`).mode & 0o777, 0o600);
      const second = await send(file, ...mapping);
      assert.equal(second.code, 1);
      assert.match(second.output, /twice\.csv was sent completely at .*\(2 sent, .*--again to send all lines again/);
      assert.equal((await rowsOf(/^twice$/)).length, 2);
      assert.equal((await send(file, ...mapping, '--again')).code, 0);
      appendFileSync(file, 'twice,c\n');
      const grown = await send(file, ...mapping);
      assert.deepEqual(
        [grown.code, /has grown since: use --resume to send the lines after line 3/.test(grown.output)],
        [1, true],
        grown.output,
      );
      const more = await send(file, ...mapping, '--resume');
      assert.match(more.output, /^1 sent, /);
      assert.deepEqual(
        (await rowsOf(/^twice$/)).map((row) => row.payload),
        ['a', 'b', 'a', 'b', 'c'],
      );
    });

    test('send <file> reports receivers named twice; --unique sends to each once', async () => {
      const file = fileOf('unique.csv', 'to,text\nann,a\nbob,b\nann,c\n,d\n');
      const how = [
        '--from-uid',
        'uniq',
        '--channel-type',
        'person',
        '--column',
        'payload=text',
        '--column',
        'channel_id=to',
      ];
      const dry = await send(file, ...how, '--dry-run');
      assert.match(dry.output, /1 receiver occurs in several rows \(ann, lines 2 and 4\)/);
      const { code, stdout } = await send(file, ...how, '--unique', 'to', '--json');
      const { sent, refused, dropped } = JSON.parse(stdout);
      assert.deepEqual([code, sent, refused, dropped], [2, 2, 1, 1]);
      assert.deepEqual((await rowsOf(/uniq/)).map((row) => row.payload).sort(), ['a', 'b']);
      assert.match((await send(file, ...how, '--unique', 'uid')).output, /no column "uid" for --unique/);
    });

    test('a report can be sent as it is: with the same keys and the template of the run', async () => {
      const closed = { channel_type: 2, channel_id: 'shut' };
      const json = jsonCaller(service.url);
      assert.equal((await json.post('/channel', { ...closed, disband: 1 })).status, 200);
      const template = fileOf('again.liquid', 'Hi {{ text }}');
      const file = fileOf('report.csv', 'to,text\nshut,a\nopen,b\nshut,c\nopen\n');
      const how = ['--template-file', template, '--from-uid', 'u', '--channel-type', '2', '--column', 'channel_id=to'];
      assert.equal((await send(file, ...how)).code, 2);
      const report = `${file}.refused.ndjson`;
      assert.equal(statSync(report).mode & 0o777, 0o600);
      assert.deepEqual(
        reportOf(report).map(({ line, recipient, reason }) => [line, recipient, reason]),
        [
          [2, 'shut', 'CHANNEL_DISBANDED'],
          [4, 'shut', 'CHANNEL_DISBANDED'],
          [5, undefined, 'INVALID_LINE'],
        ],
      );
      assert.equal((await json.post('/channel', { ...closed, disband: 0 })).status, 200);
      const again = await send(report, '--json');
      const { sent, refused } = JSON.parse(again.output);
      assert.deepEqual([again.code, sent, refused], [2, 2, 1], again.output);
      assert.match(
        reportOf(`${report}.refused.ndjson`)[0]?.message ?? '',
        /refused before as invalid: expected 2 columns/,
      );
      const rows = await rowsOf(/^(shut|open)$/);
      assert.deepEqual(rows.map((row) => row.payload).sort(), ['Hi a', 'Hi b', 'Hi c']);
      const run = rows.find((row) => row.payload === 'Hi b')?.key.replace(/:\d+$/, '');
      assert.deepEqual(rows.map((row) => row.key).sort(), [`${run}:2`, `${run}:3`, `${run}:4`]);
    });

    test('journals and reports follow no symbolic link', async () => {
      const file = fileOf('linked.csv', 'to,text\nlinked\n');
      const target = join(folder, 'precious');
      writeFileSync(target, 'precious');
      for (const name of ['.refused.ndjson', '.journal.new', '.journal']) {
        symlinkSync(target, file + name);
        const { code, output } = await send(file, ...mapping);
        assert.deepEqual([code, /is a symbolic link and is not followed/.test(output)], [1, true], output);
        rmSync(file + name);
        rmSync(`${file}.journal`, { force: true });
      }
      assert.equal(readFileSync(target, 'utf8'), 'precious');
      assert.deepEqual(await rowsOf(/^linked$/), []);
    });

    test('however a table is damaged, the sent, duplicate and refused rows are those before the first malformed row', async (context) => {
      const random = randomOf(seedOf(context));
      const client = createSendbatch({
        transport: createConnectTransport({ baseUrl: service.url, httpVersion: '1.1' }),
      });
      const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
      for (let round = 0; round < 40; round++) {
        const channel = `damaged-${round}`;
        let text = `to,text,note\n${Array.from({ length: 30 }, (_, index) => `${channel},t${index},${pick(['x', '"q"', '"a,b"', '""'])}`).join('\n')}\n`;
        for (let damage = 0; damage < 1 + random() * 3; damage++) {
          const at = 13 + Math.floor(random() * (text.length - 13));
          const piece = pick(['"', ',', '\n', '""', '\r', 'z', '"x"']);
          text = text.slice(0, at) + piece + text.slice(at + pick([0, 0, 1, 3]));
        }
        const file = fileOf(`damaged-${round}.csv`, text);
        const outcome = await sendFile(client, {
          file,
          shape: 'csv',
          delimiter: undefined,
          encoding: 'utf-8',
          unique: undefined,
          templates: [],
          mapping: {
            defaults: { from_uid: 'u', channel_type: '2' },
            columns: { channel_id: 'to', payload: 'text' },
            ignored: [],
            template: undefined,
            payloadBase64: false,
            takesSendAt: false,
          },
          concurrency: 1,
          dryRun: false,
          journal: `${file}.journal`,
          report: `${file}.refused.ndjson`,
          onChange: 'refuse',
          again: false,
          quiet: true,
        });
        const { sent, duplicates, refused, fault } = outcome;
        const run = standingOf(file)?.run ?? 'none';
        const stored = await readAll(service.databaseUrl, { key: new RegExp(`^${run}`) });
        const reported = existsSync(`${file}.refused.ndjson`) ? reportOf(`${file}.refused.ndjson`) : [];
        assert.deepEqual([stored.length, reported.length, duplicates], [sent, refused, 0], JSON.stringify(text));
        // The lines before the malformed one only, read by another parser that accepts what we
        // refuse per row.
        const before =
          fault === undefined
            ? text
            : `${text
                .split('\n')
                .slice(0, fault.line - 1)
                .join('\n')}\n`;
        const options = {
          relax_column_count: true,
          relax_quotes: true,
          skip_empty_lines: true,
          record_delimiter: ['\r\n', '\n'],
        };
        const rows = (parse(before, options) as string[][]).slice(1);
        assert.equal(sent + duplicates + refused, rows.length, JSON.stringify([fault?.message, text]));
        assert.equal(standingOf(file)?.finished === undefined, fault !== undefined);
      }
    });
  });

  test('send --dry-run checks every line and stores nothing', async () => {
    const file = fileOf('dry.ndjson', manyLines('dry', 2000));
    const { code, output } = await send(file, '--dry-run', '--json');
    assert.equal(code, 2, output);
    const { sent, refused, dry_run } = JSON.parse(output);
    assert.deepEqual([sent, refused, dry_run], [1998, 2, true]);
    assert.deepEqual(await rowsOf(/^dry-/), []);
    assert.ok(!existsSync(`${file}.journal`));
    assert.deepEqual(
      reportOf(`${file}.dry-run.ndjson`).map((each) => each.line),
      [1000, 2000],
    );
  });

  test('send reads standard input, and names a compressed file that is truncated', async () => {
    const line = '{"from_uid":"u","channel_id":"piped","channel_type":2,"payload":"SGk="}';
    const piped = await runToEnd(env(), ['send', '-', '--json'], folder, `${line}\n${line}`);
    assert.deepEqual([piped.code, JSON.parse(piped.stdout).sent], [0, 2]);
    assert.ok(!existsSync(join(folder, 'stdin.journal')));
    const packed = gzipSync(manyLines('cut', 3000));
    const { code, output } = await send(fileOf('cut.ndjson.gz', packed.subarray(0, packed.length / 2)));
    assert.equal(code, 1);
    assert.match(output, /^sendbatch: .*cut\.ndjson\.gz: is truncated/);
  });

  test('send <file> killed again and again stores every line once, and reports each refused line once', async (context) => {
    const total = 40_000;
    const file = fileOf('killed.ndjson', manyLines('killed', total));
    const random = randomOf(seedOf(context));
    for (let kill = 0; kill < 3; kill++) {
      const { child, exit } = spawnCommand(env(), ['send', file]);
      const reached = (standingOf(file)?.line ?? 0) + Math.floor(random() * 5000);
      let ended = false;
      exit.then(() => {
        ended = true;
      });
      await waitFor('the journal', () => ended || (standingOf(file)?.line ?? -1) >= reached);
      assert.ok(!ended, 'it was through before it was killed');
      child.kill('SIGKILL');
      await exit;
    }
    const { code, output } = await send(file, '--json');
    assert.equal(code, 2, output);
    const { sent, duplicates, refused } = JSON.parse(output);
    assert.equal(sent + duplicates + refused, total);
    await assertWhole(file, 'killed', total);
  });

  test('Ctrl-C finishes the lines in flight and prints how to continue, and the same command does', async () => {
    const total = 50_000;
    const file = fileOf('stopped.ndjson', manyLines('stopped', total));
    const { child, output, exit } = spawnCommand(env(), ['send', file]);
    await waitFor('the first chunk', () => (standingOf(file)?.line ?? 0) > 0);
    child.kill('SIGINT');
    assert.equal(await exit, 130, output());
    assert.match(output(), /run the same command again to resume/);
    const standing = standingOf(file);
    assert.equal((await rowsOf(/^stopped-/)).length, (standing?.line ?? 0) - (standing?.tally.refused ?? 0));
    assert.ok((standing?.line ?? total) < total);
    // As a crash between report and journal leaves it: lines missing in the journal are reported
    // again, once.
    appendFileSync(`${file}.refused.ndjson`, `{"line":${total},"reason":"INVALID_LINE","message":"","text":""}\n{"li`);
    assert.equal((await send(file)).code, 2);
    await assertWhole(file, 'stopped', total);
  });

  test('send <file> waits for a service that goes down; Ctrl-C ends the wait', async () => {
    const total = 60_000;
    const file = fileOf('away.ndjson', manyLines('away', total));
    let other = await startService({ databaseUrl: service.databaseUrl });
    const port = Number(new URL(other.url).port);
    const begin = async () => {
      const from = standingOf(file)?.line ?? 0;
      const run = spawnCommand({ SENDBATCH_URL: other.url }, ['send', file]);
      await waitFor('a chunk', () => (standingOf(file)?.line ?? 0) > from);
      await other.stop();
      await waitFor('word of it', () => run.output().includes('service unreachable, retrying: '));
      return run;
    };
    const interrupted = await begin();
    interrupted.child.kill('SIGINT');
    assert.equal(await interrupted.exit, 130, interrupted.output());
    assert.match(interrupted.output(), /run the same command again to resume/);
    other = await startService({ databaseUrl: service.databaseUrl, port });
    const outlived = await begin();
    other = await startService({ databaseUrl: service.databaseUrl, port });
    assert.equal(await outlived.exit, 2, outlived.output());
    assert.match(outlived.output(), /the service answers again/);
    await assertWhole(file, 'away', total);
    await other.stop();
  });

  test('Ctrl-C while the last lines are being sent interrupts nothing', async (context) => {
    const file = fileOf('last.ndjson', manyLines('last', 900));
    const { promise: go, resolve: release } = Promise.withResolvers<void>();
    const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
    const front = createServer(async (request, response) => {
      const body = Buffer.concat(await Array.fromAsync(request as AsyncIterable<Buffer>));
      ask();
      await go;
      const headers = { 'content-type': request.headers['content-type'] ?? '', 'connect-protocol-version': '1' };
      const answer = await fetch(service.url + request.url, { method: 'POST', headers, body });
      response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? '' });
      response.end(Buffer.from(await answer.arrayBuffer()));
    });
    await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
    context.after(() => front.close());
    const { port } = front.address() as AddressInfo;
    const { child, output, exit } = spawnCommand({ SENDBATCH_URL: `http://127.0.0.1:${port}` }, ['send', file]);
    await asked;
    child.kill('SIGINT');
    await waitFor('the signal', () => output().includes('stopping: '));
    release();
    assert.equal(await exit, 0, output());
    assert.match(output(), /^stopping: [^\n]*\n900 sent, 0 duplicates, 0 refused, [^\n]*\n$/);
    assert.ok(standingOf(file)?.finished);
  });

  test('after a change of the file or options, send <file> sends nothing until --resume or --restart is given', async () => {
    const lines = manyLines('changed', 900).split('\n');
    const file = fileOf('changed.ndjson', lines.join('\n'));
    const strict = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false });
    const refused = await runToEnd({ SENDBATCH_URL: strict.url }, ['send', file]);
    await strict.stop();
    assert.equal(refused.code, 1);
    assert.match(refused.output, /run the same command again to resume .*\nsendbatch: .*CREDENTIAL_MISSING.*--token/);
    const other = await send(file, '--tag-key', 'x');
    assert.deepEqual([other.code, /the options .* have changed.*--resume.*--restart/.test(other.output)], [1, true]);
    writeFileSync(file, [...lines, lines[0]?.replace(/changed-\d+/, 'changed-new')].join('\n'));
    const longer = await send(file);
    assert.deepEqual([longer.code, /its size was/.test(longer.output)], [1, true], longer.output);
    assert.deepEqual(await rowsOf(/^changed-/), []);
    assert.equal((await send(file, '--resume')).code, 0);
    assert.equal((await rowsOf(/^changed-/)).length, 901);
    writeFileSync(`${file}.journal`, '{"run": "of another version", "lines": 3}');
    assert.match((await send(file)).output, /is not a journal of this version of send.*--restart/);
    assert.equal((await send(file, '--restart')).code, 0);
    assert.equal((await rowsOf(/^changed-/)).length, 1802);
  });

  test('send <file> allows one run per file at a time; the lock of a killed run blocks none', async () => {
    const file = fileOf('locked.ndjson', manyLines('locked', 10));
    writeFileSync(`${file}.journal.lock`, String(process.pid));
    const second = await send(file);
    assert.deepEqual([second.code, second.output.includes(`(process ${process.pid})`)], [1, true], second.output);
    assert.equal(readFileSync(`${file}.journal.lock`, 'utf8'), String(process.pid));
    const gone = spawn(process.execPath, ['--version'], { stdio: 'ignore' });
    await once(gone, 'exit');
    writeFileSync(`${file}.journal.lock`, String(gone.pid));
    assert.equal((await send(file)).code, 0);
    assert.equal((await rowsOf(/^locked-/)).length, 10);
    assert.ok(!existsSync(`${file}.journal.lock`));
  });

  const hasScript = spawnSync('script', ['--version']).status === 0;
  test('send <file> on a terminal shows a bar with rate, remaining time and refusals, in colour unless NO_COLOR is set', {
    skip: hasScript ? false : 'there is no script(1) to make a terminal',
  }, async () => {
    for (const [name, more] of [
      ['colour', {}],
      ['plain', { NO_COLOR: '1' }],
    ] as const) {
      const file = fileOf(`${name}.ndjson`, manyLines(name, 2000));
      const terminal = spawn('script', ['-qec', `${process.execPath} ${main} send ${file}`, '/dev/null'], {
        env: { PATH: process.env.PATH ?? '', TERM: 'xterm', ...env(), ...more },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      terminal.once(
        'exit',
        endWithFile(() => terminal.kill('SIGKILL')),
      );
      let stdout = '';
      terminal.stdout.on('data', (chunk: Buffer) => {
        stdout += chunk.toString();
      });
      const [code] = await once(terminal, 'close');
      assert.equal(code, 2, stdout);
      assert.match(stdout, /█+.*100 % · 2,000 messages · [\d,]+\/s · 0 s left · .*2 refused/);
      assert.match(stdout, /1998 sent/);
      assert.equal(stdout.includes('\u001b[32m'), name === 'colour');
    }
  });
});
