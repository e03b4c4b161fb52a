import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Client, createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { type Batch, BatchPriority, BatchService } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import { createKeys } from '../../../src/auth/api-keys.ts';
import { openStore } from '../../support/database.ts';
import { startService, type TestService } from '../../support/service.ts';
import { query } from '../../support/verify.ts';

const drafts = (channelId: string, count: number) =>
  Array.from({ length: count }, () => ({
    channelId,
    channelType: ChannelType.GROUP,
    fromUid: 'u1',
    payload: Buffer.from('x'),
  }));

/** One worker, so that the order of slots decides which batch finishes first. */
describe('slots of batches', () => {
  let service: TestService;
  let client: Client<typeof BatchService>;
  let callers: { authorization: string }[];
  before(async () => {
    service = await startService({ requiresCredential: true, open: false, batchConcurrency: 1 });
    client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    callers = await createCallers(['a', 'b']);
  });
  after(() => service.stop());

  async function createCallers(names: readonly string[]): Promise<{ authorization: string }[]> {
    const db = openStore(service.databaseUrl);
    const keys = createKeys(db);
    const made = await Promise.all(names.map((name) => keys.create({ name, scopes: ['send'] })));
    await db.destroy();
    return made.map(({ key }) => ({ authorization: `Bearer ${key}` }));
  }
  async function submit(caller: number, count: number, priority: BatchPriority = BatchPriority.NORMAL, inMs = 0) {
    const messages = drafts(`c${caller}`, count);
    const request = { messages, priority, sendAt: timestampFromMs(Date.now() + inMs) };
    const { batch } = await client.submitBatch(request, { headers: callers[caller] ?? {} });
    return batch?.batchId ?? '';
  }
  async function ended(caller: number, batchId: string): Promise<Batch> {
    let last: Batch | undefined;
    for await (const { batch } of client.watchBatch({ batchId }, { headers: callers[caller] ?? {} })) last = batch;
    return last as Batch;
  }
  const now = async (caller: number, batchId: string) =>
    (await client.getBatch({ batchId }, { headers: callers[caller] ?? {} })).batch as Batch;

  test('a batch of 10 is done while another caller has 100,000 messages waiting', async (context) => {
    const huge = await submit(0, 100_000);
    const start = performance.now();
    const small = await ended(1, await submit(1, 10));
    context.diagnostic(`it took ${Math.round(performance.now() - start)} ms`);
    assert.equal(small.acceptedCount, 10);
    const rest = await now(0, huge);
    assert.equal(rest.endedAt, undefined);
    assert.ok(rest.acceptedCount < 100_000);
    await client.cancelBatch({ batchId: huge }, { headers: callers[0] ?? {} });
    await ended(0, huge);
  });

  test('a small batch does not wait for a huge batch of the same caller, whatever their priorities', async () => {
    const huge = await submit(0, 50_000, BatchPriority.HIGH);
    const small = await ended(0, await submit(0, 10, BatchPriority.LOW));
    assert.equal(small.acceptedCount, 10);
    const rest = await now(0, huge);
    assert.ok(rest.acceptedCount < 50_000, 'the huge batch finished first');
    await client.cancelBatch({ batchId: huge }, { headers: callers[0] ?? {} });
    await ended(0, huge);
  });

  test('a batch of high priority gets four times as many slots as a normal one of the same caller', async () => {
    const hourMs = 3600_000;
    const normal = await submit(0, 40_000, BatchPriority.NORMAL, hourMs);
    const high = await submit(0, 40_000, BatchPriority.HIGH, hourMs);
    // Both become due at once, however long their submission took.
    await query(
      service.databaseUrl,
      `update sendbatch.batch_chunk set due_at = due_at - 2 * ${hourMs} where not settled;
       update sendbatch.batch set due_at = due_at - 2 * ${hourMs} where due_at is not null`,
    );
    assert.equal((await ended(0, high)).acceptedCount, 40_000);
    assert.equal((await ended(0, normal)).acceptedCount, 40_000);
    // The high batch took 40 slots of 1,000 messages each, all in one channel.
    const [before] = await query(
      service.databaseUrl,
      `select count(*) as count from sendbatch.message where client_msg_no like '${normal}:%'
       and message_id < (select max(message_id) from sendbatch.message where client_msg_no like '${high}:%')`,
    );
    const messages = Number(before?.count);
    assert.ok(messages >= 9000 && messages <= 11_000, `${messages}`);
  });

  // A worker that sleeps for its poll interval of 1 s after each batch needs a minute.
  for (const [name, inMs] of [
    ['now', 0],
    ['at one time later', 1500],
  ] as const)
    test(`sixty callers with one message each, due ${name}, do not cost one poll interval each`, async (context) => {
      const first = callers.length;
      const names = Array.from({ length: 60 }, (_, index) => `${name} ${index}`);
      callers.push(...(await createCallers(names)));
      const start = performance.now();
      const batches = await Promise.all(names.map((_, index) => submit(first + index, 1, BatchPriority.NORMAL, inMs)));
      const ends = await Promise.all(batches.map((batchId, index) => ended(first + index, batchId)));
      const ms = Math.round(performance.now() - start);
      context.diagnostic(`it took ${ms} ms`);
      assert.ok(ms < 55_000, `${ms} ms`);
      assert.deepEqual(
        ends.map((batch) => batch.acceptedCount),
        names.map(() => 1),
      );
    });
});
