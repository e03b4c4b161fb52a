import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import { type Client, Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { sql } from 'kysely';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import {
  type Batch,
  BatchPriority,
  BatchService,
  BatchState,
  RecallState,
} from '../../gen/sendbatch/v1/batch_service_pb.ts';
import type { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import { findBatch } from '../../src/batches/batches.sql.ts';
import { beginChunk, claimBatch } from '../../src/batches/claims.sql.ts';
import { reasonOf } from '../../src/client/index.ts';
import type { Scope } from '../../src/messages/caller.ts';
import { openStore, perShard } from '../support/database.ts';
import { openEvents } from '../support/events.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query, readAll } from '../support/verify.ts';
import { until } from '../support/watch.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;

const draft = (channelId: string, index: number, more: Draft = {}): Draft => ({
  channelId,
  channelType: 2,
  fromUid: 'u1',
  payload: Buffer.from(`m${index}`),
  ...more,
});
const drafts = (channelId: string, count: number, more: Draft = {}) =>
  Array.from({ length: count }, (_, index) => draft(channelId, index, more));
const lines = (channelId: string, count: number) =>
  Array.from({ length: count }, (_, index) =>
    JSON.stringify({
      channel_id: channelId,
      channel_type: 2,
      from_uid: 'u1',
      payload: Buffer.from(`m${index}`).toString('base64'),
    }),
  ).join('\n');

type Batches = Client<typeof BatchService>;

/** Watches a batch to its end and returns its last state. */
async function watchToEnd(client: Batches, batchId: string, headers: Record<string, string> = {}): Promise<Batch> {
  let last: Batch | undefined;
  for await (const { batch } of client.watchBatch({ batchId }, { headers })) last = batch;
  assert.ok(last?.endedAt, 'the stream ends with the batch');
  return last;
}

/** Lists all results of a batch, page by page. */
async function results(client: Batches, batchId: string, more: { refusedOnly?: boolean; pageSize?: number } = {}) {
  const all = [];
  let pageToken = '';
  do {
    const page = await client.listBatchResults({ batchId, pageToken, ...more });
    all.push(...page.results);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return all;
}

/** Returns code and reason of a call that must be refused. */
async function refusal(call: Promise<unknown>): Promise<string> {
  const error = await call.then(
    () => assert.fail('the call was accepted'),
    (thrown) => ConnectError.from(thrown),
  );
  return `${Code[error.code]} ${error.findDetails(ErrorInfoSchema)[0]?.reason}`;
}

const counts = ({ acceptedCount, duplicateCount, refusedCount }: Batch) => [
  acceptedCount,
  duplicateCount,
  refusedCount,
];

const recallCounts = ({ recalledCount, recallRefusedCount, recallMissingCount }: Batch) => [
  recalledCount,
  recallRefusedCount,
  recallMissingCount,
];

describe('batches in the background', () => {
  let service: TestService;
  let client: Batches;
  let json: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService();
    client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    json = jsonCaller(service.url);
  });
  after(() => service.stop());
  const rowsOf = async (channel: string) =>
    (await readAll(service.databaseUrl)).filter((row) => row.channel === channel);

  for (const [name, transport] of [
    ['gRPC', createGrpcTransport],
    ['gRPC-Web', (o: { baseUrl: string }) => createGrpcWebTransport({ ...o, httpVersion: '1.1' })],
    ['Connect', (o: { baseUrl: string }) => createConnectTransport({ ...o, httpVersion: '1.1' })],
  ] as const)
    test(`a submitted batch is stored, sent in order and has one result per message, over ${name}`, async () => {
      const batchClient = createClient(BatchService, transport({ baseUrl: service.url }));
      const channel = `door-${name}`;
      const messages = [...drafts(channel, 2500), draft('bad@', 0, { channelType: 1, channelId: 'u2' })];
      const { batch, duplicate } = await batchClient.submitBatch({
        messages,
        name: 'all',
        priority: BatchPriority.HIGH,
      });
      assert.ok(batch);
      assert.deepEqual(
        [batch.state, batch.messageCount, duplicate, batch.name, batch.priority],
        [BatchState.QUEUED, 2501, false, 'all', BatchPriority.HIGH],
      );
      const end = await watchToEnd(batchClient, batch.batchId);
      assert.equal(end.state, BatchState.COMPLETED);
      assert.deepEqual(counts(end), [2501, 0, 0]);
      const all = await results(batchClient, batch.batchId);
      assert.deepEqual(
        all.map((each) => each.index),
        messages.map((_, index) => index),
      );
      const rows = await rowsOf(channel);
      assert.deepEqual(
        rows.map((row) => [row.seq, row.id, row.key, row.payload]),
        all
          .slice(0, 2500)
          .map((each, index) => [index + 1, Number(each.messageId), `${batch.batchId}:${index}`, `m${index}`]),
      );
      const got = await batchClient.getBatch({ batchId: batch.batchId });
      assert.deepEqual(got.batch, end);
    });

  test('invalid page tokens and batch ids are refused', async () => {
    const uuid = '0'.repeat(36);
    for (const pageToken of ['x', `1-${uuid}`, `1-${'-'.repeat(36)}`, `${'9'.repeat(16)}-${crypto.randomUUID()}`])
      assert.match(await refusal(client.listBatches({ pageToken })), /^InvalidArgument /, pageToken);
    const { batch } = await client.submitBatch({ messages: drafts('tokens', 1) });
    const batchId = batch?.batchId ?? '';
    for (const pageToken of ['x', '1-2', '9999999999999999-0-0', '0-9999999999-0', '0-0-9999999999'])
      assert.match(await refusal(client.listBatchResults({ batchId, pageToken })), /^InvalidArgument /, pageToken);
    await watchToEnd(client, batchId);
    assert.equal((await client.listBatches({ pageToken: `0-${crypto.randomUUID()}` })).batches.length, 0);
    assert.equal((await client.listBatchResults({ batchId, pageToken: `${'9'.repeat(15)}-0-0` })).results.length, 0);
    for (const id of ['no uuid', uuid, batchId.toUpperCase(), `${batchId} `])
      assert.match(await refusal(client.getBatch({ batchId: id })), /^NotFound BATCH_NOT_FOUND/, id);
  });

  test('a compressed NDJSON body of more than 200,000 empty lines is refused', async () => {
    const response = await fetch(`${service.url}/v1/batches`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson', 'content-encoding': 'gzip' },
      body: gzipSync('\n'.repeat(200_001)),
    });
    assert.equal(response.status, 413);
    assert.match(await response.text(), /more than 200000 lines/);
  });

  test('the record separators of a JSON text sequence are left out of its lines', async () => {
    const response = await fetch(`${service.url}/v1/batches`, {
      method: 'POST',
      headers: { 'content-type': 'application/json-seq' },
      body: `${lines('sequence', 3)
        .split('\n')
        .map((line) => `\x1e${line}`)
        .join('\n')}\n`,
    });
    const { batch } = (await response.json()) as { batch: { batch_id: string; message_count: number } };
    assert.equal(batch.message_count, 3);
    assert.deepEqual(counts(await watchToEnd(client, batch.batch_id)), [3, 0, 0]);
  });

  test('a batch is accepted as a stream of frames of any size, and a broken stream stores nothing', async () => {
    async function* frames(channel: string, count: number, fault?: Error) {
      yield { options: { requestId: `stream-${channel}`, name: 'streamed' }, messages: drafts(channel, 3) };
      for (let index = 0; index < count; index++) yield { messages: drafts(channel, 400) };
      if (fault !== undefined) throw fault;
      yield { last: true };
    }
    const { batch } = await client.submitBatchStream(frames('stream', 10));
    assert.ok(batch);
    assert.equal(batch.messageCount, 4003);
    assert.deepEqual(counts(await watchToEnd(client, batch.batchId)), [4003, 0, 0]);
    assert.equal((await rowsOf('stream')).length, 4003);

    for (let round = 0; round < 30; round++)
      await assert.rejects(client.submitBatchStream(frames('broken', round, new Error('gone'))));
    for (const frame of [
      { messages: drafts('cut', 3) },
      { messages: drafts('cut', 3), options: { messageCount: 4 } },
      { messages: drafts('cut', 3), options: { messageCount: 2 }, last: true },
    ]) {
      async function* one() {
        yield frame;
      }
      assert.equal(await refusal(client.submitBatchStream(one())), 'InvalidArgument INVALID_FIELD');
    }
    async function* more() {
      yield { messages: drafts('cut', 3), last: true };
      yield { messages: drafts('cut', 3) };
    }
    assert.equal(await refusal(client.submitBatchStream(more())), 'InvalidArgument INVALID_FIELD');
    async function* counted() {
      yield { messages: drafts('counted', 3), options: { messageCount: 3 } };
    }
    assert.equal((await client.submitBatchStream(counted())).batch?.messageCount, 3);
    const { batches } = await client.listBatches({});
    assert.ok(!batches.some((each) => each.requestId === 'stream-broken'));

    async function* late() {
      yield { messages: drafts('late', 1) };
      yield { options: { name: 'late' } };
    }
    assert.equal(await refusal(client.submitBatchStream(late())), 'InvalidArgument INVALID_FIELD');
    async function* odd() {
      yield { messages: drafts('odd', 5) };
      yield { messages: [draft('odd', 5), draft('', 6)] };
    }
    await client.submitBatchStream(odd()).then(
      () => assert.fail('the call was accepted'),
      (error) => assert.match(ConnectError.from(error).rawMessage, /^messages\[6\]\.channel_id: is required/),
    );
    async function* none() {}
    assert.equal(await refusal(client.submitBatchStream(none())), 'InvalidArgument EMPTY_BATCH');
  });

  test('a batch is accepted as NDJSON, plain or gzip, and a violation names its line and stores nothing', async () => {
    const post = async (body: string | Uint8Array, query = '', headers: Record<string, string> = {}) => {
      const response = await fetch(`${service.url}/v1/batches?${query}`, {
        method: 'POST',
        body: typeof body === 'string' ? body : Buffer.from(body),
        headers: { 'content-type': 'application/x-ndjson', ...headers },
      });
      return { status: response.status, body: JSON.parse(await response.text()) };
    };
    const first = await post(`\n${lines('nd', 1500)}\r\n\n`, 'name=lines&request_id=nd&priority=low');
    assert.equal(first.status, 200, JSON.stringify(first.body));
    assert.deepEqual(
      [first.body.batch.message_count, first.body.batch.name, first.body.batch.priority, first.body.duplicate],
      [1500, 'lines', BatchPriority.LOW, undefined],
    );
    // Enum names are accepted in a body as in a query.
    const named = await fetch(`${service.url}/v1/batches`, {
      method: 'POST',
      body: JSON.stringify({
        priority: 'high',
        messages: [{ ...JSON.parse(lines('named', 1)), channel_type: 'group' }],
      }),
    });
    assert.equal(JSON.parse(await named.text()).batch?.priority, BatchPriority.HIGH);
    const again = await post(gzipSync(lines('nd', 1500)), 'name=lines&request_id=nd&priority=low', {
      'content-encoding': 'gzip',
    });
    assert.deepEqual([again.body.batch.batch_id, again.body.duplicate], [first.body.batch.batch_id, true]);
    assert.deepEqual(counts(await watchToEnd(client, first.body.batch.batch_id)), [1500, 0, 0]);
    assert.equal((await rowsOf('nd')).length, 1500);

    for (const [body, status, text] of [
      [`${lines('x', 2)}\n\n{"from_uid":`, 400, /line 4/],
      [
        `${lines('x', 700)}\n{"from_uid":"u1","channel_type":2,"channel_id":5}`,
        400,
        /^messages\[700\]\.channel_id: .*\(line 701\)$/,
      ],
      [
        `${lines('x', 3)}\n{"from_uid":"u1","channel_type":2,"payload":"aGk="}`,
        400,
        /^messages\[3\]\.channel_id: is required/,
      ],
      ['', 400, /at least one/],
      [`${'x'.repeat(17 * 1024 * 1024)}`, 413, /line 1 has more than/],
      [`${lines('x', 60_000)}\n${lines('x', 60_000)}`, 413, /at most 100000/],
    ] as const) {
      const answer = await post(body, 'request_id=fault');
      assert.equal(answer.status, status, JSON.stringify(answer.body));
      assert.match(answer.body.msg, text);
    }
    assert.equal((await post('x', 'priority=huge')).status, 400);
    assert.match((await post(lines('x', 1), '', { 'content-encoding': 'gzip' })).body.msg, /gzip/);
    assert.equal((await rowsOf('x')).length, 0);
    // Refused submissions do not claim their request id.
    assert.equal((await post(lines('nd-after', 1), 'request_id=fault')).status, 200);
  });

  test('a repeated or concurrent request_id returns the same batch, and is refused with other content', async () => {
    const call = (count: number) => client.submitBatch({ messages: drafts('once', count), requestId: 'once' });
    const answers = await Promise.all(Array.from({ length: 6 }, () => call(30)));
    assert.deepEqual(answers.map((each) => each.duplicate).sort(), [false, true, true, true, true, true]);
    const [id] = new Set(answers.map((each) => each.batch?.batchId));
    assert.equal(new Set(answers.map((each) => each.batch?.batchId)).size, 1);
    assert.equal(await refusal(call(31)), 'AlreadyExists REQUEST_ID_REUSED');
    assert.equal((await watchToEnd(client, id ?? '')).acceptedCount, 30);
    assert.equal((await rowsOf('once'))[0]?.key, 'once:0');
    const header = await json.post('/v1/batches', { messages: [] });
    assert.deepEqual([header.status, header.body.error.details[0].reason], [400, 'EMPTY_BATCH']);
    const keyed = jsonCaller(service.url, { 'idempotency-key': '"by-header"' });
    const body = { messages: [{ channel_id: 'once', channel_type: 2, from_uid: 'u1', payload: 'aGk=' }] };
    assert.equal((await keyed.post('/v1/batches', body)).body.duplicate, undefined);
    assert.equal((await keyed.post('/v1/batches', body)).body.duplicate, true);
  });

  test('messages whose keys were sent before are duplicates, and refused messages have a reason', async () => {
    const messages = drafts('mixed', 10).map((each, index) => ({ ...each, clientMsgNo: `own${index}` }));
    const send = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    const before = await send.sendBatch({ messages: messages.slice(0, 4) });
    const { batch } = await client.submitBatch({
      messages: [
        ...messages,
        draft('mixed', 1, { clientMsgNo: 'own0' }),
        draft('mixed', 1, { template: { name: 'nowhere' }, payload: new Uint8Array() }),
      ],
    });
    const end = await watchToEnd(client, batch?.batchId ?? '');
    assert.deepEqual(counts(end), [6, 4, 2]);
    const all = await results(client, end.batchId, { pageSize: 5 });
    assert.equal(all.length, 12);
    assert.deepEqual(
      all.slice(0, 4).map((each) => [each.messageId, each.duplicate]),
      before.results.map((each) => [each.messageId, true]),
    );
    const refused = await results(client, end.batchId, { refusedOnly: true, pageSize: 1 });
    assert.deepEqual(
      refused.map((each) => [each.index, reasonOf(each.error)]),
      [
        [10, 'CLIENT_MSG_NO_REUSED'],
        [11, 'TEMPLATE_NOT_FOUND'],
      ],
    );
  });

  test('a batch renders its own templates, and stored ones in the version of its submission', async () => {
    await json.post('/v1/templates', { name: 'greeting', body: 'Hello {{ name }}' });
    const at = Date.now() + 1500;
    const messages = ['greeting', 'own'].map((name, index) =>
      draft('templated', index, { payload: new Uint8Array(), template: { name, variables: { name: 'Ada' } } }),
    );
    const { batch } = await client.submitBatch({
      messages,
      templates: [{ name: 'own', body: 'Dear {{ name }}' }],
      sendAt: timestampFromMs(at),
    });
    await json.post('/v1/templates', { name: 'greeting', body: 'Changed {{ name }}' });
    await watchToEnd(client, batch?.batchId ?? '');
    assert.deepEqual(
      (await rowsOf('templated')).map((row) => row.payload),
      ['Hello Ada', 'Dear Ada'],
    );
    const odd = client.submitBatch({ messages, templates: [{ name: 'own', body: '{{ name' }] });
    assert.equal(await refusal(odd), 'InvalidArgument INVALID_FIELD');
  });

  test('send_at of a batch or a message delays sending, and immediate sends refuse it', async () => {
    const start = Date.now();
    const submit = async (laterMs: number) => {
      const laterAt = Date.now() + laterMs;
      const later = timestampFromMs(laterAt);
      const channel = `timed-${laterMs}`;
      const { batch } = await client.submitBatch({
        messages: [
          draft(channel, 0, { sendAt: later }),
          draft(channel, 1),
          draft(channel, 2, { sendAt: timestampFromMs(5) }),
        ],
      });
      assert.ok(batch);
      return { batch, channel, later, laterAt, isInTime: Date.now() < laterAt - 1000 };
    };
    let submitted = await submit(1500);
    // After a pause of the machine everything may be due at once: retry with a longer delay.
    for (const longer of [8000, 30_000]) if (!submitted.isInTime) submitted = await submit(longer);
    const { batch, channel, later, laterAt } = submitted;
    const end = await watchToEnd(client, batch.batchId);
    assert.ok(Number(end.endedAt?.seconds) * 1000 + Number(end.endedAt?.nanos) / 1e6 >= laterAt);
    assert.deepEqual(
      (await rowsOf(channel)).map((row) => row.payload),
      ['m1', 'm2', 'm0'],
    );
    assert.deepEqual(
      (await results(client, batch.batchId, { pageSize: 1 })).map((each) => each.index),
      [1, 2, 0],
    );
    const whole = await client.submitBatch({ messages: drafts('timed-whole', 2), sendAt: later });
    assert.ok(Number(whole.batch?.nextAt?.seconds) >= Math.floor(start / 1000));
    const tooFar = timestampFromMs(start + 400 * 24 * 3600_000);
    assert.equal(
      await refusal(client.submitBatch({ messages: drafts('far', 1), sendAt: tooFar })),
      'InvalidArgument INVALID_FIELD',
    );
    const send = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    await assert.rejects(
      send.sendBatch({ messages: drafts('now', 1, { sendAt: later }) }),
      /messages\[0\]\.send_at: must not be set/,
    );
    await assert.rejects(
      send.send({ message: draft('now', 1, { sendAt: later }) }),
      /message\.send_at: must not be set/,
    );
    assert.equal((await rowsOf('now')).length, 0);
  });

  test('cancelling a batch never sends its waiting messages and keeps the results of sent ones', async () => {
    const { batch } = await client.submitBatch({
      messages: drafts('cancelled', 5),
      sendAt: timestampFromMs(Date.now() + 3600_000),
    });
    const { batchId } = batch as Batch;
    const watching = watchToEnd(client, batchId);
    const cancelled = await json.post(`/v1/batches/${batchId}:cancel`, {});
    assert.equal(cancelled.body.state, BatchState.CANCELLED);
    assert.equal((await watching).state, BatchState.CANCELLED);
    assert.equal((await client.cancelBatch({ batchId })).batch?.state, BatchState.CANCELLED);
    assert.deepEqual(await results(client, batchId), []);
    assert.equal((await rowsOf('cancelled')).length, 0);

    const big = await client.submitBatch({ messages: drafts('cancelled-between', 30_000) });
    for await (const { batch: now } of client.watchBatch({ batchId: big.batch?.batchId ?? '' })) {
      if (now?.acceptedCount === 0 || now?.endedAt !== undefined) continue;
      await client.cancelBatch({ batchId: now?.batchId ?? '' });
    }
    const end = (await client.getBatch({ batchId: big.batch?.batchId ?? '' })).batch as Batch;
    const rows = await rowsOf('cancelled-between');
    assert.equal(end.state, BatchState.CANCELLED);
    assert.equal(end.acceptedCount, rows.length);
    assert.equal(rows.length % 1000, 0);
    assert.ok(rows.length > 0 && rows.length < 30_000, `${rows.length} were sent`);
    assert.equal((await results(client, end.batchId)).length, rows.length);
    const done = await client.submitBatch({ messages: drafts('done', 1) });
    await watchToEnd(client, done.batch?.batchId ?? '');
    assert.equal((await client.cancelBatch({ batchId: done.batch?.batchId ?? '' })).batch?.state, BatchState.COMPLETED);
  });

  test('a cancelled batch resumes with what it has not sent, under the same keys, now or at a time', async () => {
    const sendAt = timestampFromMs(Date.now() + 3_600_000);
    const messages = [...drafts('resumed', 2), ...drafts('resumed', 2).map((draft) => ({ ...draft, sendAt }))];
    const { batch } = await client.submitBatch({
      messages,
      requestId: 'resumed',
      name: 'resumed',
      lines: [4, 5, 6, 7],
    });
    const batchId = batch?.batchId ?? '';
    await until('the first two messages', async () => (await rowsOf('resumed')).length === 2);
    assert.equal(await refusal(client.resumeBatch({ batchId })), 'FailedPrecondition BATCH_NOT_RETRYABLE');
    await client.cancelBatch({ batchId });
    await watchToEnd(client, batchId);
    const resumed = await json.post(`/v1/batches/${batchId}:resume`, {});
    const { body } = resumed;
    assert.deepEqual([resumed.status, body.batch.message_count], [200, 2]);
    // Messages keep their own time.
    assert.equal(body.batch.next_at, new Date(timestampMs(sendAt)).toISOString());
    const repeated = await client.resumeBatch({ batchId });
    assert.deepEqual([repeated.duplicate, repeated.batch?.batchId], [true, body.batch.batch_id]);
    const otherTime = client.resumeBatch({ batchId, sendAt: timestampFromMs(Date.now()) });
    assert.equal(await refusal(otherTime), 'AlreadyExists REQUEST_ID_REUSED');
    await client.cancelBatch({ batchId: body.batch.batch_id });
    const last = await client.resumeBatch({ batchId: body.batch.batch_id, sendAt: timestampFromMs(Date.now()) });
    const lastId = last.batch?.batchId ?? '';
    assert.deepEqual(counts(await watchToEnd(client, lastId)), [2, 0, 0]);
    assert.deepEqual(
      (await results(client, lastId)).map(({ line, clientMsgNo, channelType, channelId }) => [
        line,
        clientMsgNo,
        channelType,
        channelId,
      ]),
      [
        [6, 'resumed:2', 2, 'resumed'],
        [7, 'resumed:3', 2, 'resumed'],
      ],
    );
    assert.equal((await rowsOf('resumed')).length, 4);
    assert.equal(await refusal(client.resumeBatch({ batchId: lastId })), 'FailedPrecondition BATCH_NOT_RETRYABLE');
    assert.equal(await refusal(client.resumeBatch({ batchId: 'none' })), 'NotFound BATCH_NOT_FOUND');
  });

  test('refused messages have line and recipient, and a retry sends only them under the same keys', async () => {
    const closed = { channel_type: 2, channel_id: 'retried-closed' };
    assert.equal((await json.post('/channel', { ...closed, disband: 1 })).status, 200);
    const body = `${lines('retried-open', 2)}\n\n${lines('retried-closed', 2)}\n`;
    const types = { 'content-type': 'application/x-ndjson' };
    const answer = await fetch(`${service.url}/v1/batches?request_id=retried&name=n`, {
      method: 'POST',
      headers: types,
      body,
    });
    const { batch_id: batchId } = ((await answer.json()) as { batch: { batch_id: string } }).batch;
    const waiting = await client.submitBatch({
      messages: drafts('w', 1),
      sendAt: timestampFromMs(Date.now() + 3_600_000),
    });
    const early = client.retryBatch({ batchId: waiting.batch?.batchId ?? '' });
    assert.equal(await refusal(early), 'FailedPrecondition BATCH_NOT_RETRYABLE');
    assert.deepEqual(counts(await watchToEnd(client, batchId)), [2, 0, 2]);
    const refused = await results(client, batchId, { refusedOnly: true });
    assert.deepEqual(
      refused.map(({ index, line, clientMsgNo, fromUid, channelType, channelId, error }) => [
        index,
        line,
        clientMsgNo,
        fromUid,
        channelType,
        channelId,
        error?.reason,
      ]),
      [
        [2, 4, 'retried:2', 'u1', 2, 'retried-closed', 'CHANNEL_DISBANDED'],
        [3, 5, 'retried:3', 'u1', 2, 'retried-closed', 'CHANNEL_DISBANDED'],
      ],
    );
    assert.deepEqual(
      (await results(client, batchId)).map(({ line, fromUid }) => [line, fromUid]),
      [
        [1, ''],
        [2, ''],
        [4, 'u1'],
        [5, 'u1'],
      ],
    );
    assert.equal((await json.post('/channel', { ...closed, disband: 0 })).status, 200);
    const again = await json.post(`/v1/batches/${batchId}:retry`, {});
    assert.deepEqual([again.status, again.body.batch.name, again.body.batch.message_count], [200, 'n', 2]);
    const retryId = again.body.batch.batch_id as string;
    assert.deepEqual(counts(await watchToEnd(client, retryId)), [2, 0, 0]);
    assert.deepEqual(
      (await results(client, retryId)).map(({ line, clientMsgNo }) => [line, clientMsgNo]),
      [
        [4, 'retried:2'],
        [5, 'retried:3'],
      ],
    );
    assert.deepEqual(
      [...(await rowsOf('retried-open')), ...(await rowsOf('retried-closed'))].map((row) => row.payload),
      ['m0', 'm1', 'm0', 'm1'],
    );
    const repeated = await client.retryBatch({ batchId });
    assert.deepEqual([repeated.duplicate, repeated.batch?.batchId], [true, retryId]);
    assert.equal(await refusal(client.retryBatch({ batchId: retryId })), 'FailedPrecondition BATCH_NOT_RETRYABLE');
    assert.equal(await refusal(client.retryBatch({ batchId: 'none' })), 'NotFound BATCH_NOT_FOUND');
    const odd = client.submitBatch({ messages: drafts('odd', 2), lines: [1] });
    assert.equal(await refusal(odd), 'InvalidArgument INVALID_FIELD');
  });

  test('a batch can be watched as Server-Sent Events until it ends', async () => {
    const { body } = await json.post('/v1/batches', {
      name: 'sse',
      messages: JSON.parse(`[${lines('sse', 3000).split('\n').join(',')}]`),
    });
    const events = await openEvents(`${service.url}/v1/batches/${body.batch.batch_id}/events`);
    assert.deepEqual([events.status, events.type], [200, 'text/event-stream; charset=utf-8']);
    let last = await events.next();
    assert.equal(last.event, 'batch');
    while (last.data.ended_at === undefined) last = await events.next();
    assert.deepEqual([last.data.state, last.data.accepted_count], [BatchState.COMPLETED, 3000]);
    assert.equal(last.id, 'ended');
    const again = await fetch(`${service.url}/v1/batches/${body.batch.batch_id}/events`, {
      headers: { 'last-event-id': 'ended' },
    });
    assert.equal(again.status, 204, 'EventSource does not come back');
    const missing = await openEvents(`${service.url}/v1/batches/nothing/events`);
    assert.deepEqual([missing.status, (await missing.body()).error.details[0].reason], [404, 'BATCH_NOT_FOUND']);
  });

  test('batches are listed newest first, by state and by page', async () => {
    const names = ['l1', 'l2', 'l3'];
    for (const name of names)
      await client.submitBatch({ name, messages: drafts('listed', 1), sendAt: timestampFromMs(Date.now() + 3600_000) });
    const found: string[] = [];
    let pageToken = '';
    do {
      const page = await client.listBatches({ states: [BatchState.QUEUED], pageSize: 2, pageToken });
      found.push(...page.batches.map((each) => each.name));
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    assert.deepEqual(found.slice(0, 3), [...names].reverse());
    const json2 = await json.get('/v1/batches?states=queued&page_size=1');
    assert.equal(json2.body.batches[0].name, 'l3');
  });

  test('a recalled batch loses the content of what it has sent; messages of earlier calls stay', async () => {
    const own = draft('recalled-own', 0, { clientMsgNo: 'own' });
    const send = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    await send.send({ message: own });
    const messages = [
      ...Array.from({ length: 2500 }, (_, index) => draft(`recalled-${index % 70}`, index)),
      ...Array.from({ length: 200 }, (_, index) => draft(`person${index}`, index, { channelType: 1 })),
      // Equal messages under one key are one message.
      ...Array.from({ length: 2 }, () => draft('recalled-twin', 0, { clientMsgNo: 'twin' })),
      own,
      draft('recalled-live', 0, { header: { noPersist: 1 } }),
    ];
    const { batch } = await client.submitBatch({ messages });
    const batchId = batch?.batchId ?? '';
    const sent = await watchToEnd(client, batchId);
    assert.deepEqual([counts(sent), sent.submittedBy, sent.recallState], [[2702, 2, 0], 'anybody', undefined]);
    const recalled = await json.post(`/v1/batches/${batchId}:recall`, {});
    assert.equal(recalled.status, 200, JSON.stringify(recalled.body));
    assert.equal(recalled.body.recalled_by, 'anybody');
    const end = await watchToEnd(client, batchId);
    assert.deepEqual(
      [end.state, end.recallState, ...recallCounts(end), end.cancelledBy],
      [BatchState.COMPLETED, RecallState.COMPLETED, 2701, 0, 1, undefined],
    );
    assert.ok(end.recallRequestedAt && end.recallEndedAt);
    const again = await client.recallBatch({ batchId });
    assert.deepEqual(again.batch, end);
    const rows = (await readAll(service.databaseUrl)).filter((row) =>
      /^(recalled-|u1@person|person)/.test(row.channel),
    );
    assert.equal(rows.length, 2702);
    assert.deepEqual(
      rows.filter((row) => row.payload !== '').map((row) => row.channel),
      ['recalled-own'],
    );
    // Every channel has as many changes as messages, in their order.
    const changes = await query(
      service.databaseUrl,
      `select count(*) as count from sendbatch.channel_head h join sendbatch.channel c using (channel_key)
       where c.channel_id like 'recalled-%' and last_change <> last_seq`,
    );
    assert.deepEqual(changes, [{ count: '0' }]);
  });

  test('recalling a running batch stops it and recalls what was sent', async () => {
    const { batch } = await client.submitBatch({ messages: drafts('recalled-running', 30_000) });
    const batchId = batch?.batchId ?? '';
    for await (const { batch: now } of client.watchBatch({ batchId }))
      if (now?.acceptedCount !== 0 && now?.recallState === undefined) await client.recallBatch({ batchId });
    const end = (await client.getBatch({ batchId })).batch as Batch;
    const rows = await rowsOf('recalled-running');
    assert.deepEqual([end.state, end.cancelledBy], [BatchState.CANCELLED, 'anybody']);
    assert.deepEqual([end.acceptedCount, ...recallCounts(end)], [rows.length, rows.length, 0, 0]);
    assert.ok(rows.length > 0 && rows.length < 30_000, `${rows.length} were sent`);
    assert.ok(rows.every((row) => row.payload === ''));
    const waiting = await client.submitBatch({
      messages: drafts('recalled-waiting', 5),
      sendAt: timestampFromMs(Date.now() + 3600_000),
    });
    await client.recallBatch({ batchId: waiting.batch?.batchId ?? '' });
    const stopped = await watchToEnd(client, waiting.batch?.batchId ?? '');
    assert.deepEqual([stopped.state, ...recallCounts(stopped)], [BatchState.CANCELLED, 0, 0, 0]);
    assert.equal((await rowsOf('recalled-waiting')).length, 0);
  });

  test('the database passes verification after the tests of background batches', () =>
    assertSound(service.databaseUrl));
});

describe('batches, callers and workers', () => {
  test('batches are visible to their caller and admins only, use the rights of their caller, and a stop ends watches', async () => {
    const service = await startService({ requiresCredential: true, open: false });
    const db = openStore(service.databaseUrl);
    const keys = createKeys(db);
    const key = async (scopes: Scope[], senders?: string[]) => ({
      authorization: `Bearer ${(await keys.create({ name: 'k', scopes, ...(senders && { senders }) })).key}`,
    });
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    try {
      const [mine, other, admin, reader] = await Promise.all([
        key(['send'], ['u1']),
        key(['send']),
        key(['admin', 'send']),
        key(['read']),
      ]);
      const messages = [...drafts('rights', 2), draft('rights', 2, { fromUid: 'u2' })];
      const { batch } = await client.submitBatch({ messages, requestId: 'r' }, { headers: mine });
      const { batchId } = batch as Batch;
      const end = await watchToEnd(client, batchId, mine);
      assert.deepEqual(counts(end), [2, 0, 1]);
      const { results: refused } = await client.listBatchResults({ batchId, refusedOnly: true }, { headers: mine });
      assert.deepEqual(
        refused.map((each) => reasonOf(each.error)),
        ['SENDER_NOT_YOURS'],
      );
      const strange = [
        client.getBatch({ batchId }, { headers: other }),
        client.listBatchResults({ batchId }, { headers: other }),
        client.cancelBatch({ batchId }, { headers: other }),
        client.recallBatch({ batchId }, { headers: other }),
        watchToEnd(client, batchId, other),
      ];
      for (const refused of await Promise.all(strange.map(refusal))) assert.equal(refused, 'NotFound BATCH_NOT_FOUND');
      // Request ids are per caller.
      assert.equal((await client.submitBatch({ messages, requestId: 'r' }, { headers: other })).duplicate, false);
      assert.equal((await client.listBatches({}, { headers: mine })).batches.length, 1);
      assert.equal((await client.listBatches({}, { headers: admin })).batches.length, 2);
      assert.equal((await client.getBatch({ batchId }, { headers: admin })).batch?.batchId, batchId);
      assert.equal(
        await refusal(client.submitBatch({ messages }, { headers: reader })),
        'PermissionDenied SCOPE_MISSING',
      );
      // A batch that ended too long ago is recalled by an admin only, messages by their own age.
      const agedBatch = (by: string) =>
        query(
          service.databaseUrl,
          `update sendbatch.batch set ended_at = ended_at ${by} where batch_id = '${batchId}'`,
        );
      await agedBatch('- 172800000');
      assert.equal(
        await refusal(client.recallBatch({ batchId }, { headers: mine })),
        'FailedPrecondition RECALL_WINDOW_OVER',
      );
      await agedBatch('+ 172800000');
      await query(
        service.databaseUrl,
        `update sendbatch.message set accepted_at = accepted_at - 172800000 where client_msg_no = 'r:0'`,
      );
      await client.recallBatch({ batchId }, { headers: mine });
      assert.deepEqual(recallCounts(await watchToEnd(client, batchId, mine)), [1, 1, 0]);
      const { batches: others } = await client.listBatches({}, { headers: other });
      const ofOther = others[0]?.batchId ?? '';
      await watchToEnd(client, ofOther, other);
      await client.recallBatch({ batchId: ofOther }, { headers: admin });
      const byAdmin = await watchToEnd(client, ofOther, other);
      assert.deepEqual([byAdmin.submittedBy, byAdmin.recalledBy], ['k', 'k']);
      assert.deepEqual(recallCounts(byAdmin), [byAdmin.acceptedCount, 0, 0]);
      const ndjson = { method: 'POST', body: lines('rights', 1), headers: { 'content-type': 'application/x-ndjson' } };
      assert.equal((await fetch(`${service.url}/v1/batches`, ndjson)).status, 401);
      assert.equal((await openEvents(`${service.url}/v1/batches/${batchId}/events`)).status, 401);

      const later = { messages, sendAt: timestampFromMs(Date.now() + 3600_000) };
      const waiting = (await client.submitBatch(later, { headers: mine })).batch?.batchId ?? '';
      const watching = client.watchBatch({ batchId: waiting }, { headers: mine })[Symbol.asyncIterator]();
      assert.equal((await watching.next()).value.batch.state, BatchState.QUEUED);
      const next = refusal(watching.next());
      await service.stop();
      assert.equal(await next, 'Unavailable STOPPING');
    } finally {
      await db.destroy();
      await service.stop();
    }
  });

  test('a batch cancelled between two attempts of a chunk keeps results of sent messages and sends no more', async () => {
    const rates = { caller: [], sender: [{ points: 40, seconds: 600 }], channel: [], store: 'memory' as const };
    const service = await startService({ rates });
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    try {
      const { batch } = await client.submitBatch({ messages: drafts('rated', 100) });
      const batchId = batch?.batchId ?? '';
      for await (const { batch: now } of client.watchBatch({ batchId }))
        if (now?.acceptedCount === 40) await client.cancelBatch({ batchId });
      const end = (await client.getBatch({ batchId })).batch as Batch;
      assert.deepEqual([end.state, ...counts(end)], [BatchState.CANCELLED, 40, 0, 0]);
      assert.deepEqual(
        (await results(client, batchId)).map((each) => [each.index, each.error?.code]),
        Array.from({ length: 40 }, (_, index) => [index, undefined]),
      );
      assert.deepEqual(await results(client, batchId, { refusedOnly: true }), []);
    } finally {
      await service.stop();
    }
  });

  test('a batch cancelled after its worker died has results for all messages of the begun chunk', async () => {
    const service = await startService({ batchConcurrency: 0 });
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    const db = openStore(service.databaseUrl);
    let other: TestService | undefined;
    try {
      const { batch } = await client.submitBatch({ messages: drafts('left', 2500) });
      const batchId = batch?.batchId ?? '';
      const callerId = (await findBatch(db, batchId))?.callerId ?? '';
      const left = await claimBatch(db, callerId);
      assert.ok(left && (await beginChunk(db, left)));
      const { batch: cancelling } = await client.cancelBatch({ batchId });
      assert.equal(cancelling?.state, BatchState.CANCELLING);
      other = await startService({ databaseUrl: service.databaseUrl });
      const end = await watchToEnd(client, batchId);
      assert.deepEqual([end.state, ...counts(end)], [BatchState.CANCELLED, 1000, 0, 0]);
      assert.equal((await results(client, batchId)).length, 1000);
      assert.equal((await readAll(service.databaseUrl)).length, 1000);
    } finally {
      await db.destroy();
      await other?.stop();
      await service.stop();
    }
  });

  test('a message that fails with an internal error does not delay the other messages of its chunk', async () => {
    const service = await startService();
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    const db = openStore(service.databaseUrl);
    try {
      for (const text of perShard("alter table sendbatch.message add constraint defect check (payload <> 'm500')"))
        await sql.raw(text).execute(db);
      const { batch } = await client.submitBatch({ messages: drafts('defect', 1000) });
      const batchId = batch?.batchId ?? '';
      for await (const { batch: now } of client.watchBatch({ batchId }))
        if (now?.acceptedCount === 999) await client.cancelBatch({ batchId });
      const all = await results(client, batchId);
      assert.deepEqual(
        all.map((each) => each.index),
        Array.from({ length: 1000 }, (_, index) => index).filter((index) => index !== 500),
      );
      assert.ok(all.every((each) => each.error === undefined && !each.duplicate));
      const rows = await readAll(service.databaseUrl);
      assert.deepEqual(
        rows.map((row) => row.payload),
        all.map((each) => `m${each.index}`),
      );
    } finally {
      await db.destroy();
      await service.stop();
    }
  });

  test('batch messages above a rate limit wait and are sent later', async () => {
    const rates = { caller: [], sender: [{ points: 40, seconds: 1 }], channel: [], store: 'memory' as const };
    const service = await startService({ rates });
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    try {
      const { batch } = await client.submitBatch({ messages: drafts('rated', 100) });
      const seen: string[] = [];
      for await (const { batch: now } of client.watchBatch({ batchId: batch?.batchId ?? '' }))
        if (now?.lastError) seen.push(reasonOf(now.lastError) ?? '');
      assert.ok(seen.length > 0 && seen.every((each) => each === 'RATE_LIMITED'), seen.join());
      const end = (await client.getBatch({ batchId: batch?.batchId ?? '' })).batch as Batch;
      assert.deepEqual([end.state, ...counts(end)], [BatchState.COMPLETED, 100, 0, 0]);
      assert.deepEqual(
        (await readAll(service.databaseUrl)).map((row) => row.payload),
        Array.from({ length: 100 }, (_, index) => `m${index}`),
      );
    } finally {
      await service.stop();
    }
  });
});
