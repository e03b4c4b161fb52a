import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { until } from '../support/watch.ts';

const support = join(import.meta.dirname, '../support');

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
});
