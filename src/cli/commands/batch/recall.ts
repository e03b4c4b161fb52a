import { createInterface } from 'node:readline/promises';
import { type Batch, RecallState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { type Connection, type ConnectOptions, connectTo } from '../../connect.ts';
import { onInterrupt } from '../../interrupt.ts';
import { plain } from '../../output/output.ts';
import { createProgress } from '../../output/progress.ts';
import { CommandError, exit } from '../../usage.ts';
import { printBatch } from './print.ts';

export interface RecallBatchOptions extends ConnectOptions {
  readonly yes?: boolean;
}

/** Recalls a batch after a confirmation, and follows the recall to its end. */
export async function recallBatch(batchId: string, options: RecallBatchOptions): Promise<number> {
  const connection = connectTo(options);
  const { batch } = await connection.client.batches.getBatch({ batchId });
  if (batch === undefined) throw new CommandError('the response of the service has no batch');
  if (options.yes !== true && batch.recallState === undefined && !(await confirm(batch))) return exit.failed;
  await connection.client.recallBatch(batchId);
  return await followRecall(connection, batchId, options);
}

async function confirm({ batchId, name, acceptedCount, messageCount, endedAt }: Batch): Promise<boolean> {
  const left = endedAt === undefined ? `, and stop the rest of ${messageCount}` : '';
  const what = `recall ${acceptedCount} sent messages of batch ${batchId}${name === '' ? '' : ` (${plain(name)})`}${left}`;
  if (process.stdin.isTTY !== true) throw new CommandError(`--yes is needed to ${what}`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(`${what[0]?.toUpperCase()}${what.slice(1)}? [y/N] `);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}

/** Shows the progress of a recall; returns the exit code. */
async function followRecall(
  { client }: Connection,
  batchId: string,
  { json = false }: ConnectOptions,
): Promise<number> {
  const stop = new AbortController();
  const interruption = onInterrupt(() => stop.abort());
  let last: Batch | undefined;
  let progress: ReturnType<typeof createProgress> | undefined;
  try {
    for await (const batch of client.watch(batchId, { signal: stop.signal })) {
      if (progress === undefined) {
        progress = createProgress({ quiet: json, total: batch.acceptedCount, noun: 'messages', fault: 'not recalled' });
        progress.begin(0);
      }
      progress.show(recallDone(batch), recallDone(batch), notRecalled(batch));
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
  return last.recallState === RecallState.COMPLETED && notRecalled(last) === 0 ? exit.done : exit.refused;
}

function recallDone(batch: Batch): number {
  return (batch.recalledCount ?? 0) + notRecalled(batch);
}

function notRecalled({ recallRefusedCount = 0, recallMissingCount = 0 }: Batch): number {
  return recallRefusedCount + recallMissingCount;
}
