import { runOnCitus } from './run-on-citus.ts';

runOnCitus('suites about reading', [
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
]);
