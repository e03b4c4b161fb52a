import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { blocksOf, chineseOf, type RunOptions, readPage, run, runPage } from '../support/documents.ts';
import { endWithFile } from '../support/file-end.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { compiled, main } from '../support/program.ts';
import { type Receiver, startReceiver } from '../support/receiver.ts';

const root = join(import.meta.dirname, '../..');

function pagesUnder(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((each) => each.endsWith('.md'))
    .map((each) => `${folder}/${each}`)
    .sort();
}

describe('the README', () => {
  test('the commands of the README do what it says, and npm start stops in order', async (context) => {
    const [install] = blocksOf('README.md');
    assert.deepEqual(install, { language: 'sh', text: 'npm ci\nnpm start\n' });
    const folder = temporaryFolder('readme');
    context.after(() => rmSync(folder, { recursive: true, force: true }));
    const npm = spawn('npm', ['start'], {
      cwd: root,
      env: { ...process.env, PORT: '0', DATA_DIR: join(folder, 'data'), LOG_FORMAT: 'json' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    npm.once(
      'exit',
      endWithFile(() => npm.kill('SIGTERM')),
    );
    const ended = once(npm, 'close');
    const messages: string[] = [];
    const url = await new Promise<string>((resolve, reject) => {
      ended.then(() => reject(new Error('npm start ended')), reject);
      createInterface(npm.stdout).on('line', (line) => {
        if (!line.startsWith('{')) return;
        const { msg, url } = JSON.parse(line) as { msg: string; url?: string };
        messages.push(msg);
        if (msg === 'listening' && url !== undefined) resolve(url);
      });
    });
    const options = optionsFor(url, folder);
    const { answers } = await runPage('README.md', options);
    assert.equal(answers, 1);
    const ways = [...readPage('README.md').matchAll(/^\| .* \| `(.*)` +\|$/gm)].map(([, command = '']) => command);
    assert.equal(ways.length, 5, 'one line for each way to call the service');
    for (const command of ways) await run(command, options);
    const { messages: stored } = JSON.parse(
      await run('curl http://localhost:5001/v1/channels/2/group123/messages', options),
    ) as { messages: { payload: string }[] };
    assert.deepEqual(
      stored.map(({ payload }) => payload),
      ['SGVsbG8gR3JvdXAgMQ==', 'SGk=', 'SGk=', 'SGk=', 'SGk='],
    );
    npm.kill('SIGTERM');
    await ended;
    assert.equal(messages.at(-1), 'stopped', 'the signal went through npm and sh');
  });

  test('the README has at most 120 lines and 10 kB', () => {
    const text = readPage('README.md');
    assert.ok(text.split('\n').length <= 120);
    assert.ok(Buffer.byteLength(text) <= 10_000);
  });
});

/** The service's address in the documents, and its address here. */
function optionsFor(url: string, folder: string, more: Record<string, string> = {}): RunOptions {
  return {
    replace: { 'http://localhost:5001': url, ...more },
    env: { SENDBATCH_URL: url, DATA_DIR: join(folder, 'data') },
    session: join(folder, `session-${new URL(url).port}`),
  };
}

/**
 * A PATH on which `npm run --silent cli --` runs the command line at once, from the bundle: npm and
 * the source take four times the CPU. Anything else is npm's.
 */
function shortcutPath(folder: string): string {
  mkdirSync(folder);
  const path = process.env.PATH ?? '';
  const shortcut = `#!/bin/sh
if [ "$1 $2 $3 $4" = "run --silent cli --" ]; then
  shift 4
  NODE_COMPILE_CACHE='${compiled}' exec '${process.execPath}' '${main}' "$@"
fi
PATH='${path}' exec npm "$@"
`;
  writeFileSync(join(folder, 'npm'), shortcut, { mode: 0o755 });
  return `${folder}${delimiter}${path}`;
}

describe('the commands of the documents print what the pages say', () => {
  const folder = temporaryFolder('documents');
  const shortcut = shortcutPath(join(folder, 'bin'));
  let open: ServiceProcess;
  let closed: ServiceProcess;
  let receiver: Receiver;
  before(async () => {
    const settings = { DATA_DIR: join(folder, 'data'), SYSTEM_UIDS: 'system,____system', WEBHOOK_ALLOW_PRIVATE: 'on' };
    open = await spawnService(settings);
    closed = await spawnService({ ...settings, AUTH: 'on' });
    receiver = await startReceiver();
  });
  after(async () => {
    await receiver.close();
    await closed.end('SIGTERM');
    await open.end('SIGTERM');
    rmSync(folder, { recursive: true, force: true });
  });

  const needsCredential = 'docs/guides/auth.md';
  /** Runs npm and the source as its reader does. */
  const literal = 'docs/getting-started.md';
  for (const page of [literal, ...pagesUnder('docs/concepts'), ...pagesUnder('docs/guides')])
    test(`the commands of ${page} print what it says`, async () => {
      const service = page === needsCredential ? closed : open;
      const options = optionsFor(service.url, folder, { 'http://localhost:9000': receiver.url });
      // The session of another page would restore its PATH.
      const shortened = {
        ...options,
        env: { ...options.env, PATH: shortcut },
        session: `${options.session}-shortcut`,
      };
      await runPage(page, page === literal ? options : shortened);
    });
});

describe('the Chinese page has the commands and outputs of the English one', () => {
  for (const page of ['README.md', 'docs/getting-started.md', ...pagesUnder('docs/guides')]) {
    test(`the Chinese version of ${page} has its commands and outputs`, () => {
      const chinese = chineseOf(page);
      assert.deepEqual(blocksOf(chinese), blocksOf(page));
      // `bash` blocks need programs that are not the project's: compared without their comments.
      const commands = (each: string) => blocksOf(each, ['bash']).map(({ text }) => text.replace(/^#.*\n/gm, ''));
      assert.deepEqual(commands(chinese), commands(page));
    });
  }
});

describe('every link to a file of the project leads to one', () => {
  const pages = [
    'README.md',
    'ARCHITECTURE.md',
    'CHANGELOG.md',
    'SECURITY.md',
    'bench/RESULTS.md',
    ...pagesUnder('docs'),
  ];
  for (const page of pages) {
    test(`every link of ${page} to a file of the project leads to one`, () => {
      for (const [, target = ''] of readPage(page).matchAll(/\]\(([^)#\s]+)[^)]*\)/g))
        if (!/^[a-z]+:/.test(target)) assert.ok(existsSync(join(root, page, '..', target)), `${page}: ${target}`);
    });
  }
});
