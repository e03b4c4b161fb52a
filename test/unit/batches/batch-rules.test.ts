import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Client, createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { type Batch, BatchService, BatchState } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { MessageDraftSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys } from '../../../src/auth/api-keys.ts';
import { findBatch } from '../../../src/batches/batches.sql.ts';
import { beginChunk, claimBatch } from '../../../src/batches/claims.sql.ts';
import { stopBatches } from '../../../src/batches/run-chunk.ts';
import { openStore } from '../../support/database.ts';
import { jsonCaller } from '../../support/json.ts';
import { seedOf } from '../../support/seed.ts';
import { startService, type TestService } from '../../support/service.ts';
import { query, readAll } from '../../support/verify.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;
type Batches = Client<typeof BatchService>;

const draft = (fromUid: string, channelId: string, text: string, more: Draft = {}): Draft => ({
  channelId,
  channelType: 2,
  fromUid,
  payload: Buffer.from(text),
  ...more,
});
const batchesOf = (service: TestService) => createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
async function ended(client: Batches, batchId: string, headers: Record<string, string> = {}): Promise<Batch> {
  let last: Batch | undefined;
  for await (const { batch } of client.watchBatch({ batchId }, { headers })) last = batch;
  return last as Batch;
}
const counts = ({ acceptedCount, duplicateCount, refusedCount }: Batch) => [
  acceptedCount,
  duplicateCount,
  refusedCount,
];

