/** Suites about sending, in databases on Citus with eight shards. They share one process. */
import { test } from 'node:test';
import { citusUrl } from '../support/citus.ts';
import { runFiles } from '../support/run-files.ts';

if (citusUrl === undefined) test('suites about sending on Citus', { skip: 'needs CITUS_URL' });
else
  runFiles(
    [
      'test/contract/permission.test.ts',
      'test/contract/rates.test.ts',
      'test/contract/send-batch.test.ts',
      'test/contract/templates.test.ts',
      'test/contract/webhooks.test.ts',
      'test/contract/moderation.test.ts',
    ],
    { SHARDS: '8' },
  );
