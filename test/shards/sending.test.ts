/** Suites about sending, in databases with eight shards. They share one process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { brokenRules, recordStatements } from './sql-rules.ts';

process.env.SHARDS = '8';
const statements = recordStatements();
await import('./creation.ts');
await import('../property/model.test.ts');
await import('../property/races.test.ts');
await import('../faults/held-channels.test.ts');
await import('../faults/store-trouble.test.ts');
await import('../contract/send-batch.test.ts');
await import('../process/kill.test.ts');

test('every statement that was sent obeys the rules of Citus', () => {
  assert.ok(statements.size > 100, `${statements.size} statements`);
  const broken = [...statements].flatMap((text) => brokenRules(text).map((rule) => `${rule}: ${text}`));
  assert.deepEqual(broken, []);
});
