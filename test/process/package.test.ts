import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { temporaryFolder } from '../support/cluster.ts';
import { startService, type TestService } from '../support/service.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');

describe('the packed package, in an empty project', () => {
  let folder: string;
  let service: TestService;
  before(async () => {
    folder = temporaryFolder('package');
    service = await startService();
    const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: root });
    const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf('[')));
    writeFileSync(join(folder, 'package.json'), '{"type":"module","private":true}');
    // Without the optional PostgreSQL: a client's project has no use for it.
    await run('npm', ['install', '--omit=optional', '--no-audit', '--no-fund', join(folder, filename)], {
      cwd: folder,
    });
  });
  after(async () => {
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test('the example of the client’s page runs, and its types hold', async () => {
    const page = readFileSync(join(root, 'src/client/README.md'), 'utf8');
    const [, example = ''] = /^```ts\n(.*?)^```$/ms.exec(page) ?? [];
    writeFileSync(join(folder, 'example.ts'), example);
    const { stdout } = await run(process.execPath, ['example.ts'], {
      cwd: folder,
      env: { ...process.env, SENDBATCH_URL: service.url },
    });
    assert.equal(stdout, 'sent 2500 last 2500n\n2499n message 2498\n2500n message 2499\n');
    const options = [
      '--noEmit',
      '--strict',
      '--skipLibCheck',
      'false',
      '--module',
      'nodenext',
      '--target',
      'esnext',
      '--types',
      'node',
    ];
    const typeRoots = ['--typeRoots', join(root, 'node_modules/@types')];
    await run(join(root, 'node_modules/.bin/tsc'), [...options, ...typeRoots, 'example.ts'], { cwd: folder }).catch(
      (error) => assert.fail(error.stdout),
    );
  });

  test('its command runs', async () => {
    const { stdout } = await run(join(folder, 'node_modules/.bin/sendbatch'), ['version'], {
      cwd: folder,
      env: { ...process.env, PATH: `${join(process.execPath, '..')}:${process.env.PATH}` },
    });
    assert.equal(stdout.trim(), JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version);
  });
});
