import { test } from 'node:test';
import { citusUrl } from '../support/citus.ts';
import { runFiles } from '../support/run-files.ts';

/** Runs test files in this process, in databases on Citus with eight shards; needs CITUS_URL. */
export function runOnCitus(what: string, files: readonly string[]): void {
  if (citusUrl === undefined) test(`${what} on Citus`, { skip: 'needs CITUS_URL' });
  else runFiles(files, { SHARDS: '8' });
}
