import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { describeSettings } from '../../src/config/index.ts';
import { readPage } from '../support/documents.ts';

const root = join(import.meta.dirname, '../..');

describe('the reference pages equal the output of `npm run generate`', () => {
  for (const script of ['scripts/settings-table.ts', 'scripts/reference-tables.ts'])
    test(script, () => {
      const check = spawnSync(process.execPath, [script, '--check'], { cwd: root, encoding: 'utf8' });
      assert.deepEqual([check.status, check.stderr], [0, '']);
    });

  test('the reference of settings lists every setting with its default, bounds and meaning in both languages', () => {
    for (const page of ['docs/reference/settings.md', 'docs/zh/reference/settings.md'])
      for (const { name } of describeSettings()) assert.match(readPage(page), new RegExp(`^\\| \`${name}\` `, 'm'));
  });
});
