import { type Batch, BatchState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { Connection, ConnectOptions } from '../../connect.ts';
import { onInterrupt } from '../../interrupt.ts';
import { createProgress } from '../../output/progress.ts';
import { exit } from '../../usage.ts';
import { printBatch, settledCount } from './print.ts';

/** Follows a batch to its end; returns the exit code. */
export async function watchBatch(
  { client }: Connection,
  batchId: string,
  { json = false }: ConnectOptions,
): Promise<number> {
  const stop = new AbortController();
  const interruption = onInterrupt(() => stop.abort());
  let last: Batch | undefined;
  let progress: ReturnType<typeof createProgress> | undefined;
  let before = 0;
  try {
    for await (const each of client.watch(batchId, { signal: stop.signal })) {
      if (progress === undefined) {
        before = settledCount(each);
        progress = createProgress({ quiet: json, total: each.messageCount, noun: 'messages', fault: 'refused' });
        progress.begin(before);
      }
      progress.show(settledCount(each), settledCount(each) - before, each.refusedCount);
      if (json) await printBatch(each, { json });
      last = each;
    }
  } finally {
    interruption.leave();
    progress?.end();
  }
  if (interruption.came()) return exit.interrupted;
  if (last === undefined) return exit.failed;
  if (!json) await printBatch(last, {});
  return last.state === BatchState.COMPLETED && last.refusedCount === 0 ? exit.done : exit.refused;
}
