import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import fc from 'fast-check';
import pg from 'pg';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { lockHeads } from '../../src/messages/channel-heads.sql.ts';
import { onShard } from '../../src/postgres/shards.ts';
import { inTransaction } from '../../src/postgres/transaction.ts';
import { lockHeadsOf, openStore, shards } from '../support/database.ts';
import { scrape, sumOf } from '../support/metrics.ts';
import { type ProtocolClient, said } from '../support/protocols.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query, readAll } from '../support/verify.ts';
import { clientOf, draftTo, until } from '../support/watch.ts';

/** Longer than a lane waits for a head, so that the two can be told apart. */
const lockTimeoutMs = 1500;

for (const lanes of [1, 0]) {
  describe(`a channel that another session holds locked, ${lanes === 1 ? 'one lane' : 'no lanes'}`, () => {
    let service: TestService;
    let client: ProtocolClient;
    let holder: pg.Client;
    before(async () => {
      service = await startService({ lanes, lockTimeoutMs });
      client = clientOf(service, 'Connect, binary');
      holder = new pg.Client({ connectionString: service.databaseUrl });
      await holder.connect();
      assert.equal(
        said(await client.send({ messages: [draftTo('held', '0'), draftTo('free', '0'), draftTo('other', '0')] })),
        'ok ok ok',
      );
    });
    after(async () => {
      client.close();
      await holder.end();
      await service.stop();
    });
    afterEach(async () => {
      await holder.query('rollback');
      await until('the channel takes messages again', async () =>
        /^(ok|again)$/.test(said(await client.send({ messages: [draftTo('held', 'after')] }))),
      );
      await assertSound(service.databaseUrl);
    });
    const hold = async (channelId: string) => {
      await holder.query('begin');
      await lockHeadsOf(holder, [channelId]);
    };
    const lockTimeouts = async () =>
      sumOf(await scrape(service.url), 'sendbatch_commit_retries_total', { reason: 'lock_timeout' });

    test('other channels in the lane of a held channel wait for it once, then go on while its messages wait', async () => {
      const before = await lockTimeouts();
      await hold('held');
      let answered = 0;
      const waiting = [1, 2, 3].map(async (each) => {
        const answer = await client.send({ messages: [draftTo('held', `waiting ${each}`)] });
        answered++;
        return said(answer);
      });
      for (let each = 0; each < 50; each++)
        assert.equal(said(await client.send({ messages: [draftTo('free', `beside ${each}`)] })), 'ok');
      const answeredBeside = answered;
      await holder.query('rollback');
      const expected = answeredBeside === 0 ? ['ok', 'ok', 'ok'] : await Promise.all(waiting);
      assert.deepEqual(await Promise.all(waiting), expected, 'a lock that is released in time refuses no message');
      assert.ok((await lockTimeouts()) - before <= 3, 'each sender finds out at most once');
    });

    test('a BEST_EFFORT batch with a held channel stores the other channels, and only its own messages are STORE_BUSY', async () => {
      await hold('held');
      const messages = [draftTo('free', 'm1'), draftTo('held', 'm2'), draftTo('other', 'm3'), draftTo('held', 'm4')];
      const first = await client.send({ messages });
      assert.equal(said(first), 'ok STORE_BUSY ok STORE_BUSY');
      assert.ok('results' in first && first.results[1]?.refused?.retryMs === 1000);
      assert.equal(said(await client.send({ messages })), 'again STORE_BUSY again STORE_BUSY');
      await holder.query('rollback');
      await until('all are stored', async () => said(await client.send({ messages })) === 'again again again again');
    });

    test('an ATOMIC batch with a held channel is refused as a whole after LOCK_TIMEOUT, and nothing of it is stored', async () => {
      await hold('held');
      const messages = [draftTo('free', 'a1'), draftTo('held', 'a2')];
      assert.equal(said(await client.send({ messages, mode: SendMode.ATOMIC })), 'call: STORE_BUSY');
      const keys = (await readAll(service.databaseUrl)).map((row) => row.key);
      assert.ok(!keys.includes('a1') && !keys.includes('a2'));
      await holder.query('rollback');
      assert.equal(said(await client.send({ messages, mode: SendMode.ATOMIC })), 'ok ok');
    });

    test('the metric of the longest lock wait counts a held channel that its lane skips', async () => {
      await hold('held');
      const sending = client.send({ messages: [draftTo('held', 'metric')] });
      await until('it has waited for more than a lane waits', async () => {
        const seconds = sumOf(await scrape(service.url), 'sendbatch_lock_longest_wait_seconds');
        return seconds > 0.6;
      });
      await holder.query('rollback');
      // On a stalled machine its LOCK_TIMEOUT may have passed.
      assert.match(said(await sending), /^(ok|STORE_BUSY|call: STORE_BUSY)$/);
    });

    test('a no_persist message that cannot be published is refused alone, and the results name the stored ones', async () => {
      const live = { ...draftTo('free', 'live'), header: { noPersist: 1 } };
      await holder.query('begin');
      await holder.query('lock table sendbatch.live_message in access exclusive mode');
      const mixed = await client.send({ messages: [draftTo('free', 'beside live'), live] });
      assert.equal(said(mixed), 'ok STORE_BUSY');
      const atomic = [draftTo('free', 'atomic beside live'), live];
      const refused = await client.send({ messages: atomic, mode: SendMode.ATOMIC });
      assert.equal(said(refused), 'call: STORE_BUSY');
      assert.match('refused' in refused ? refused.refused.message : '', /the batch is stored, but/);
      assert.equal(said(await client.send({ messages: [live] })), 'STORE_BUSY');
      await holder.query('rollback');
      assert.equal(said(await client.send({ messages: atomic, mode: SendMode.ATOMIC })), 'again ok');
    });
  });
}

