import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { ChannelType, type MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { type SendBatchRequestSchema, SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../src/limits.ts';
import { type Answer, openClients, type ProtocolClient, type Refused, type Result } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;
type Request = MessageInitShape<typeof SendBatchRequestSchema>;

/** One case over one protocol. `id` names its channels, so that cases are independent. */
interface Scene {
  readonly client: ProtocolClient;
  readonly id: string;
  readonly databaseUrl: string;
  draft(key: string, more?: Draft): Draft;
}

/** Cases that must hold on every protocol. */
const cases: [string, (scene: Scene) => Promise<void>, { rpcOnly?: true }?][] = [
  [
    'SendBatch numbers each channel from 1, in input order',
    async (s) => {
      const other = { channelId: `${s.id}-other` };
      const results = resultsOf(
        await s.client.send({
          messages: [s.draft('1'), s.draft('1', other), s.draft('2'), s.draft('3'), s.draft('2', other)],
        }),
      );
      assert.deepEqual(seqs(results), [1, 1, 2, 3, 2]);
      assert.equal(new Set(results.map((each) => each.messageId)).size, 5);
      for (const { messageId } of results) assert.ok(messageId > 0 && Number.isSafeInteger(messageId));
      assert.deepEqual(seqs(resultsOf(await s.client.send({ messages: [s.draft('4')] }))), [4]);
    },
  ],
  [
    'SendBatch numbers both directions of a person channel in one sequence',
    async (s) => {
      const [a, b] = [`a-${s.id}`, `b-${s.id}`];
      const to = (fromUid: string, channelId: string, key: string): Draft =>
        s.draft(key, { fromUid, channelId, channelType: 1 });
      assert.deepEqual(
        seqs(
          resultsOf(
            await s.client.send({
              messages: [to(a, b, '1'), to(b, a, '2'), to(a, `${a}@${b}`, '3'), to(b, `${a}@${b}`, '4')],
            }),
          ),
        ),
        [1, 2, 3, 4],
      );
    },
  ],
  [
    'SendBatch answers a retry with the first numbers and duplicate',
    async (s) => {
      const messages = [s.draft('1'), s.draft('2')];
      const first = resultsOf(await s.client.send({ messages }));
      const second = resultsOf(await s.client.send({ messages: [...messages, s.draft('3')] }));
      assert.deepEqual(
        second.map((each) => each.duplicate),
        [true, true, false],
      );
      assert.deepEqual(
        second.slice(0, 2).map((each) => [each.messageId, each.messageSeq]),
        first.map((each) => [each.messageId, each.messageSeq]),
      );
      assert.deepEqual(seqs(second), [1, 2, 3]);
    },
  ],
  [
    'SendBatch refuses only the message whose key was used for other content',
    async (s) => {
      await s.client.send({ messages: [s.draft('1'), s.draft('2')] });
      for (const change of [
        { payload: bytes('other') },
        { expire: 9 },
        { tagKey: 't' },
        { header: { redDot: 1 } },
        { subscribers: ['x'] },
        { streamNo: 's' },
      ]) {
        const [refused, sibling] = resultsOf(
          await s.client.send({ messages: [s.draft('2', change), s.draft(`sibling ${JSON.stringify(change)}`)] }),
        );
        assert.equal(refused?.refused?.code, 'AlreadyExists');
        assert.equal(refused?.refused?.reason, 'CLIENT_MSG_NO_REUSED');
        assert.equal(refused?.refused?.metadata.message_seq, '2');
        assert.equal(refused?.messageSeq, 0);
        assert.equal(sibling?.refused, undefined);
      }
    },
  ],
  [
    'SendBatch gives equal messages with one key the same answer and refuses unequal ones',
    async (s) => {
      const results = resultsOf(
        await s.client.send({
          messages: [s.draft('1'), s.draft('1'), s.draft('1', { payload: bytes('x') }), s.draft('2')],
        }),
      );
      assert.deepEqual(
        results.map((each) => each.refused?.reason ?? each.messageSeq),
        [1, 1, 'CLIENT_MSG_NO_REUSED', 2],
      );
      assert.deepEqual(
        results.map((each) => each.duplicate),
        [false, true, false, false],
      );
    },
  ],
  [
    'SendBatch generates missing keys and returns every key',
    async (s) => {
      const [generated, own] = resultsOf(await s.client.send({ messages: [s.draft(''), s.draft('own')] }));
      assert.match(generated?.clientMsgNo ?? '', /^[0-9a-f-]{36}$/);
      assert.equal(own?.clientMsgNo, 'own');
    },
  ],
  [
    'SendBatch recognizes the retry of a whole batch by request_id',
    async (s) => {
      const request: Request = { requestId: s.id, messages: [s.draft(''), s.draft('own'), s.draft('')] };
      const first = resultsOf(await s.client.send(request));
      assert.deepEqual(
        first.map((each) => each.clientMsgNo),
        [`${s.id}:0`, 'own', `${s.id}:2`],
      );
      const second = resultsOf(await s.client.send(request));
      assert.deepEqual(
        second.map((each) => [each.messageId, each.duplicate]),
        first.map((each) => [each.messageId, true]),
      );
    },
  ],
  [
    'SendBatch accepts Idempotency-Key as request_id, quoted or not',
    async (s) => {
      const messages = [s.draft('')];
      const [first] = resultsOf(await s.client.send({ messages }, { headers: { 'idempotency-key': s.id } }));
      const [second] = resultsOf(await s.client.send({ messages }, { headers: { 'idempotency-key': `"${s.id}"` } }));
      const [third] = resultsOf(
        await s.client.send({ messages, requestId: s.id }, { headers: { 'idempotency-key': s.id } }),
      );
      assert.equal(first?.clientMsgNo, `${s.id}:0`);
      assert.deepEqual([second?.messageId, third?.messageId], [first?.messageId, first?.messageId]);
      assert.deepEqual(
        refusalOf(await s.client.send({ messages, requestId: 'other' }, { headers: { 'idempotency-key': s.id } }))
          .fields,
        ['request_id'],
      );
      assert.deepEqual(
        refusalOf(await s.client.send({ messages }, { headers: { 'idempotency-key': 'k'.repeat(121) } })).fields,
        ['Idempotency-Key'],
      );
    },
  ],
  [
    'SendBatch refuses an ATOMIC batch as a whole and names every refusal',
    async (s) => {
      await s.client.send({ messages: [s.draft('1')] });
      const conflict = { payload: bytes('x') };
      const refused = refusalOf(
        await s.client.send({
          mode: SendMode.ATOMIC,
          messages: [s.draft('2'), s.draft('1', conflict), s.draft('3'), s.draft('1', conflict)],
        }),
      );
      assert.equal(refused.code, 'AlreadyExists');
      assert.equal(refused.reason, 'CLIENT_MSG_NO_REUSED');
      assert.deepEqual(refused.fields, ['messages[1]', 'messages[3]']);
      assert.deepEqual(
        seqs(resultsOf(await s.client.send({ mode: SendMode.ATOMIC, messages: [s.draft('2'), s.draft('1')] }))),
        [2, 1],
      );
    },
  ],
  [
    'SendBatch with validate_only has no effect',
    async (s) => {
      await s.client.send({ messages: [s.draft('1')] });
      const messages = [
        s.draft('1'),
        s.draft('2'),
        s.draft('1', { payload: bytes('x') }),
        s.draft('1', { channelId: `${s.id}-unknown` }),
      ];
      const results = resultsOf(await s.client.send({ validateOnly: true, messages }));
      assert.deepEqual(
        results.map((each) => each.refused?.reason ?? [each.messageSeq, each.duplicate]),
        [[1, true], [0, false], 'CLIENT_MSG_NO_REUSED', [0, false]],
      );
      assert.equal(
        refusalOf(await s.client.send({ validateOnly: true, mode: SendMode.ATOMIC, messages })).reason,
        'CLIENT_MSG_NO_REUSED',
      );
      assert.equal(results[1]?.messageId, 0);
      assert.deepEqual(seqs(resultsOf(await s.client.send({ messages: [s.draft('2')] }))), [2]);
    },
  ],
  [
    'SendBatch checks the expected last sequence of a channel',
    async (s) => {
      const expect = (lastSeq: bigint, channelId = s.id) => [{ channelId, channelType: ChannelType.GROUP, lastSeq }];
      assert.deepEqual(
        seqs(resultsOf(await s.client.send({ messages: [s.draft('1')], expectedLastSeqs: expect(0n) }))),
        [1],
      );
      const [late, other] = resultsOf(
        await s.client.send({
          messages: [s.draft('2'), s.draft('2', { channelId: `${s.id}-b` })],
          expectedLastSeqs: expect(0n),
        }),
      );
      assert.equal(late?.refused?.code, 'Aborted');
      assert.equal(late?.refused?.reason, 'SEQ_MISMATCH');
      assert.equal(late?.refused?.metadata.actual, '1');
      assert.equal(other?.messageSeq, 1);
      // A retry of a stored batch is answered although its condition no longer holds.
      assert.equal(
        resultsOf(await s.client.send({ messages: [s.draft('1')], expectedLastSeqs: expect(0n) }))[0]?.duplicate,
        true,
      );
      assert.equal(
        refusalOf(
          await s.client.send({ mode: SendMode.ATOMIC, messages: [s.draft('3')], expectedLastSeqs: expect(7n) }),
        ).reason,
        'SEQ_MISMATCH',
      );
      assert.deepEqual(
        refusalOf(await s.client.send({ messages: [s.draft('3')], expectedLastSeqs: expect(0n, 'nobody') })).fields,
        ['expected_last_seqs[0].channel_id'],
      );
      assert.deepEqual(
        refusalOf(await s.client.send({ messages: [s.draft('3')], expectedLastSeqs: [...expect(1n), ...expect(1n)] }))
          .fields,
        ['expected_last_seqs[1].channel_id'],
      );
    },
    { rpcOnly: true },
  ],
  [
    'SendBatch numbers commands separately from messages',
    async (s) => {
      const syncOnce = { header: { syncOnce: 1 } };
      assert.deepEqual(
        seqs(
          resultsOf(
            await s.client.send({
              messages: [s.draft('1'), s.draft('1', syncOnce), s.draft('2', syncOnce), s.draft('2')],
            }),
          ),
        ),
        [1, 1, 2, 2],
      );
    },
  ],
  [
    'SendBatch sends a command to receivers without a channel',
    async (s) => {
      const command = (key: string, subscribers: string[]) =>
        s.draft(key, { channelId: '', channelType: 0, header: { syncOnce: 1 }, subscribers });
      const results = resultsOf(
        await s.client.send({ messages: [command('1', [s.id, 'b']), command('2', ['b', s.id]), command('1', [s.id])] }),
      );
      assert.deepEqual(seqs(results), [1, 2, 1]);
      assert.deepEqual(
        refusalOf(await s.client.send({ messages: [s.draft('1', { channelId: '', subscribers: ['a'] })] })).fields,
        ['messages[0].channel_id'],
      );
    },
  ],
  [
    'SendBatch does not store a no_persist message',
    async (s) => {
      const [gone, kept] = resultsOf(
        await s.client.send({ messages: [s.draft('1', { header: { noPersist: 1 } }), s.draft('2')] }),
      );
      assert.ok((gone?.messageId ?? 0) > 0);
      assert.deepEqual([gone?.messageSeq, kept?.messageSeq], [0, 1]);
      assert.deepEqual(
        (await readAll(s.databaseUrl)).filter((row) => row.channel === s.id).map((row) => row.key),
        ['2'],
      );
    },
  ],
  [
    'SendBatch accepts every field at its limit',
    async (s) => {
      const wide = '界'.repeat(85); // 255 bytes
      const draft = s.draft('k'.repeat(128), {
        fromUid: wide,
        channelId: `${s.id}-`.padEnd(256, 'c'),
        payload: new Uint8Array(limits.payloadBytes),
        streamNo: 's'.repeat(128),
        tagKey: 't'.repeat(128),
        expire: 4294967295,
        subscribers: [wide],
      });
      assert.deepEqual(seqs(resultsOf(await s.client.send({ messages: [draft] }))), [1]);
    },
  ],
  [
    'SendBatch refuses an empty batch',
    async (s) => {
      const refused = refusalOf(await s.client.send({ messages: [] }));
      assert.deepEqual(
        [refused.code, refused.reason, refused.fields],
        ['InvalidArgument', 'EMPTY_BATCH', ['messages']],
      );
    },
  ],
  [
    'SendBatch accepts 1,000 messages and refuses 1,001 with limit and actual',
    async (s) => {
      const many = Array.from({ length: limits.batchMessages + 1 }, (_, index) =>
        s.draft(`${index}`, { channelId: `${s.id}-${index}` }),
      );
      assert.equal(resultsOf(await s.client.send({ messages: many.slice(1) })).length, limits.batchMessages);
      const refused = refusalOf(await s.client.send({ messages: many }));
      assert.deepEqual([refused.code, refused.reason], ['InvalidArgument', 'BATCH_TOO_LARGE']);
      assert.deepEqual(refused.metadata, { field: 'messages', limit: '1000', actual: '1001' });
    },
  ],
  [
    'SendBatch refuses a payload of 65,537 bytes with limit and actual',
    async (s) => {
      const refused = refusalOf(
        await s.client.send({
          messages: [s.draft('1'), s.draft('2', { payload: new Uint8Array(limits.payloadBytes + 1) })],
        }),
      );
      assert.deepEqual(
        [refused.code, refused.reason, refused.fields],
        ['InvalidArgument', 'PAYLOAD_TOO_LARGE', ['messages[1].payload']],
      );
      assert.deepEqual(refused.metadata, { field: 'messages[1].payload', limit: '65536', actual: '65537' });
    },
  ],
  [
    'SendBatch names every invalid field and stores nothing',
    async (s) => {
      const bad: [string, Draft][] = [
        ['from_uid', { fromUid: '' }],
        ['from_uid', { fromUid: '界'.repeat(86) }],
        ['from_uid', { fromUid: 'a\0b' }],
        ['from_uid', { fromUid: 'a@b', channelType: 1 }],
        ['channel_id', { channelId: '' }],
        ['channel_id', { channelId: 'c'.repeat(257) }],
        ['channel_id', { channelId: 'a@b' }],
        ['channel_id', { channelId: 'a#b' }],
        ['channel_id', { channelId: 'a&b' }],
        ['channel_id', { channelId: 'a\0b' }],
        ['channel_id', { channelId: 'x@y', channelType: 1 }],
        ['channel_id', { channelId: 'u1@', channelType: 1 }],
        ['channel_id', { channelId: 'u1@b@c', channelType: 1 }],
        ['channel_type', { channelType: 0 }],
        ['channel_type', { channelType: 13 as ChannelType }],
        ['client_msg_no', { clientMsgNo: 'k'.repeat(129) }],
        ['client_msg_no', { clientMsgNo: '\0' }],
        ['payload', { payload: new Uint8Array() }],
        ['header.red_dot', { header: { redDot: 2 } }],
        ['header.no_persist', { header: { noPersist: 7 } }],
        ['stream_no', { streamNo: 's'.repeat(129) }],
        ['tag_key', { tagKey: 't'.repeat(129) }],
        ['subscribers[1]', { subscribers: ['a', ''] }],
      ];
      const refused = refusalOf(
        await s.client.send({
          messages: [s.draft('good'), ...bad.map(([, change], index) => s.draft(`${index}`, change))],
        }),
      );
      assert.deepEqual([refused.code, refused.reason], ['InvalidArgument', 'INVALID_FIELD']);
      for (const [index, [field]] of bad.entries())
        assert.ok(
          refused.fields.includes(`messages[${index + 1}].${field}`),
          `messages[${index + 1}].${field} of ${refused.fields.join(' ')}`,
        );
      assert.ok(!refused.fields.some((field) => field.startsWith('messages[0]')));
      assert.deepEqual(seqs(resultsOf(await s.client.send({ messages: [s.draft('first')] }))), [1]);
    },
  ],
  [
    'SendBatch ends a call at its deadline and states that a retry is safe',
    async (s) => {
      const messages = Array.from({ length: 1000 }, (_, index) => s.draft(`${index}`));
      const answer = await s.client.send({ messages }, { timeoutMs: 1 });
      // The client itself may time out first; then there is no text of the service.
      assert.equal(refusalOf(answer).code, 'DeadlineExceeded');
      const results = resultsOf(await s.client.send({ messages }));
      assert.deepEqual(
        seqs(results),
        messages.map((_, index) => index + 1),
      );
    },
  ],
];

/** Group commit must be invisible: the same suite runs with and without it. */
for (const lanes of [4, 0]) {
  describe(lanes > 0 ? 'SendBatch with group commit' : 'SendBatch with one transaction per batch', () => {
    let service: TestService;
    let clients: ProtocolClient[] = [];
    before(async () => {
      service = await startService({ lanes });
      clients = openClients(service.url);
    });
    after(async () => {
      for (const client of clients) client.close();
      await assertSound(service.databaseUrl);
      await service.stop();
    });

    const names = ['gRPC, connect-node', 'gRPC, grpc-js', 'gRPC-Web', 'Connect, binary', 'Connect, JSON', 'JSON route'];
    for (const [number, [what, run, options]] of cases.entries()) {
      for (const [index, name] of names.entries()) {
        if (options?.rpcOnly && name === 'JSON route') continue;
        test(`${what} (${name})`, async () => {
          const client = clients[index];
          assert.equal(client?.name, name);
          const id = `case${number}-${index}`;
          const draft = (clientMsgNo: string, more: Draft = {}): Draft => ({
            clientMsgNo,
            fromUid: 'u1',
            channelId: id,
            channelType: 2,
            payload: bytes('hello'),
            ...more,
          });
          await run({ client, id, databaseUrl: service.databaseUrl, draft });
        });
      }
    }
  });
}

function bytes(text: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(text));
}
function resultsOf(answer: Answer): Result[] {
  assert.ok('results' in answer, JSON.stringify(answer));
  return answer.results;
}
function refusalOf(answer: Answer): Refused {
  assert.ok('refused' in answer, JSON.stringify(answer));
  return answer.refused;
}
const seqs = (results: Result[]) =>
  results.map((each) => (each.refused === undefined ? each.messageSeq : each.refused.reason));
