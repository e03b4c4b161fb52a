import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import pg from 'pg';
import { startService } from '../support/service.ts';

const folder = join(import.meta.dirname, '../../docs/operations');

test('every SQL block of the operations documents runs on the current schema', async () => {
  const service = await startService();
  const client = new pg.Client({ connectionString: service.databaseUrl });
  await client.connect();
  let blocks = 0;
  for (const page of readdirSync(folder))
    for (const [, block = ''] of readFileSync(join(folder, page), 'utf8').matchAll(/^```sql\n(.*?)^```$/gms)) {
      blocks++;
      await client.query('begin');
      await assert.doesNotReject(client.query(block), `${page}: ${block}`);
      await client.query('rollback');
    }
  assert.ok(blocks > 5, `${blocks} blocks`);
  await client.end();
  await service.stop();
});
