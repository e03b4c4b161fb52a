import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

const built = join(import.meta.dirname, '../../gen/console');

/**
 * Bytes of the first load, gzipped: what index.html names, and what these modules import at once.
 */
const firstLoadBytes = 200_000;

/** The files that a browser loads before it shows anything. */
function firstLoad(): string[] {
  const read = (path: string) => readFileSync(join(built, path), 'utf8');
  const open = [...read('index.html').matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, path = '']) => path);
  const files = new Set(['index.html']);
  for (let path = open.pop(); path !== undefined; path = open.pop()) {
    if (files.has(path)) continue;
    files.add(path);
    if (!path.endsWith('.js')) continue;
    for (const [, name = ''] of read(path).matchAll(/(?:^|[;}])import(?:[\w$\s{},*]+from)?\s*"\.\/([^"]+)"/g))
      open.push(`assets/${name}`);
  }
  return [...files];
}

test('the first load of the console is below 200 kB, with neither inline code nor foreign hosts', () => {
  assert.ok(existsSync(join(built, 'index.html')), 'gen/console is missing: npm run build:console');
  const files = firstLoad();
  const sizes = files.map((path) => [path, gzipSync(readFileSync(join(built, path))).length] as const);
  const total = sizes.reduce((sum, [, size]) => sum + size, 0);
  assert.ok(total <= firstLoadBytes, `${total} bytes: ${JSON.stringify(sizes)}`);
  // The sum is not of an empty list.
  assert.ok(total >= 100_000, `${total} bytes: ${JSON.stringify(sizes)}`);
  const html = readFileSync(join(built, 'index.html'), 'utf8');
  assert.doesNotMatch(html, /<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=/);
  assert.doesNotMatch(html, /https?:/);
});
