import { createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType } from '../gen/sendbatch/v1/message_pb.ts';
import { createSendbatch } from '../src/client/index.ts';
import type { Machine } from './machine.ts';
import { median, spread } from './measure.ts';
import type { ServedBench } from './reading.ts';
import { personSender, receiverOf } from './workload.ts';

const persons = 100_000;
const payload = Buffer.alloc(100, 'x');

/**
 * Measures GetBatchReach of a batch to 100,000 persons among `stored` other messages. A third of
 * the persons have read their message, another third has got it.
 */
export async function reachOfBatch(
  machine: Machine,
  service: ServedBench,
  { stored, pairs }: { readonly stored: number; readonly pairs: number },
): Promise<string> {
  const client = createSendbatch({ transport: createGrpcTransport({ baseUrl: service.url }) });
  await machine.reset();
  await machine.fill(stored);
  await machine.addPersons();
  const { batch } = await client.submit(
    Array.from({ length: persons }, (_, index) => ({
      channelType: ChannelType.PERSON,
      channelId: receiverOf(index),
      fromUid: personSender,
      payload,
    })),
  );
  for await (const { state } of client.watch(batch.batchId)) void state;
  for (const [table, column, remainder] of [
    ['read_cursor', 'read_seq', 0],
    ['delivery_cursor', 'delivered_seq', 1],
  ] as const) {
    await machine.query(`
      insert into sendbatch.${table} (uid, channel_key, ${column})
      select replace(replace(channel_id, '${personSender}', ''), '@', ''), channel_key, 1 from sendbatch.channel
      where channel_type = ${ChannelType.PERSON} and channel_key % 3 = ${remainder}`);
    await machine.query(`vacuum analyze sendbatch.${table}`);
  }
  await machine.query('checkpoint');

  const seconds: number[] = [];
  const cpu: number[] = [];
  let counted = '';
  // The first question fills the buffers and is not kept.
  for (let round = 0; round <= pairs; round++) {
    const before = machine.cpu() + service.cpu();
    const startedAt = performance.now();
    const { total } = await client.batchReach(batch.batchId);
    if (round > 0) {
      seconds.push((performance.now() - startedAt) / 1000);
      cpu.push(machine.cpu() + service.cpu() - before);
    }
    if (Number(total?.receiverCount) !== persons) throw new Error(`${total?.receiverCount} of ${persons} receivers`);
    counted = `${total?.receiverCount} receivers, read by ${total?.readCount}, delivered to ${total?.deliveredCount}`;
  }
  await machine.reset();
  return [
    '| messages in the table | s | s of CPU |',
    '|---|---|---|',
    `| ${stored} | ${spread(seconds, 2)} | ${median(cpu).toFixed(2)} |`,
    '',
    `${counted}.`,
  ].join('\n');
}
