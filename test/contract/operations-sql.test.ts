import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import pg from 'pg';
import { byTest } from '../support/by-test.ts';
import { citusUrl } from '../support/citus.ts';
import { shards } from '../support/database.ts';
import { startService } from '../support/service.ts';

const folder = join(import.meta.dirname, '../../docs/operations');
/** Blocks marked `sql citus` name views of Citus. */
const fence = /^( *)```sql( citus)?\n(.*?)^ *```$/gms;

test(`every SQL block of the operations documents runs on the current schema with SHARDS=${shards.count}`, async () => {
  const service = await startService();
  const client = new pg.Client({ connectionString: service.databaseUrl });
  await client.connect();
  let blocks = 0;
  for (const page of readdirSync(folder))
    for (const [, , citus, block = ''] of readFileSync(join(folder, page), 'utf8').matchAll(fence)) {
      blocks++;
      if (citus !== undefined && citusUrl === undefined) continue;
      await client.query('begin');
      await assert.doesNotReject(client.query(`${byTest}${block}`), `${page}: ${block}`);
      await client.query('rollback');
    }
  assert.ok(blocks > 10, `${blocks} blocks`);
  await client.end();
  await service.stop();
});
