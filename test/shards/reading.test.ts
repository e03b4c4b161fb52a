/** Suites about reading, in databases with eight shards. They share one process. */
import { runFiles } from '../support/run-files.ts';
import { recordStatements, testRules } from './sql-rules.ts';

const statements = recordStatements();
runFiles(
  [
    'test/contract/inbox.test.ts',
    'test/contract/channels.test.ts',
    'test/contract/history.test.ts',
    'test/contract/tail.test.ts',
    'test/contract/changes.test.ts',
    'test/contract/webhooks.test.ts',
    'test/property/membership.test.ts',
    'test/unit/retention/temporary-channels.test.ts',
    'test/unit/integrity/journal.test.ts',
  ],
  { SHARDS: '8' },
);

testRules(statements);