test('an instance that stalls inside a transaction loses it and its locks after two seconds', async () => {
  const service = await startService();
  const client = clientOf(service, 'Connect, binary');
  await client.send({ messages: [draftTo('held', '0')] });
  const [row] = await query(service.databaseUrl, `select channel_key from sendbatch.channel where channel_id = 'held'`);
  const channelKey = Number(row?.channel_key);
  const still = openStore(service.databaseUrl);
  const { promise: locked, resolve } = Promise.withResolvers<void>();
  const { promise: never, reject } = Promise.withResolvers<never>();
  const standing = inTransaction(
    still,
    async (tx) => {
      await lockHeads(onShard(tx, shards.of(channelKey)), [channelKey]);
      resolve();
      await never;
    },
    () => ({ sent: [], result: undefined }),
  );
  standing.catch(() => {});
  await locked;
  // The service's LOCK_TIMEOUT is one minute here: only the end of the other transaction lets the
  // send through earlier.
  assert.equal(said(await client.send({ messages: [draftTo('held', '1')] })), 'ok');
  reject(new Error('goes on'));
  await assert.rejects(standing);
  await still.destroy();
  client.close();
  await service.stop();
});

test('however long channels are held, acknowledged messages are stored once, without gaps and in order', async (context) => {
  const seed = seedOf(context);
  const first = await startService({ lanes: 2, lockTimeoutMs: 300 });
  const second = await startService({ lanes: 2, lockTimeoutMs: 300, databaseUrl: first.databaseUrl });
  const clients = [clientOf(first, 'Connect, binary'), clientOf(second, 'JSON route')];
  const holder = new pg.Client({ connectionString: first.databaseUrl });
  await holder.connect();
  const channels = ['a', 'b', 'c', 'd'];
  for (const channel of channels) await clients[0]?.send({ messages: [draftTo(channel, '0')] });
  const step = fc.record({
    hold: fc.subarray(channels),
    batches: fc.array(
      fc.record({
        client: fc.nat(1),
        atomic: fc.boolean(),
        channels: fc.array(fc.constantFrom(...channels), { minLength: 1, maxLength: 6 }),
      }),
      { minLength: 1, maxLength: 6 },
    ),
  });
  let key = 0;
  const acknowledged = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 3 }), async (steps) => {
      for (const { hold, batches } of steps) {
        await holder.query('begin');
        await lockHeadsOf(holder, hold);
        const sending = batches.map(async ({ client, atomic, channels: to }) => {
          const messages = to.map((channel) => draftTo(channel, `k${key++}`));
          const mode = atomic ? SendMode.ATOMIC : SendMode.BEST_EFFORT;
          const answer = await clients[client]?.send({ messages, mode });
          if (answer === undefined || 'refused' in answer) {
            assert.equal(answer?.refused.reason, 'STORE_BUSY');
            return;
          }
          for (const [index, result] of answer.results.entries()) {
            if (result.refused === undefined) acknowledged.set(messages[index]?.clientMsgNo ?? '', result.messageSeq);
            else assert.equal(result.refused.reason, 'STORE_BUSY');
          }
        });
        if (hold.length % 2 === 0) await Promise.all(sending);
        await holder.query('rollback');
        await Promise.all(sending);
      }
    }),
    { seed, numRuns: 6 },
  );
  await assertSound(first.databaseUrl);
  const stored = new Map((await readAll(first.databaseUrl)).map((row) => [row.key, row.seq]));
  for (const [each, seq] of acknowledged) assert.equal(stored.get(each), seq, each);
  assert.ok(acknowledged.size > 0);
  for (const client of clients) client.close();
  await holder.end();
  await second.stop();
  await first.stop();
});
