import { createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType } from '../gen/sendbatch/v1/message_pb.ts';
import { createSendbatch } from '../src/client/index.ts';
import type { Machine } from './machine.ts';
import { median, spread } from './measure.ts';
import type { ServedBench } from './reading.ts';
import { channelIdOf, personSender, receiverOf } from './workload.ts';

const messages = 100_000;
const payload = Buffer.alloc(100, 'x');

/** Where the messages of a batch go. */
const targets: Record<string, (index: number) => { channelType: ChannelType; channelId: string }> = {
  'to 100,000 persons': (index) => ({ channelType: ChannelType.PERSON, channelId: receiverOf(index) }),
  'to 100 groups': (index) => ({ channelType: ChannelType.GROUP, channelId: channelIdOf(index % 100) }),
};

/**
 * Measures the recall of a submitted batch, from the call until its last message is recalled,
 * against the sending of the same batch.
 */
export async function recalledBatches(machine: Machine, service: ServedBench, pairs: number): Promise<string> {
  const client = createSendbatch({ transport: createGrpcTransport({ baseUrl: service.url }) });
  const cpu = () => machine.cpu() + service.cpu();
  const measured = async (run: () => Promise<void>) => {
    const before = cpu();
    const startedAt = performance.now();
    await run();
    return {
      rate: messages / ((performance.now() - startedAt) / 1000),
      us: ((cpu() - before) / messages) * 1e6,
    };
  };
  const lines: string[] = [];
  for (const [name, targetOf] of Object.entries(targets)) {
    const sent: Awaited<ReturnType<typeof measured>>[] = [];
    const recalled: typeof sent = [];
    for (let round = 0; round < pairs; round++) {
      await machine.reset();
      const { batch } = await client.submit(
        Array.from({ length: messages }, (_, index) => ({ ...targetOf(index), fromUid: personSender, payload })),
      );
      const { batchId } = batch;
      const follow = async () => {
        let last = batch;
        for await (const each of client.watch(batchId)) last = each;
        return last;
      };
      sent.push(
        await measured(async () => {
          const { acceptedCount } = await follow();
          if (acceptedCount !== messages) throw new Error(`${acceptedCount} of ${messages} messages were accepted`);
        }),
      );
      recalled.push(
        await measured(async () => {
          await client.recallBatch(batchId);
          const { recalledCount } = await follow();
          if (recalledCount !== messages) throw new Error(`${recalledCount} of ${messages} messages were recalled`);
        }),
      );
      await machine.verify(messages, false);
    }
    const cells = [
      name,
      `${(median(recalled.map((run) => run.rate)) / 1000).toFixed(1)} k`,
      spread(
        recalled.map((run, round) => run.rate / (sent[round]?.rate ?? 0)),
        2,
      ),
      median(recalled.map((run) => run.us)).toFixed(1),
      spread(
        recalled.map((run, round) => (sent[round]?.us ?? 0) / run.us),
        2,
      ),
    ];
    lines.push(`| ${cells.join(' | ')} |`);
  }
  await machine.reset();
  return [
    '| recall of a batch of 100,000 | messages/s | by rate of sending it | µs per message | by CPU |',
    '|---|---|---|---|---|',
    ...lines,
  ].join('\n');
}
