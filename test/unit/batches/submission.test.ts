import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import { findBatch, sweepBatches } from '../../../src/batches/batches.sql.ts';
import {
  beginChunk,
  claimBatch,
  endBatch,
  postponeBatch,
  restBatch,
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

describe('a batch as it is received and taken', () => {
  let db: Db;
  let close: () => Promise<void>;
  before(async () => {
    ({ db, close } = await openOwnStore());
  });
  after(() => close());

  const caller = { ...trustedCaller, id: 'key:a' };
  const open = (now: () => number = Date.now) =>
    createSubmission(
      { db, templates: createTemplates(db), wake: async () => {}, now },
      { caller, requestId: '', sendAt: undefined, priority: 'normal', name: '', templates: [] },
    );
  const chunksOf = async () =>
    (await sql<{ count: number }>`select count(*) as count from sendbatch.batch_chunk`.execute(db)).rows[0]?.count ?? 0;
  const hourMs = 3600_000;
  const sweep = () => sweepBatches(db, { keptMs: hourMs, silentMs: hourMs, limit: 100 });
  /** Lets time pass for what is being received. */
  const pass = (ms: number) => sql`update sendbatch.batch set received_at = received_at - ${ms}::bigint`.execute(db);

  test('one that was silent for too long is swept whole, and refused when it goes on', async () => {
    // Of an instance whose clock is ahead: the database's decides.
    const submission = open(() => Date.now() + hourMs);
    await submission.add(drafts(10_000));
    assert.equal(await chunksOf(), 10);
    await pass(hourMs + 1);
    assert.equal(await sweep(), 1);
    assert.equal(await chunksOf(), 0);
    const isBusy = (error: unknown) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY';
    await assert.rejects(submission.add(drafts(10_000)), isBusy);
    await assert.rejects(submission.commit(), isBusy);
    await submission.abort();
    assert.equal(await chunksOf(), 0);
  });

  test('one that goes on for longer is not swept', async () => {
    const submission = open(() => Date.now() - hourMs);
    await submission.add(drafts(10_000));
    await pass(hourMs + 1);
    await submission.add(drafts(10_000));
    assert.equal(await sweep(), 0);
    const { batch } = await submission.commit();
    assert.equal(batch.messageCount, 20_000);
    assert.equal(await chunksOf(), 20);
  });

  test('large messages are written before many of them are held', async () => {
    const submission = open();
    const before = await chunksOf();
    // 8 MiB in 80 messages: one chunk is full, the rest is held.
    await submission.add(drafts(80, 'x'.repeat(100 * 1024)));
    assert.ok((await chunksOf()) > before);
    await submission.abort();
    assert.equal(await chunksOf(), before);
  });

  test('a worker that was taken for dead changes nothing once another one has the batch', async () => {
    const submission = open();
    await submission.add(drafts(1500));
    const { batch } = await submission.commit();
    await sql`delete from sendbatch.batch where batch_id <> ${batch.batchId}`.execute(db);
    const dead = await claimBatch(db, caller.id);
    assert.ok(dead);
    const chunk = await beginChunk(db, dead);
    assert.equal(chunk?.ordinal, 0);
    const next = await claimBatch(db, caller.id);
    assert.ok(next && next.turn > dead.turn);
    const before = await findBatch(db, batch.batchId);
    const settlement = {
      batchId: batch.batchId,
      ordinal: 0,
      keptDrafts: '',
      results: '[]',
      counts: { accepted: 1000, duplicate: 0, refused: 0 },
      wait: undefined,
      frees: false,
    };
    await settleChunk(db, { ...settlement, turn: dead.turn });
    await postponeBatch(db, dead, { delayMs: 1, stalledSince: 1 });
    await endBatch(db, dead);
    await restBatch(db, dead);
    assert.deepEqual(await findBatch(db, batch.batchId), before);
    await settleChunk(db, { ...settlement, turn: next.turn });
    assert.equal((await findBatch(db, batch.batchId))?.counts.accepted, 1000);
    assert.equal(await beginChunk(db, dead), undefined);
    assert.equal((await beginChunk(db, next))?.ordinal, 1);
  });

  // Each small one began where the last one had begun, so that the turn of the large one never came.
  test('a caller that always has another small batch does not keep its large ones waiting for good', async () => {
    await sql`delete from sendbatch.batch`.execute(db);
    const submit = async (count: number) => {
      const submission = open();
      await submission.add(drafts(count));
      return (await submission.commit()).batch.batchId;
    };
    const large = await submit(5000);
    await submit(1);
    let turnsOfLarge = 0;
    for (let turn = 0; turn < 40; turn++) {
      await submit(1);
      const batch = await claimBatch(db, caller.id);
      assert.ok(batch);
      const chunk = await beginChunk(db, batch);
      assert.ok(chunk);
      if (batch.batchId === large) turnsOfLarge++;
      await settleChunk(db, {
        batchId: batch.batchId,
        turn: batch.turn,
        ordinal: chunk.ordinal,
        keptDrafts: '',
        results: '[]',
        counts: { accepted: 1, duplicate: 0, refused: 0 },
        wait: undefined,
        frees: false,
      });
    }
    assert.ok(turnsOfLarge >= 3, `${turnsOfLarge}`);
  });
});

test('a batch whose request_id was in the way of an earlier one is STORE_BUSY when that one is swept meanwhile', async (context) => {
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
      { db: swept, templates: createTemplates(db), wake: async () => {}, now: Date.now },
      { caller: trustedCaller, requestId: 'r', sendAt: undefined, priority: 'normal', name: '', templates: [] },
    );
    await submission.add(drafts(10_000));
    return submission;
  };
  await (await submit()).commit();
  const again = await submit();
  // The last chunks are received, all of this batch is removed; then the earlier one is looked up.
  untilSwept = 2;
  await assert.rejects(
    again.commit(),
    (error) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY',
  );
  assert.ok(untilSwept <= 0);
  assert.equal((await (await submit()).commit()).duplicate, false);
});
