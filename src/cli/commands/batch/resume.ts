import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type ConnectOptions, connectTo } from '../../connect.ts';
import { note } from '../../output/output.ts';
import { CommandError } from '../../usage.ts';
import { printBatch } from './print.ts';
import { type SendAtOptions, sendAtOf } from './send-at.ts';
import { watchBatch } from './watch.ts';

interface ResumeOptions extends ConnectOptions, SendAtOptions {
  readonly watch?: boolean;
}

/** Submits what a cancelled batch has not sent as a new batch. */
export async function resumeBatch(batchId: string, options: ResumeOptions): Promise<void> {
  const sendAt = await sendAtOf(options);
  const connection = connectTo(options);
  const { batch, duplicate } = await connection.client.batches.resumeBatch({
    batchId,
    ...(sendAt === undefined ? {} : { sendAt: timestampFromMs(sendAt) }),
  });
  if (batch === undefined) throw new CommandError('the response of the service has no batch');
  if (duplicate && options.json !== true) note(`${batchId} was already resumed, as ${batch.batchId}`);
  if (!options.watch) return await printBatch(batch, options);
  if (options.json !== true) note(`${batch.batchId} sends the other ${batch.messageCount} messages`);
  process.exitCode = await watchBatch(connection, batch.batchId, options);
}
