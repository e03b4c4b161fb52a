import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { globSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { until } from '../support/watch.ts';

const root = join(import.meta.dirname, '../..');
const support = join(root, 'test/support');

/** Runs a test file in a runner of its own. */
function runFile(folder: string, name: string, text: string): { status: number | null; output: string } {
  const file = join(folder, `${name}.test.ts`);
  writeFileSync(file, `import { test } from 'node:test';\n${text}`);
  const { NODE_TEST_CONTEXT: _, ...outer } = process.env;
  const env = { ...outer, TEST_FILE_GRACE_MS: '3000' };
  const args = ['--test', '--test-reporter=tap', `--import=${join(support, 'file-end.ts')}`, file];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { env, encoding: 'utf8', timeout: 240_000 });
  return { status, output: stdout + stderr };
}

/** A zombie counts as ended: in a container nothing may reap it. */
function hasEnded(pid: string): boolean {
  try {
    return /\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return true;
  }
}

describe('the end of a test file', { concurrency: true }, () => {
  const folder = temporaryFolder('file-end');

  test('a test file ends, with the processes that it started, when a test fails before its clean-up', async (context) => {
    context.after(() => rmSync(folder, { recursive: true, force: true }));
    const { status, output } = runFile(
      folder,
      'failing',
      `import { createServer } from 'node:net';
       import { spawnCommand } from ${JSON.stringify(join(support, 'process.ts'))};
       test('fails', async () => {
         createServer().listen(0);
         const { child } = spawnCommand({ DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', DATABASE_WAIT: '600' }, ['serve']);
         console.log('service', child.pid);
         await new Promise((resolve) => child.stdout.once('data', resolve));
         throw new Error('as it must');
       });`,
    );
    assert.equal(status, 1, output);
    assert.match(output, /as it must/);
    assert.match(output, /failing\.test\.ts: still runs 3 s after its tests; open: .*TCPServerWrap/);
    const [, pid] = /service (\d+)/.exec(output) ?? [];
    assert.ok(pid !== undefined, output);
    await until(`${pid} is gone`, () => hasEnded(pid));
  });

  const failures: [string, string, RegExp][] = [
    [
      'a rejection that nobody handles',
      `test('leaves one', async () => {
         void Promise.reject(new Error('nobody handled this'));
         await new Promise((resolve) => setTimeout(resolve, 20));
       });`,
      /nobody handled this/,
    ],
    [
      'an error that is thrown outside of its promise',
      `test('throws later', async () => {
         setTimeout(() => { throw new Error('thrown later'); }, 1);
         await new Promise((resolve) => setTimeout(resolve, 20));
       });`,
      /thrown later/,
    ],
  ];
  for (const [index, [what, text, shown]] of failures.entries())
    test(`a test file fails for ${what}`, () => {
      const { status, output } = runFile(folder, `failure-${index}`, text);
      assert.equal(status, 1, output);
      assert.match(output, shown);
      assert.match(output, /^# fail [1-9]/m);
    });

  test('test files that share a process keep their hooks and names, and one that cannot be loaded fails', () => {
    const files = ['one', 'two'].map((name) => {
      const file = join(folder, `${name}.mjs`);
      writeFileSync(
        file,
        `import { after, before, test } from 'node:test';
         before(() => console.log('before ${name}'));
         after(() => console.log('after ${name}'));
         test('runs', () => {});`,
      );
      return relative(root, file);
    });
    const { status, output } = runFile(
      folder,
      'group',
      `import { runFiles } from ${JSON.stringify(join(support, 'run-files.ts'))};
       runFiles(${JSON.stringify([...files, 'test/none.test.ts'])});`,
    );
    assert.equal(status, 1, output);
    assert.match(output, /before one\s.*after one\s.*before two\s.*after two/s);
    for (const file of files) assert.ok(output.includes(`\nok ${files.indexOf(file) + 1} - ${file}`), output);
    assert.match(output, /not ok 3 - test\/none\.test\.ts/);
  });

  test('npm test runs every test file, in one process', () => {
    const { stdout } = spawnSync(process.execPath, [join(support, 'group-files.ts')], { encoding: 'utf8' });
    const files = stdout
      .trim()
      .split('\n')
      .flatMap((path) => {
        if (!path.endsWith('.mjs')) return [path];
        return readFileSync(join(root, path), 'utf8').match(/test\/[^"]+\.test\.ts/g) ?? [];
      });
    assert.deepEqual(files.sort(), globSync('test/**/*.test.ts', { cwd: root }).sort());
  });

  test('the runner follows no promises, which cost every service of a test 1.5 µs each', () => {
    const { status, output } = runFile(
      folder,
      'promises',
      `import { executionAsyncId } from 'node:async_hooks';
       test('awaits', async () => {
         const before = executionAsyncId();
         await new Promise((resolve) => setImmediate(resolve));
         await null;
         await null;
         console.log('ids', before, executionAsyncId());
       });`,
    );
    assert.equal(status, 0, output);
    // Promises have ids of their own only while something follows them.
    assert.match(output, /ids \d+ 0$/m);
  });
});
