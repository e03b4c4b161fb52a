import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import { findBatch, sweepBatches } from '../../../src/batches/batches.sql.ts';
import {
  beginChunk,
  cancelClaimedBatch,
  claimBatch,
  postponeBatch,
  rescheduleBatch,
  settleChunk,
} from '../../../src/batches/claims.sql.ts';
import { createSubmission } from '../../../src/batches/submission.ts';
import { trustedCaller } from '../../../src/messages/caller.ts';
import { ServiceError } from '../../../src/messages/service-error.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { createTemplates } from '../../../src/templates/templates.ts';
import { createDatabase, openOwnStore, openStore } from '../../support/database.ts';

const drafts = (count: number, payload = 'x') =>
  Array.from({ length: count }, () => ({
    clientMsgNo: '',
    fromUid: 'u1',
    channelId: 'c',
    channelType: 2,
    expire: 0,
    payload: Buffer.from(payload),
    subscribers: [],
    streamNo: '',
    tagKey: '',
  }));

describe('a batch that is received and claimed', () => {
  let db: Db;
  let close: () => Promise<void>;
  before(async () => {
    ({ db, close } = await openOwnStore());
  });
  after(() => close());

  const caller = { ...trustedCaller, id: 'key:a' };
  const open = (now: () => number = Date.now) =>
    createSubmission(
      { db, templates: createTemplates(db), scheduleAt: async () => {}, now },
      { caller, requestId: '', sendAt: undefined, priority: 'normal', name: '', templates: [] },
    );
  const chunksOf = async () =>
    (await sql<{ count: number }>`select count(*) as count from sendbatch.batch_chunk`.execute(db)).rows[0]?.count ?? 0;
  const hourMs = 3600_000;
  const sweep = () => sweepBatches(db, { retentionMs: hourMs, idleMs: hourMs, limit: 100 });
  /** Ages submissions that are being received. */
  const age = (ms: number) => sql`update sendbatch.batch set received_at = received_at - ${ms}::bigint`.execute(db);

  test('a submission silent for too long is swept with all its chunks, and refused if it continues', async () => {
    // This instance's clock is ahead: the database's clock decides.
    const submission = open(() => Date.now() + hourMs);
    await submission.add(drafts(10_000));
    assert.equal(await chunksOf(), 10);
    await age(hourMs + 1);
    assert.equal(await sweep(), 1);
    assert.equal(await chunksOf(), 0);
    const isBusy = (error: unknown) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY';
    await assert.rejects(submission.add(drafts(10_000)), isBusy);
    await assert.rejects(submission.commit(), isBusy);
    await submission.abort();
    assert.equal(await chunksOf(), 0);
  });

  test('a submission that continues after the time limit is not swept', async () => {
    const submission = open(() => Date.now() - hourMs);
    await submission.add(drafts(10_000));
    await age(hourMs + 1);
    await submission.add(drafts(10_000));
    assert.equal(await sweep(), 0);
    const { batch } = await submission.commit();
    assert.equal(batch.messageCount, 20_000);
    assert.equal(await chunksOf(), 20);
  });

  test('large messages are stored before many of them are held in memory', async () => {
    const submission = open();
    const before = await chunksOf();
    // 8 MiB in 80 messages: one chunk is stored, the rest is held.
    await submission.add(drafts(80, 'x'.repeat(100 * 1024)));
    assert.ok((await chunksOf()) > before);
    await submission.abort();
    assert.equal(await chunksOf(), before);
  });

  test('a worker that was presumed dead changes nothing after another worker claimed the batch', async () => {
    const submission = open();
    await submission.add(drafts(1500));
    const { batch } = await submission.commit();
    await sql`delete from sendbatch.batch where batch_id <> ${batch.batchId}`.execute(db);
    const dead = await claimBatch(db, caller.id);
    assert.ok(dead);
    const chunk = await beginChunk(db, dead);
    assert.equal(chunk?.ordinal, 0);
    const next = await claimBatch(db, caller.id);
    assert.ok(next && next.fencingToken > dead.fencingToken);
    const before = await findBatch(db, batch.batchId);
    const settlement = {
      batchId: batch.batchId,
      ordinal: 0,
      keptDrafts: '',
      results: '[]',
      counts: { accepted: 1000, duplicates: 0, refused: 0 },
      wait: undefined,
      unblocksOthers: false,
    };
    await settleChunk(db, { ...settlement, fencingToken: dead.fencingToken });
    await postponeBatch(db, dead, { delayMs: 1, stalledSince: 1 });
    await cancelClaimedBatch(db, dead);
    await rescheduleBatch(db, dead);
    assert.deepEqual(await findBatch(db, batch.batchId), before);
    await settleChunk(db, { ...settlement, fencingToken: next.fencingToken });
    assert.equal((await findBatch(db, batch.batchId))?.counts.accepted, 1000);
    assert.equal(await beginChunk(db, dead), undefined);
    assert.equal((await beginChunk(db, next))?.ordinal, 1);
  });

  test('a caller with an endless series of small batches does not starve its large batch', async () => {
    await sql`delete from sendbatch.batch`.execute(db);
    const submit = async (count: number) => {
      const submission = open();
      await submission.add(drafts(count));
      return (await submission.commit()).batch.batchId;
    };
    const large = await submit(5000);
    await submit(1);
    let slotsOfLarge = 0;
    for (let slot = 0; slot < 40; slot++) {
      await submit(1);
      const batch = await claimBatch(db, caller.id);
      assert.ok(batch);
      const chunk = await beginChunk(db, batch);
      assert.ok(chunk);
      if (batch.batchId === large) slotsOfLarge++;
      await settleChunk(db, {
        batchId: batch.batchId,
        fencingToken: batch.fencingToken,
        ordinal: chunk.ordinal,
        keptDrafts: '',
        results: '[]',
        counts: { accepted: 1, duplicates: 0, refused: 0 },
        wait: undefined,
        unblocksOthers: false,
      });
    }
    assert.ok(slotsOfLarge >= 3, `${slotsOfLarge}`);
  });
});

test('a repeated request_id is answered with STORE_BUSY if the earlier batch is swept meanwhile', async (context) => {
  const database = await createDatabase();
  const [db, sweeper] = [openStore(database.url), openStore(database.url)];
  context.after(async () => {
    for (const each of [db, sweeper]) await each.destroy();
    await database.drop();
  });
  let untilSwept = Number.POSITIVE_INFINITY;
  const swept = db.withPlugin({
    transformQuery: ({ node }) => node,
    async transformResult({ result }) {
      if (--untilSwept === 0) await sql`delete from sendbatch.batch where state = 'queued'`.execute(sweeper);
      return result;
    },
  });
  const submit = async () => {
    const submission = createSubmission(
      { db: swept, templates: createTemplates(db), scheduleAt: async () => {}, now: Date.now },
      { caller: trustedCaller, requestId: 'r', sendAt: undefined, priority: 'normal', name: '', templates: [] },
    );
    await submission.add(drafts(10_000));
    return submission;
  };
  await (await submit()).commit();
  const again = await submit();
  // The commit conflicts and deletes this batch; then, before the lookup, the earlier one is swept.
  untilSwept = 2;
  await assert.rejects(
    again.commit(),
    (error) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY',
  );
  assert.ok(untilSwept <= 0);
  assert.equal((await (await submit()).commit()).duplicate, false);
});
