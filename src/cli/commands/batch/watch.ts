import { type Batch, BatchState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { Connection, ConnectOptions } from '../../connect.ts';
import { onInterrupt } from '../../interrupt.ts';
import { createProgress } from '../../output/progress.ts';
import { exit } from '../../usage.ts';
import { printBatch, settledCount } from './print.ts';

/** What is shown of a batch while it is followed, and when that was a success. */
export interface Followed {
  /** Messages in all, and those that are done, with those that failed. */
  readonly total: (batch: Batch) => number;
  readonly done: (batch: Batch) => number;
  readonly failed: (batch: Batch) => number;
  /** The word for those that failed. */
  readonly fault: string;
  /** Whether what was done before is left out of the rate. */
  readonly excludesDone: boolean;
  readonly isSuccess: (batch: Batch) => boolean;
}

/** Follows a batch to its end; returns the exit code. */
export async function watchBatch(connection: Connection, batchId: string, options: ConnectOptions): Promise<number> {
  return await followBatch(connection, batchId, options, {
    total: ({ messageCount }) => messageCount,
    done: settledCount,
    failed: ({ refusedCount }) => refusedCount,
    fault: 'refused',
    excludesDone: true,
    isSuccess: ({ state, refusedCount }) => state === BatchState.COMPLETED && refusedCount === 0,
  });
}

/** Shows the progress of a batch until it has ended; returns the exit code. */
export async function followBatch(
  { client }: Connection,
  batchId: string,
  { json = false }: ConnectOptions,
  { total, done, failed, fault, excludesDone, isSuccess }: Followed,
): Promise<number> {
  const stop = new AbortController();
  const interruption = onInterrupt(() => stop.abort());
  let last: Batch | undefined;
  let progress: ReturnType<typeof createProgress> | undefined;
  let before = 0;
  try {
    for await (const batch of client.watch(batchId, { signal: stop.signal })) {
      if (progress === undefined) {
        before = excludesDone ? done(batch) : 0;
        progress = createProgress({ quiet: json, total: total(batch), noun: 'messages', fault });
        progress.begin(before);
      }
      progress.show(done(batch), done(batch) - before, failed(batch));
      if (json) await printBatch(batch, { json });
      last = batch;
    }
  } finally {
    interruption.leave();
    progress?.end();
  }
  if (interruption.came()) return exit.interrupted;
  if (last === undefined) return exit.failed;
  if (!json) await printBatch(last, {});
  return isSuccess(last) ? exit.done : exit.refused;
}
