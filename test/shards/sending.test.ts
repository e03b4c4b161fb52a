/** Suites about sending, in databases with eight shards. They share one process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runFiles } from '../support/run-files.ts';
import { brokenRules, migrationStatements, recordStatements } from './sql-rules.ts';

const statements = recordStatements();

runFiles(
  [
    'test/shards/creation.ts',
    'test/property/model.test.ts',
    'test/property/races.test.ts',
    'test/faults/held-channels.test.ts',
    'test/faults/store-trouble.test.ts',
    'test/contract/send-batch.test.ts',
    'test/contract/permission.test.ts',
    'test/process/kill.test.ts',
  ],
  { SHARDS: '8' },
);

test('every statement that was sent obeys the rules of Citus', async () => {
  assert.ok(statements.size > 100, `${statements.size} statements`);
  const ofMigrations = await migrationStatements();
  const sent = [...statements].filter((text) => !ofMigrations.has(text));
  const broken = sent.flatMap((text) => brokenRules(text).map((rule) => `${rule}: ${text}`));
  assert.deepEqual(broken, []);
});
