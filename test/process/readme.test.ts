import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { describeSettings } from '../../src/config/index.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { endWithFile } from '../support/file-end.ts';

const root = join(import.meta.dirname, '../..');
const pages = ['README.md', 'README.zh-CN.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'SECURITY.md', 'bench/RESULTS.md'];
const textOf = (page: string) => readFileSync(join(root, page), 'utf8');
/** The blocks that are run here or compared. Those in `bash` need programs that are not the project's: without their comments, both languages have the same. */
function blocksOf(page: string, languages = ['sh', 'json']): { language: string; text: string }[] {
  return [...textOf(page).matchAll(/^```(\w+)\n(.*?)^```$/gms)]
    .map(([, language = '', text = '']) => ({ language, text }))
    .filter(({ language }) => languages.includes(language));
}

/** The same but for when it was said. */
function plain(json: string): unknown {
  return JSON.parse(json, (key, value: unknown) => (key === 'timestamp' ? 'then' : value));
}

describe('the README', () => {
  test('its commands do what it says, and npm start stops in order', async (context) => {
    const [install, ...rest] = blocksOf('README.md');
    assert.deepEqual(install, { language: 'sh', text: 'npm ci\nnpm start\n' });
    const folder = temporaryFolder('readme');
    context.after(() => rmSync(folder, { recursive: true, force: true }));
    const npm = spawn('npm', ['start'], {
      cwd: root,
      env: { ...process.env, PORT: '0', DATA_DIR: folder, LOG_FORMAT: 'json' },
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
    let answer = '';
    let answers = 0;
    for (const { language, text } of rest) {
      if (language === 'sh') {
        answer = execFileSync('sh', ['-c', text.replaceAll('http://localhost:5001', url)], {
          encoding: 'utf8',
          cwd: root,
          env: { ...process.env, SENDBATCH_URL: url },
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        continue;
      }
      assert.equal(language, 'json');
      assert.deepEqual(plain(answer), plain(text));
      answers++;
    }
    assert.equal(answers, 2);
    npm.kill('SIGTERM');
    await ended;
    assert.equal(messages.at(-1), 'stopped', 'the signal went through npm and sh');
  });

  test('names every setting with its default, bounds and meaning, in both languages', () => {
    const check = spawnSync(process.execPath, ['scripts/settings-table.ts', '--check'], {
      cwd: root,
      encoding: 'utf8',
    });
    assert.deepEqual([check.status, check.stderr], [0, '']);
    for (const page of ['README.md', 'README.zh-CN.md'])
      for (const { name } of describeSettings()) assert.match(textOf(page), new RegExp(`^\\| \`${name}\` `, 'm'));
  });

  test('has the same commands in both languages', () => {
    assert.deepEqual(blocksOf('README.zh-CN.md'), blocksOf('README.md'));
    const commands = (page: string) => blocksOf(page, ['bash']).map(({ text }) => text.replace(/^#.*\n/gm, ''));
    assert.deepEqual(commands('README.zh-CN.md'), commands('README.md'));
  });
});

describe('every link to a file of the project leads to one', () => {
  for (const page of pages) {
    test(page, () => {
      for (const [, target = ''] of textOf(page).matchAll(/\]\(([^)#\s]+)[^)]*\)/g))
        if (!/^[a-z]+:/.test(target)) assert.ok(existsSync(join(root, page, '..', target)), `${page}: ${target}`);
    });
  }
});
