/** The property suites, in databases on Citus with eight shards. They share one process. */
import { test } from 'node:test';
import { citusUrl } from '../support/citus.ts';
import { runFiles } from '../support/run-files.ts';

if (citusUrl === undefined) test('property suites on Citus', { skip: 'needs CITUS_URL' });
else
  runFiles(
    [
      'test/property/changes.test.ts',
      'test/property/membership.test.ts',
      'test/property/model.test.ts',
      'test/property/races.test.ts',
      'test/property/tail.test.ts',
    ],
    { SHARDS: '8' },
  );
