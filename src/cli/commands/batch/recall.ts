import { createInterface } from 'node:readline/promises';
import { type Batch, RecallState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { type ConnectOptions, connectTo } from '../../connect.ts';
import { plain } from '../../output/output.ts';
import { CommandError, exit } from '../../usage.ts';
import { followBatch } from './watch.ts';

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
  return await followBatch(connection, batchId, options, {
    total: ({ acceptedCount }) => acceptedCount,
    done: recallDone,
    failed: notRecalled,
    fault: 'not recalled',
    excludesDone: false,
    isSuccess: (recalled) => recalled.recallState === RecallState.COMPLETED && notRecalled(recalled) === 0,
  });
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

function recallDone(batch: Batch): number {
  return (batch.recalledCount ?? 0) + notRecalled(batch);
}

function notRecalled({ recallRefusedCount = 0, recallMissingCount = 0 }: Batch): number {
  return recallRefusedCount + recallMissingCount;
}
