import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { shards } from '../support/database.ts';
import { openClients, type ProtocolClient } from '../support/protocols.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

/**
 * A message of a run: few channels, senders, keys and contents make retries, twins and conflicts
 * frequent.
 */
interface Sent {
  readonly channel: number;
  readonly sender: number;
  readonly key: number;
  readonly content: number;
}

const sent = fc.record({
  channel: fc.nat({ max: 3 }),
  sender: fc.nat({ max: 1 }),
  key: fc.nat({ max: 12 }),
  // Mostly the same content: most repeats are retries and some are conflicts.
  content: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constant(1) }),
});
const batch = fc.record({
  messages: fc.array(sent, { minLength: 1, maxLength: 12 }),
  atomic: fc.boolean(),
  client: fc.nat({ max: 11 }),
});
/** The batches of a wave are sent concurrently; waves follow one another. */
const waves = fc.array(fc.array(batch, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 5 });

/** Two instances with group commit, or one with and one without, which share only the database. */
for (const lanes of [4, 0]) {
  describe(`any interleaving of batches, retries and refusals over two instances, ${lanes} and 4 lanes`, () => {
    let first: TestService;
    let second: TestService;
    let clients: ProtocolClient[];

    before(async () => {
      first = await startService({ lanes });
      second = await startService({ databaseUrl: first.databaseUrl });
      clients = [...openClients(first.url), ...openClients(second.url)];
    });
    after(async () => {
      for (const client of clients) client.close();
      await second.stop();
      await first.stop();
    });

    test(`any interleaving of batches, retries and refusals keeps every promise, ${lanes} and 4 lanes`, async (context) => {
      let run = 0;
      await fc.assert(
        fc.asyncProperty(waves, async (input) => {
          const name = `run${run++}`;
          const answers: { message: Sent; messageId: number; messageSeq: number; duplicate: boolean }[] = [];
          for (const wave of input) {
            await Promise.all(
              wave.map(async ({ messages, atomic, client }) => {
                const answer = await clients[client % clients.length]?.send({
                  mode: atomic ? SendMode.ATOMIC : SendMode.BEST_EFFORT,
                  messages: messages.map((message) => ({
                    channelId: `${name}-channel${message.channel}`,
                    channelType: 2,
                    fromUid: `sender${message.sender}`,
                    clientMsgNo: `key${message.key}`,
                    payload: Buffer.from(`content${message.content}`),
                  })),
                });
                assert.ok(answer !== undefined);
                if ('refused' in answer) {
                  assert.equal(answer.refused.reason, 'CLIENT_MSG_NO_REUSED', JSON.stringify(answer));
                  assert.ok(atomic, 'only an ATOMIC batch is refused as a whole');
                  return;
                }
                assert.equal(answer.results.length, messages.length);
                for (const [index, result] of answer.results.entries()) {
                  const message = messages[index];
                  assert.ok(message);
                  if (result.refused !== undefined) assert.equal(result.refused.reason, 'CLIENT_MSG_NO_REUSED');
                  else answers.push({ ...result, message });
                }
              }),
            );
          }
          const rows = await readAll(first.databaseUrl, { channel: new RegExp(`^${name}-`) });
          const identity = (message: Sent) =>
            `${name}-channel${message.channel} sender${message.sender} key${message.key}`;
          const stored = new Map(rows.map((row) => [`${row.channel} ${row.fromUid} ${row.key}`, row]));
          // Every answer for a message names its row, and exactly one answer was not a duplicate.
          const fresh = new Map<string, number>();
          for (const { message, messageId, messageSeq, duplicate } of answers) {
            const row = stored.get(identity(message));
            assert.ok(row, `${identity(message)} was accepted and is not stored`);
            assert.deepEqual([row.id, row.seq, row.payload], [messageId, messageSeq, `content${message.content}`]);
            if (!duplicate) fresh.set(identity(message), (fresh.get(identity(message)) ?? 0) + 1);
          }
          assert.deepEqual(
            new Set(fresh.keys()),
            new Set(stored.keys()),
            'a message is stored that no answer reported',
          );
          assert.deepEqual(
            [...fresh.values()].filter((count) => count !== 1),
            [],
          );
          await assertSound(first.databaseUrl);
        }),
        { numRuns: shards.count === 1 ? 40 : 12, seed: seedOf(context) },
      );
    });
  });
}