describe('a batch with a sender over its rate', () => {
  test('a sender over its rate delays no other sender of its batch', async () => {
    const rates = { caller: [], sender: [{ points: 40, seconds: 3600 }], channel: [], store: 'memory' as const };
    const service = await startService({ rates });
    const client = batchesOf(service);
    try {
      // Each of three chunks has messages of the greedy sender, in two channels.
      const messages = Array.from({ length: 2500 }, (_, index) =>
        index % 20 === 0
          ? draft('greedy', `c${(index / 20) % 2}`, `${index}`)
          : draft(`modest ${index % 1500}`, 'others', `${index}`),
      );
      const { batch } = await client.submitBatch({ messages });
      const batchId = batch?.batchId ?? '';
      let last: Batch | undefined;
      for await (const { batch: now } of client.watchBatch({ batchId })) {
        last = now;
        if (now?.acceptedCount === 2375 + 40) await client.cancelBatch({ batchId });
      }
      assert.deepEqual([last?.state, ...counts(last as Batch)], [BatchState.CANCELLED, 2375 + 40, 0, 0]);
      const greedy = (await readAll(service.databaseUrl)).filter((row) => row.fromUid === 'greedy');
      const sentIn = (channel: string) =>
        greedy.filter((row) => row.channel === channel).map((row) => Number(row.payload));
      assert.deepEqual(
        [...sentIn('c0'), ...sentIn('c1')].sort((a, b) => a - b),
        Array.from({ length: 40 }, (_, index) => index * 20),
        'the first messages of the greedy sender',
      );
    } finally {
      await service.stop();
    }
  });

  test('a batch with senders over their rates sends every message, in order per sender and channel', async (context) => {
    let state = seedOf(context);
    const random = (below: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const rates = {
      caller: [],
      sender: [{ points: 9, seconds: 1 }],
      channel: [{ points: 900, seconds: 1 }],
      store: 'memory' as const,
    };
    const service = await startService({ rates });
    const client = batchesOf(service);
    try {
      const messages = Array.from({ length: 2600 }, (_, index) => {
        const isGreedy = random(100) < 3;
        return draft(isGreedy ? `greedy ${random(3)}` : `modest ${index}`, `c${random(4)}`, `${index}`);
      });
      const { batch } = await client.submitBatch({ messages });
      assert.deepEqual(counts(await ended(client, batch?.batchId ?? '')), [2600, 0, 0]);
      const lasts = new Map<string, number>();
      for (const { channel, fromUid, payload } of await readAll(service.databaseUrl)) {
        const pair = `${fromUid} in ${channel}`;
        assert.ok((lasts.get(pair) ?? -1) < Number(payload), `${pair}: ${payload} after ${lasts.get(pair)}`);
        lasts.set(pair, Number(payload));
      }
      const { results } = await client.listBatchResults({ batchId: batch?.batchId ?? '' });
      assert.equal(results.length, 1000);
      assert.ok(results.every((each) => each.error === undefined && !each.duplicate));
    } finally {
      await service.stop();
    }
  });
});

describe('the content of a submitted batch', () => {
  let service: TestService;
  let client: Batches;
  let json: ReturnType<typeof jsonCaller>;
  before(async () => {
    // Sends nothing itself: a test starts a second instance for that.
    service = await startService({ batchConcurrency: 0, systemUids: [] });
    client = batchesOf(service);
    json = jsonCaller(service.url);
    for (const channel_id of ['templated', 'again'])
      await json.post('/channel', { channel_id, channel_type: 2, subscribers: ['u1', 'u2', 'u3'] });
  });
  after(() => service.stop());
  const create = async (name: string, body: string) =>
    (await json.post('/v1/templates', { name, body })).body.version as number;
  const remove = (name: string) => fetch(`${service.url}/v1/templates/${name}`, { method: 'DELETE' });
  const templated = (name: string, version = 0): Draft => draft('u1', 'templated', '', { template: { name, version } });
  /** Sends all waiting batches with a second instance. */
  async function send(batchId: string): Promise<Batch> {
    const other = await startService({ databaseUrl: service.databaseUrl, systemUids: [] });
    try {
      return await ended(client, batchId);
    } finally {
      await other.stop();
    }
  }
  const resultsOf = async (batchId: string) =>
    (await client.listBatchResults({ batchId })).results.map(
      ({ messageSeq, duplicate, error }) => error?.reason ?? (duplicate ? 'duplicate' : `seq ${messageSeq}`),
    );

  test('a batch renders the templates that existed when it was submitted, not later ones of the same name', async () => {
    assert.deepEqual([await create('fixed', 'old 1'), await create('fixed', 'old 2')], [1, 2]);
    const messages = [templated('fixed'), templated('fixed', 1), templated('fixed', 3), templated('later')];
    const { batch } = await client.submitBatch({ messages });
    await remove('fixed');
    assert.deepEqual([await create('fixed', 'new'), await create('later', 'new')], [3, 1]);
    await remove('fixed');
    assert.equal(await create('fixed', 'newest'), 4, 'a version number is never reused');
    const end = await send(batch?.batchId ?? '');
    assert.deepEqual(await resultsOf(end.batchId), Array(4).fill('TEMPLATE_NOT_FOUND'));
    const again = await client.submitBatch({ messages: [templated('fixed')] });
    await create('fixed', 'newer than newest');
    await send(again.batch?.batchId ?? '');
    const rows = (await readAll(service.databaseUrl)).filter((row) => row.channel === 'templated');
    assert.deepEqual(
      rows.map((row) => row.payload),
      ['newest'],
    );
  });

  test('`now` in a template of a batch is the due time of its messages', async () => {
    await create('timed', "{{ 'now' | date: '%s' }} {{ 'today' | date_to_xmlschema }}");
    const sendAt = Date.now() + 50;
    const { batch } = await client.submitBatch({ messages: [templated('timed')], sendAt: timestampFromMs(sendAt) });
    await new Promise((resolve) => setTimeout(resolve, 1100));
    await send(batch?.batchId ?? '');
    const row = (await readAll(service.databaseUrl)).find((each) => each.key === `${batch?.batchId}:0`);
    const [seconds, day = ''] = (row?.payload ?? '').split(' ');
    assert.equal(Number(seconds), Math.floor(sendAt / 1000));
    assert.equal(Math.floor(Date.parse(day) / 1000), Math.floor(sendAt / 1000));
  });

  test('a message that a dead worker stored is its result, even if a second attempt would be refused', async () => {
    await create('gone', 'rendered');
    const requestId = 'again';
    const message = (index: number, more: { clientMsgNo?: string } = {}): Draft =>
      [
        () => draft('u1', 'again', 'm0', more),
        () => draft('u1', 'again', '', { template: { name: 'gone' }, ...more }),
        () => draft('u2', 'again', 'm2', more),
        () => draft('u1', 'again', 'm3', { ...more, clientMsgNo: 'own' }),
        () => draft('u2', 'again', 'never stored', more),
        () => draft('u3', 'again', 'mine', more),
      ][index]?.() ?? {};
    const sender = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    // An earlier message of another call under a key of the batch: it is no result of the batch.
    await sender.sendBatch({ messages: [draft('u3', 'again', 'other', { clientMsgNo: `${requestId}:5` })] });
    await query(service.databaseUrl, 'update sendbatch.message set accepted_at = accepted_at - 60000');
    const messages = [0, 1, 2, 3, 4, 5].map((index) => message(index));
    const { batch } = await client.submitBatch({ messages, requestId });
    const batchId = batch?.batchId ?? '';
    // A worker stores messages under the keys that the batch derives, and dies before it settles
    // the chunk.
    const db = openStore(service.databaseUrl);
    const claimed = await claimBatch(db, (await findBatch(db, batchId))?.callerId ?? '');
    assert.ok(claimed && (await beginChunk(db, claimed)));
    await db.destroy();
    const keyed = [0, 1, 2, 3].map((index) => message(index, { clientMsgNo: `${requestId}:${index}` }));
    const stored = await sender.sendBatch({ messages: keyed });
    assert.ok(stored.results.every((each) => each.error === undefined));
    // Since then one message differs in content, one lacks its template, one sender is denied.
    await query(
      service.databaseUrl,
      `update sendbatch.message set content_hash = '\\x00' where client_msg_no = '${requestId}:0'`,
    );
    await remove('gone');
    await json.post('/channel/blacklist_add', { channel_id: 'again', channel_type: 2, uids: ['u2'] });
    const end = await send(batchId);
    assert.deepEqual(await resultsOf(batchId), [
      'seq 2',
      'seq 3',
      'seq 4',
      'duplicate',
      'IN_DENYLIST',
      'CLIENT_MSG_NO_REUSED',
    ]);
    assert.deepEqual(counts(end), [3, 1, 2]);
  });
});

describe('batches of a key that was revoked or has expired', () => {
  let service: TestService;
  let client: Batches;
  before(async () => {
    service = await startService({ requiresCredential: true, open: false });
    client = batchesOf(service);
  });
  after(() => service.stop());

  test('batches of a revoked key are cancelled with a reason: scheduled ones at once, a running one between two chunks', async () => {
    const db = openStore(service.databaseUrl);
    const keys = createKeys(db);
    try {
      const admin = {
        authorization: `Bearer ${(await keys.create({ name: 'admin', scopes: ['admin', 'send'] })).key}`,
      };
      const mine = await keys.create({ name: 'mine', scopes: ['send'] });
      const headers = { authorization: `Bearer ${mine.key}` };
      const submit = async (count: number, inMs: number) => {
        const messages = Array.from({ length: count }, (_, index) => draft('u1', 'ends', `${index}`));
        const { batch } = await client.submitBatch(
          { messages, sendAt: timestampFromMs(Date.now() + inMs) },
          { headers },
        );
        return batch?.batchId ?? '';
      };
      const waiting = await submit(3, 3600_000);
      const other = await client.submitBatch(
        { messages: [draft('u1', 'others', 'x')], sendAt: timestampFromMs(Date.now() + 3600_000) },
        { headers: admin },
      );
      const big = await submit(20_000, 0);
      for await (const { batch } of client.watchBatch({ batchId: big }, { headers: admin })) {
        if (batch?.acceptedCount === 0 || batch?.endedAt !== undefined) continue;
        await keys.revoke(mine.keyId);
        const stopped = await stopBatches(db);
        assert.ok(stopped.includes(waiting) || batch?.state !== BatchState.RUNNING);
      }
      for (const batchId of [waiting, big]) {
        const end = await ended(client, batchId, admin);
        assert.equal(end.state, BatchState.CANCELLED);
        assert.match(end.lastError?.message ?? '', /key that submitted the batch was revoked/);
        const rows = (await readAll(service.databaseUrl)).filter((row) => row.key.startsWith(batchId));
        assert.equal(end.acceptedCount, rows.length);
        assert.ok(rows.length < end.messageCount);
      }
      const { batch } = await client.getBatch({ batchId: other.batch?.batchId ?? '' }, { headers: admin });
      assert.equal(batch?.state, BatchState.QUEUED);
    } finally {
      await db.destroy();
    }
  });

  test('a batch is not sent if its key expired before its slot', async () => {
    const db = openStore(service.databaseUrl);
    try {
      const admin = {
        authorization: `Bearer ${(await createKeys(db).create({ name: 'admin', scopes: ['admin', 'send'] })).key}`,
      };
      const { key, keyId } = await createKeys(db).create({ name: 'mine', scopes: ['send'] });
      const sendAt = timestampFromMs(Date.now() + 1500);
      const request = { messages: [draft('u1', 'expiry', 'x')], sendAt };
      const { batch } = await client.submitBatch(request, { headers: { authorization: `Bearer ${key}` } });
      await query(service.databaseUrl, `update sendbatch.api_key set expires_at = 1 where key_id = '${keyId}'`);
      const end = await ended(client, batch?.batchId ?? '', admin);
      assert.deepEqual([end.state, ...counts(end)], [BatchState.CANCELLED, 0, 0, 0]);
      assert.match(end.lastError?.message ?? '', /has expired/);
    } finally {
      await db.destroy();
    }
  });
});
