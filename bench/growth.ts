import { sql } from 'kysely';
import { listBatches, sweepBatches } from '../src/batches/batches.sql.ts';
import type { Db } from '../src/postgres/schema.ts';
import { oneShard } from '../src/postgres/shards.ts';
import { sweepExpired, sweepOld } from '../src/retention/sweep.sql.ts';
import { startCluster } from '../test/support/cluster.ts';
import { migrateDatabase, openStore } from '../test/support/database.ts';

/**
 * Measures sweeping and listing where much is stored and little of it is affected: `node
 * bench/growth.ts`. Prints a table; nothing is compared.
 */
const batches = 100_000;
const channels = 60_000;
const few = 1000;
const old = 1000;
const before = 50_000_000_000;
const now = 200_000_000_000;

async function fill(db: Db): Promise<void> {
  await sql`
    insert into sendbatch.batch (batch_id, created_at, received_at, ended_at, turns_taken, priority, message_count, state, caller_id, caller, name, request_id, content_hash, templates)
    select gen_random_uuid(), n, n, case when n % 1000 = 0 then null else 4000000000000 end, 0, 4, 1, case when n % 1000 = 0 then 'queued' else 'completed' end,
      'key ' || n % 50, '{}', '', '', '', '[]' from generate_series(1, ${batches}::integer) n`.execute(db);
  // Two messages each, the first of which has expired.
  await sql`
    with made as (
      insert into sendbatch.channel (channel_type, sequence, channel_id)
      select case when n <= ${few}::integer then 9 else 2 end, 0, 'c' || n from generate_series(1, ${channels + few}::integer) n returning channel_key
    )
    insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload, expire)
    select channel_key, s, channel_key * 10 + s, case s when 2 then ${now}::bigint else ${old}::bigint end, gen_random_uuid(), 0, '', 'u', '', 'x',
      case s when 3 then 60 end
    from made, generate_series(1, 3) s`.execute(db);
  await sql`analyze`.execute(db);
}

const cluster = await startCluster({ durable: true });
await migrateDatabase(cluster.url('sendbatch'), 1);
const db = openStore(cluster.url('sendbatch'));
const lines = ['| what | ms | what it did |', '|---|---|---|'];
async function row(what: string, work: () => Promise<string>): Promise<void> {
  const start = performance.now();
  const did = await work();
  lines.push(`| ${what} | ${(performance.now() - start).toFixed(1)} | ${did} |`);
}
/** Runs steps until nothing is left, as a run of the sweeper does. */
async function sweepType(type: number): Promise<string> {
  let removed = 0;
  for (let steps = 1; ; steps++) {
    const step = await sweepOld(
      { db, shards: oneShard },
      type,
      { before, now },
      { channels: 500, messages: 200, total: 5000 },
    );
    removed += step.removed;
    if (!step.more) return `${removed} messages in ${steps} steps`;
  }
}
try {
  await fill(db);
  for (const callerId of [undefined, 'key 0', 'key 7'])
    for (const states of [['queued'], ['queued', 'running'], ['cancelled'], []] as const)
      await row(
        `a page of ${callerId ?? 'everybody'}, ${states.join(' or ') || 'any state'}, of ${batches} batches`,
        async () => `${(await listBatches(db, { callerId, states, before: undefined, limit: 101 })).length} batches`,
      );
  await row(`a sweep of ${batches} batches, of which none is over`, async () =>
    String(await sweepBatches(db, { retentionMs: 86_400_000, idleMs: 4_000_000_000_000, limit: 100 })),
  );
  await row(`expired messages, 2000 a step, among ${3 * (channels + few)}`, async () => {
    let removed = 0;
    for (;;) {
      const count = await sweepExpired(db, 2000, now);
      removed += count;
      if (count < 2000) return `${removed} messages`;
    }
  });
  await row(`retention of ${few} channels of a type among ${channels}`, () => sweepType(9));
  await row(`retention of ${channels} channels`, () => sweepType(2));
  await row(`retention of ${channels} channels of which none has anything old`, () => sweepType(2));
  process.stdout.write(`${lines.join('\n')}\n`);
} finally {
  await db.destroy();
  await cluster.stop();
}
