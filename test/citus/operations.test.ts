import { runOnCitus } from './run-on-citus.ts';

runOnCitus('suites about operations', [
  'test/contract/events.test.ts',
  'test/contract/one-request.test.ts',
  'test/contract/openapi.test.ts',
  'test/contract/operations-sql.test.ts',
  'test/contract/overload.test.ts',
  'test/contract/tail.test.ts',
  'test/contract/traces.test.ts',
]);
