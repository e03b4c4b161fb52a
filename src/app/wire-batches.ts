import { sweepBatches } from '../batches/batches.sql.ts';
import { type Batches, createBatches } from '../batches/batches.ts';
import { findDueCallers } from '../batches/due.sql.ts';
import { createChunkRunner, stopBatches } from '../batches/run-chunk.ts';
import { maxScheduleMs } from '../batches/submission.ts';
import { type BatchWatch, createBatchWatch } from '../batches/watch.ts';
import type { RecallStored } from '../changes/recall-stored.ts';
import { startLoop } from '../observability/loop.ts';
import { createFindStored } from '../sending/find-stored.ts';
import type { Store } from '../sending/group-context.ts';
import { sweepDeletedTemplates } from '../templates/templates.sql.ts';
import { dayMs, hourMs } from '../time.ts';
import type { Foundation } from './foundation.ts';
import type { WiredSending } from './wire-sending.ts';

/** Submitted batches, sent in the background. */
export interface WiredBatches {
  readonly batches: Batches;
  readonly batchWatch: BatchWatch;
}

/**
 * Time between searches for callers whose job was lost. The queue keeps jobs, so this finds none
 * unless the queue was emptied.
 */
const searchEveryMs = 15_000;
const callersPerSearch = 1000;
/** An upload from which nothing arrived for this long was abandoned. */
const abandonedMs = hourMs;
const sweepChunk = 100;
/** Chunks per run of the sweeper, so that a stop waits for one chunk and not for all. */
const sweepChunksPerRun = 1000;

export async function wireBatches(
  { config, database, db, events, lifecycle, now }: Foundation,
  { sendBatch, templates }: Pick<WiredSending, 'sendBatch' | 'templates'>,
  store: Store,
  recallStored: RecallStored,
): Promise<WiredBatches> {
  const watch = events.loop('batch_queue');
  const chunks = events.loop('batch_chunks');
  const jobs = await database.openJobs(watch.onError);
  const scheduleAt = async (callerId: string, timeMs: number, hadBatch = true) => {
    try {
      // Nothing was due at its time: the database's clock is behind. Waits instead of retrying at
      // once.
      if (timeMs <= now() && hadBatch) await jobs.schedule(callerId);
      else await jobs.scheduleAt(callerId, timeMs);
    } catch (error) {
      // The batch is stored, and the search below finds its caller.
      watch.onError(error);
    }
  };
  const onBatchChange = (batchId: string) => batchWatch.notify(batchId);
  const { recallWindowMs } = config;
  const batches = createBatches({ db, templates, scheduleAt, onBatchChange, recallWindowMs, now });
  const batchWatch = createBatchWatch(batches);
  const runChunk = createChunkRunner({
    db,
    sendBatch,
    findStored: createFindStored(store),
    recallStored,
    findKeys: (channels) => store.channelKeys.find(channels),
    onBatchChange,
    onError: chunks.onError,
    now,
  });
  const runJob = async (callerId: string) => {
    const startedAt = performance.now();
    const report = (failed: boolean) => chunks.onRun(performance.now() - startedAt, failed);
    const { dueAt, hadBatch } = await runChunk(callerId).catch((error: unknown) => {
      report(true);
      throw error;
    });
    report(false);
    if (dueAt !== undefined) await scheduleAt(callerId, dueAt, hadBatch);
  };
  try {
    if (config.batchConcurrency > 0) await jobs.run(runJob, config.batchConcurrency);
  } catch (error) {
    await jobs.stop(0);
    throw error;
  }
  const searching = startLoop({
    everyMs: searchEveryMs,
    ...watch,
    async run() {
      for (const batchId of await stopBatches(db)) onBatchChange(batchId);
      for (const callerId of await findDueCallers(db, callersPerSearch)) await jobs.schedule(callerId);
    },
  });
  const sweeping = startLoop({
    everyMs: config.sweepIntervalMs,
    ...events.loop('batch_sweeper'),
    async run() {
      const retentionMs = config.batchRetentionDays * dayMs;
      for (let chunk = 0; chunk < sweepChunksPerRun; chunk++)
        if ((await sweepBatches(db, { retentionMs, idleMs: abandonedMs, limit: sweepChunk })) < sweepChunk) break;
      await sweepDeletedTemplates(db, maxScheduleMs + retentionMs);
    },
  });
  lifecycle.onStop('batches', async () => {
    await Promise.all([searching.stop(), sweeping.stop()]);
    await jobs.stop(lifecycle.graceLeftMs());
  });
  return { batches, batchWatch };
}
