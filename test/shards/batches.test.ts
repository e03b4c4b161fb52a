/** Suites about submitted batches, moderation and reach, in databases with eight shards. They share one process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runFiles } from '../support/run-files.ts';
import { brokenRules, recordStatements } from './sql-rules.ts';

const statements = recordStatements();
runFiles(['test/contract/batches.test.ts', 'test/contract/moderation.test.ts', 'test/contract/reach.test.ts'], {
  SHARDS: '8',
});

test('every statement that was sent obeys the rules of Citus', () => {
  assert.ok(statements.size > 100, `${statements.size} statements`);
  const broken = [...statements].flatMap((text) => brokenRules(text).map((rule) => `${rule}: ${text}`));
  assert.deepEqual(broken, []);
});
