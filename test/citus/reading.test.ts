/** Suites about reading and channels, in databases on Citus with eight shards. They share one process. */
import { test } from 'node:test';
import { citusUrl } from '../support/citus.ts';
import { runFiles } from '../support/run-files.ts';

if (citusUrl === undefined) test('suites about reading on Citus', { skip: 'needs CITUS_URL' });
else
  runFiles(
    [
      'test/contract/changes.test.ts',
      'test/contract/channels.test.ts',
      'test/contract/fuzz.test.ts',
      'test/contract/history.test.ts',
      'test/contract/identity.test.ts',
      'test/contract/inbox.test.ts',
      'test/contract/large-answers.test.ts',
      'test/contract/legacy.test.ts',
      'test/contract/reach.test.ts',
      'test/contract/watching.test.ts',
    ],
    { SHARDS: '8' },
  );
