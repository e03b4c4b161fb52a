import { runOnCitus } from './run-on-citus.ts';

runOnCitus('suites about sending', [
  'test/contract/permission.test.ts',
  'test/contract/rates.test.ts',
  'test/contract/send-batch.test.ts',
  'test/contract/templates.test.ts',
  'test/contract/webhooks.test.ts',
  'test/contract/moderation.test.ts',
]);
