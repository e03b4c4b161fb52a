import { runOnCitus } from './run-on-citus.ts';

runOnCitus('property suites', [
  'test/property/changes.test.ts',
  'test/property/membership.test.ts',
  'test/property/model.test.ts',
  'test/property/races.test.ts',
  'test/property/tail.test.ts',
]);
