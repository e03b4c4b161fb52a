import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '../..');

/**
 * The client's code as a bundle contains it: without types, comments and indentation. Two thirds
 * are descriptors of the contract, which grow by 1 to 2 kB with each RPC.
 */
const ownBytes = 70 * 1024;

/**
 * The modules that a bundle includes with the client, and the packages it imports. Type imports are
 * erased.
 */
function reached(entry: string): { readonly files: Map<string, string>; readonly packages: Set<string> } {
  const files = new Map<string, string>();
  const packages = new Set<string>();
  const open = [join(root, entry)];
  for (let file = open.pop(); file !== undefined; file = open.pop()) {
    if (files.has(file)) continue;
    const code = stripTypeScriptTypes(readFileSync(file, 'utf8'));
    files.set(file, code.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '').replace(/^\s+|\s+$/gm, ''));
    for (const [, name = ''] of code.matchAll(/^(?:import|export)\b[^'"]*?from\s+['"]([^'"]+)['"]/gm))
      if (name.startsWith('.')) open.push(join(dirname(file), name));
      else packages.add(name.split('/', 2).join('/'));
  }
  return { files, packages };
}

test('a bundle of the client contains the contract only: no validation rules, no routes, and a bounded number of bytes', () => {
  const { files, packages } = reached('src/client/index.ts');
  assert.deepEqual([...packages].sort(), ['@bufbuild/protobuf', '@connectrpc/connect']);
  const names = [...files.keys()].map((file) => relative(root, file));
  assert.deepEqual(
    names.filter((name) => !/^(src|gen)\/client\//.test(name)),
    [],
  );
  const code = [...files.values()].join('\n');
  // `crypto.subtle` exists in secure contexts only: plain HTTP pages outside localhost lack it.
  assert.doesNotMatch(code, /randomUUID/);
  assert.ok(code.length < ownBytes, `${code.length} bytes`);
});
