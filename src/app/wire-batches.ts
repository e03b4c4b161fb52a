import { sweepBatches } from '../batches/batches.sql.ts';
import { type Batches, createBatches } from '../batches/batches.ts';
import { dueCallers } from '../batches/claims.sql.ts';
import { type ChunkRunnerParts, createChunkRunner, stopBatches } from '../batches/run-chunk.ts';
import { longestScheduleMs } from '../batches/submission.ts';
import { type BatchWatch, createBatchWatch } from '../batches/watch.ts';
import type { Config } from '../config/index.ts';
import type { Events } from '../observability/events.ts';
import { startLoop } from '../observability/loop.ts';
import type { Db } from '../postgres/schema.ts';
import type { SendBatch } from '../sending/send-batch.ts';
import { sweepDeletedTemplates } from '../templates/templates.sql.ts';
import type { Templates } from '../templates/templates.ts';
import type { OpenServer } from './database.ts';

/** Batches that are sent in the background, and who sends them. */
export interface WiredBatches {
  readonly batches: Batches;
  readonly batchWatch: BatchWatch;
  /** Finishes the chunks under way, so many milliseconds. */
  close(graceMs: number): Promise<void>;
}

/** How often it is looked for callers whose turn was lost: the queue keeps them, so that it finds none unless somebody emptied the queue. */
const lookMs = 15_000;
const callersAtOnce = 1000;
const dayMs = 24 * 3600_000;
/** A submission of which nothing came for so long was given up. */
const silentMs = 3600_000;
const sweepBite = 100;
/** Bites of one run, so that a stop does not wait for long. */
const sweepBites = 1000;

export async function wireBatches({
  database,
  db,
  config,
  sendBatch,
  templates,
  findStored,
  events,
  now,
}: {
  readonly database: OpenServer;
  readonly db: Db;
  readonly config: Pick<Config, 'batchConcurrency' | 'batchRetentionDays' | 'sweepIntervalMs'>;
  readonly sendBatch: SendBatch;
  readonly templates: Templates;
  readonly findStored: ChunkRunnerParts['findStored'];
  readonly events: Events;
  /** The database's clock. */
  readonly now: () => number;
}): Promise<WiredBatches> {
  const watch = events.loop('batch_queue');
  const turns = events.loop('batch_chunks');
  const jobs = await database.openJobs(watch.onError);
  const wake = async (callerId: string, timeMs: number, worked = true) => {
    try {
      // Where the database says that nothing is due yet, its clock is right.
      if (timeMs <= now() && worked) await jobs.turn(callerId);
      else await jobs.turnAt(callerId, timeMs);
    } catch (error) {
      // The batch is stored: it is looked for below.
      watch.onError(error);
    }
  };
  const onMoved = (batchId: string) => batchWatch.moved(batchId);
  const batches = createBatches({ db, templates, wake, onMoved, now });
  const batchWatch = createBatchWatch(batches);
  const turn = createChunkRunner({ db, sendBatch, findStored, onMoved, onError: turns.onError, now });
  const take = async (callerId: string) => {
    const start = performance.now();
    const done = (failed: boolean) => turns.onRun(performance.now() - start, failed);
    const { dueAt, worked } = await turn(callerId).catch((error: unknown) => {
      done(true);
      throw error;
    });
    done(false);
    if (dueAt !== undefined) await wake(callerId, dueAt, worked);
  };
  try {
    if (config.batchConcurrency > 0) await jobs.run(take, config.batchConcurrency);
  } catch (error) {
    await jobs.stop(0);
    throw error;
  }
  const looking = startLoop({
    everyMs: lookMs,
    ...watch,
    async run() {
      for (const batchId of await stopBatches(db)) onMoved(batchId);
      for (const callerId of await dueCallers(db, callersAtOnce)) await jobs.turn(callerId);
    },
  });
  const sweeping = startLoop({
    everyMs: config.sweepIntervalMs,
    ...events.loop('batch_sweeper'),
    async run() {
      const keptMs = config.batchRetentionDays * dayMs;
      for (let bite = 0; bite < sweepBites; bite++)
        if ((await sweepBatches(db, { keptMs, silentMs, limit: sweepBite })) < sweepBite) break;
      await sweepDeletedTemplates(db, longestScheduleMs + keptMs);
    },
  });
  return {
    batches,
    batchWatch,
    async close(graceMs) {
      await Promise.all([looking.stop(), sweeping.stop()]);
      await jobs.stop(graceMs);
    },
  };
}
