import type { Batch } from '../../src/messages/append-plan.ts';
import { ChannelKeys } from '../../src/messages/channel-keys.sql.ts';
import { prepareMessage } from '../../src/messages/message.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { oneShard } from '../../src/postgres/shards.ts';
import { createAppend } from '../../src/sending/append.ts';
import { createDirect, createLanes, type Lanes } from '../../src/sending/lanes.ts';
import type { Contender, ContenderJob } from '../contender.ts';
import { batchesOf } from '../workload.ts';

/**
 * The store as the service uses it, without a protocol in front: prepared batches go into
 * `sending/append`.
 */
export async function openStore({
  url,
  workload,
  inFlight,
  lanes = 4,
  ordinarySenders = false,
}: ContenderJob): Promise<Contender> {
  const db = openDatabase({
    connection: { url },
    poolSize: lanes === 0 ? inFlight : lanes,
    lockTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    connectTimeoutMs: 5000,
    onConnectionError: (error) => console.error(error),
  });
  const channelKeys = new ChannelKeys(db);
  const batches = batchesOf(workload).map(
    (works): Batch => ({
      messages: works.map((work) => prepareMessage(work, work.clientMsgNo)),
      atomic: false,
      expectedLastSeqs: new Map(),
    }),
  );
  for (const { messages } of batches) await channelKeys.find(messages.map((message) => message.channel));
  const append = createAppend({
    db,
    shards: oneShard,
    channelKeys,
    rules: {
      systemUids: { has: () => !ordinarySenders },
      systemReaders: new Set<string>(),
      enforcePersonAllowlist: false,
    },
  });
  const grouped: Pick<Lanes, 'append' | 'close'> =
    lanes === 0
      ? { append: createDirect(append), close: async () => {} }
      : createLanes(append, { lanes, maxWaitMs: 60_000 });
  return {
    sends: batches.length,
    async send(index) {
      const batch = batches[index];
      if (batch === undefined) throw new Error(`no batch ${index}`);
      const outcomes = await grouped.append(batch);
      let stored = 0;
      for (const outcome of outcomes) {
        if (outcome.kind === 'refused') throw new Error(outcome.refusal.message);
        if (outcome.kind === 'accepted') stored++;
      }
      return { stored, duplicates: outcomes.length - stored };
    },
    async close() {
      await grouped.close();
      await db.destroy();
    },
  };
}
