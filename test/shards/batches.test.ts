/**
 * Suites about submitted batches, moderation and reach, in databases with eight shards. They share
 * one process.
 */
import { runFiles } from '../support/run-files.ts';
import { recordStatements, testRules } from './sql-rules.ts';

const statements = recordStatements();
runFiles(
  [
    'test/contract/batches.test.ts',
    'test/contract/moderation.test.ts',
    'test/contract/operations-sql.test.ts',
    'test/contract/reach.test.ts',
  ],
  { SHARDS: '8' },
);

testRules(statements);
