import { createGrpcTransport } from '@connectrpc/connect-node';
import type { ChannelType } from '../gen/sendbatch/v1/message_pb.ts';
import { createSendbatch } from '../src/client/index.ts';
import { cpuOfTree, type Machine } from './machine.ts';
import { median, spread } from './measure.ts';
import { batchesOf } from './workload.ts';

const receivers = 100_000;

interface Sent {
  readonly rate: number;
  /** CPU per message of PostgreSQL and the service, in µs. */
  readonly us: number;
}

/**
 * Measures submitted batches from one sender to 100,000 persons, whose channels exist or are
 * created: from when the batch was accepted until it has ended.
 */
export async function submittedBatches(machine: Machine, url: string, pid: number, pairs: number): Promise<string> {
  const client = createSendbatch({ transport: createGrpcTransport({ baseUrl: url }) });
  const cpu = () => machine.cpu() + cpuOfTree(pid);

  async function sendTo(newChannels: boolean, seed: number): Promise<Sent> {
    await machine.reset();
    const works = batchesOf({
      spread: 'distinct',
      batches: receivers / 1000,
      batchMessages: 1000,
      payloadBytes: 100,
      duplicates: 0,
      seed,
      newChannels,
      toPersons: true,
    });
    const messages = works.flat().map(({ clientMsgNo, fromUid, channelId, channelType, payload }) => ({
      clientMsgNo,
      fromUid,
      channelId,
      channelType: channelType as ChannelType,
      payload: Uint8Array.from(payload),
    }));
    const { batch } = await client.submit(messages);
    const before = cpu();
    const startedAt = performance.now();
    let accepted = 0;
    for await (const { acceptedCount } of client.watch(batch.batchId)) accepted = acceptedCount;
    const seconds = (performance.now() - startedAt) / 1000;
    if (accepted !== receivers) throw new Error(`${accepted} of ${receivers} messages were accepted`);
    const us = ((cpu() - before) / receivers) * 1e6;
    await machine.verify(receivers, false);
    return { rate: receivers / seconds, us };
  }

  const known: Sent[] = [];
  const created: Sent[] = [];
  // The first batch warms up the service and is not kept.
  await sendTo(false, 1);
  for (let round = 0; round < pairs; round++) {
    known.push(await sendTo(false, 2000 + round));
    created.push(await sendTo(true, 2000 + round));
  }
  await machine.reset();
  const line = (name: string, runs: readonly Sent[]) => {
    const rate = runs.map((run, round) => run.rate / (known[round]?.rate ?? 0));
    const us = runs.map((run, round) => (known[round]?.us ?? 0) / run.us);
    const cells = [
      name,
      `${(median(runs.map((run) => run.rate)) / 1000).toFixed(1)} k`,
      runs === known ? '' : spread(rate, 2),
      median(runs.map((run) => run.us)).toFixed(1),
      runs === known ? '' : spread(us, 2),
    ];
    return `| ${cells.join(' | ')} |`;
  };
  return [
    '| submitted batch of 100,000 | messages/s | by rate | µs per message | by CPU |',
    '|---|---|---|---|---|',
    line('persons, known', known),
    line('persons, new', created),
  ].join('\n');
}
