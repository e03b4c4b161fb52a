/** Suites about sending, in databases with eight shards. They share one process. */
import { runFiles } from '../support/run-files.ts';
import { migrationStatements, recordStatements, testRules } from './sql-rules.ts';

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

testRules(statements, migrationStatements);
