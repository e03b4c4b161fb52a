import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { gzipSync } from 'node:zlib';
import { create, type JsonValue, type MessageInitShape, toBinary, toJson } from '@bufbuild/protobuf';
import { SubmitBatchRequestSchema } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { AddMembersRequestSchema } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import type { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendBatchRequestSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { startService, type TestService } from '../support/service.ts';
import { watchStalls } from '../support/stalls.ts';

const mebi = 1024 * 1024;
const most = 16 * mebi;
/** Excludes the body of the client in this process and its copies. */
const mostGrownBytes = 64 * mebi + 3 * most;

let service: TestService;
let collectGarbage: () => void;
before(async () => {
  service = await startService();
  setFlagsFromString('--expose-gc');
  collectGarbage = runInNewContext('gc');
});
after(() => service.stop());

const frame = (bytes: Uint8Array, packed = false) => {
  const head = Buffer.alloc(5);
  head.writeUInt8(packed ? 1 : 0);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
};
const repeated = (one: string | Buffer, bytes = most - 1024) => {
  const unit = Buffer.from(one);
  return Buffer.alloc(Math.floor(bytes / unit.length) * unit.length, unit);
};
const json = (element: string, bytes = most - 1024) =>
  Buffer.concat([Buffer.from('['), repeated(`${element},`, bytes), Buffer.from(element), Buffer.from(']')]);
const inMessages = (list: Buffer) => Buffer.concat([Buffer.from('{"messages":'), list, Buffer.from('}')]);
/**
 * Most CPU time in ms of one event-loop iteration, so that other load does not count. Scaled on
 * machines slower than 50 ms per 64 MiB scan; twice 100 ms, for garbage collection and cold code.
 */
const mostStallMs = () => 2 * 100 * Math.max(1, slowness);
const slowness = (() => {
  const bytes = new Uint8Array(64 * mebi);
  const since = process.threadCpuUsage().user;
  let sum = 0;
  for (let index = 0; index < bytes.length; index++) sum += bytes[index] as number;
  assert.equal(sum, 0);
  return (process.threadCpuUsage().user - since) / 1e3 / 50;
})();
const varint = (n: number): Buffer => Buffer.from(n < 128 ? [n] : [(n & 127) | 128, ...varint(n >>> 7)]);
const field = (number: number, bytes: Buffer) =>
  Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);

type Drafts = MessageInitShape<typeof MessageDraftSchema>[];
const drafts = (count: number, payload: Buffer, more: object = {}): Drafts =>
  Array.from({ length: count }, (_, index) => ({
    channelId: `c${index % 100}`,
    channelType: 2,
    fromUid: 'user1',
    clientMsgNo: `key-${index}`,
    payload,
    ...more,
  }));
const batch = (messages: Drafts) => create(SendBatchRequestSchema, { messages });
const binary = (messages: Drafts) => Buffer.from(toBinary(SendBatchRequestSchema, batch(messages)));
const text = (messages: Drafts, protoNames = false) =>
  Buffer.from(
    JSON.stringify(
      (toJson(SendBatchRequestSchema, batch(messages), { useProtoFieldName: protoNames }) as { messages: JsonValue })
        .messages,
    ),
  );
const full = drafts(1000, Buffer.alloc(16_000, 'x'));
const submit = Buffer.from(
  toBinary(
    SubmitBatchRequestSchema,
    create(SubmitBatchRequestSchema, { messages: drafts(100_000, Buffer.from('hello')) }),
  ),
);

const sendBatch = '/sendbatch.v1.MessageService/SendBatch';
const submitBatch = '/sendbatch.v1.BatchService/SubmitBatch';
const submitBatchStream = '/sendbatch.v1.BatchService/SubmitBatchStream';
const moderation = '/sendbatch.v1.ModerationService';
const proto = { 'content-type': 'application/proto' };
const connectJson = { 'content-type': 'application/json' };
const grpcWeb = { 'content-type': 'application/grpc-web+proto' };
const gz = { 'content-encoding': 'gzip' };

const rows: [string, string, () => Buffer, Record<string, string>][] = [
  ['empty messages, Connect', sendBatch, () => repeated(Buffer.from([10, 0])), proto],
  ['empty messages, gRPC-Web', sendBatch, () => frame(repeated(Buffer.from([10, 0]))), grpcWeb],
  [
    'empty messages in gzip, gRPC-Web',
    sendBatch,
    () => frame(gzipSync(repeated(Buffer.from([10, 0]))), true),
    { ...grpcWeb, 'grpc-encoding': 'gzip' },
  ],
  ['empty messages in gzip, Connect', sendBatch, () => gzipSync(repeated(Buffer.from([10, 0]))), { ...proto, ...gz }],
  ['unknown fields, Connect', sendBatch, () => repeated(Buffer.from([0x78, 1])), proto],
  ['subscribers, Connect', sendBatch, () => field(1, repeated(Buffer.from([0x42, 1, 0x61]))), proto],
  [
    'subscribers under the limit, Connect',
    sendBatch,
    () => Buffer.concat(Array.from({ length: 200 }, () => field(1, repeated(Buffer.from('\x42\x06abcdef'), 80_000)))),
    proto,
  ],
  [
    'variables, Connect',
    sendBatch,
    () =>
      field(
        1,
        field(
          11,
          field(3, repeated(field(1, Buffer.concat([field(1, Buffer.from('key')), field(2, Buffer.from([8, 0]))])))),
        ),
      ),
    proto,
  ],
  ['empty messages, Connect JSON', sendBatch, () => inMessages(json('{}')), connectJson],
  ['numbers, Connect JSON', sendBatch, () => inMessages(json('1')), connectJson],
  ['empty objects, JSON route', '/message/sendbatch', () => json('{}'), {}],
  ['empty objects in gzip, JSON route', '/message/sendbatch', () => gzipSync(json('{}')), gz],
  ['empty arrays, JSON route', '/message/sendbatch', () => json('[]'), {}],
  ['brackets, JSON route', '/message/sendbatch', () => repeated('['), {}],
  ['one number, JSON route', '/message/sendbatch', () => Buffer.from(`[{"channel_type":${'9'.repeat(15 << 20)}}]`), {}],
  [
    'a broadcast, JSON route',
    '/message/sendbatch',
    () => Buffer.concat([Buffer.from('{"subscribers":'), json('"u1"'), Buffer.from('}')]),
    {},
  ],
  [
    'quotes, JSON route',
    '/message/sendbatch',
    () => Buffer.concat([Buffer.from('["'), repeated('\\"'), Buffer.from('"]')]),
    {},
  ],
  [
    'keys, JSON route',
    '/message/send',
    () =>
      Buffer.concat([
        Buffer.from('{"a":1'),
        Buffer.from(Array.from({ length: 1_300_000 }, (_, i) => `,"k${i}":1`).join('')),
        Buffer.from('}'),
      ]),
    {},
  ],
  [
    'invalid messages, JSON route',
    '/message/sendbatch',
    () =>
      Buffer.from(
        `[${Array.from({ length: 1000 }, () => '{"channel_type":99,"from_uid":5,"payload":"*"}').join(',')}]`,
      ),
    {},
  ],
  [
    'invalid messages, Connect',
    sendBatch,
    () => binary(drafts(1000, Buffer.alloc(0), { channelId: 'a#b@c', fromUid: '' })),
    proto,
  ],
  [
    'invalid receivers, Connect',
    sendBatch,
    () => Buffer.concat(Array.from({ length: 150 }, () => field(1, Buffer.alloc(20_000, Buffer.from([0x42, 0]))))),
    proto,
  ],
  [
    'invalid uids, Connect',
    '/sendbatch.v1.ChannelService/AddMembers',
    () =>
      Buffer.concat([
        Buffer.from('0a0167', 'hex'),
        Buffer.from([0x10, 2]),
        Buffer.alloc(190_000, Buffer.from([0x1a, 0])),
      ]),
    proto,
  ],
  ['short messages under 64 KiB, JSON route', '/message/sendbatch', () => json('{}', 60_000), {}],
  ['empty messages under 8 KiB, Connect', sendBatch, () => repeated(Buffer.from([10, 0]), 8000), proto],
  ['a line of spaces, NDJSON', '/v1/batches', () => repeated(' '), { 'content-type': 'application/x-ndjson' }],
  ['a line of numbers, NDJSON', '/v1/batches', () => json('1'), { 'content-type': 'application/x-ndjson' }],
  [
    'channels, a stream of Connect',
    '/sendbatch.v1.MessageService/Subscribe',
    () => frame(repeated(Buffer.from([10, 0]))),
    { 'content-type': 'application/connect+proto' },
  ],
  [
    'channels, a stream of Connect JSON',
    '/sendbatch.v1.MessageService/Subscribe',
    () => frame(Buffer.concat([Buffer.from('{"channels":'), json('{}'), Buffer.from('}')])),
    { 'content-type': 'application/connect+json' },
  ],
  [
    'empty frames, a stream of Connect',
    submitBatchStream,
    () => repeated(Buffer.alloc(5)),
    { 'content-type': 'application/connect+proto' },
  ],
  [
    'empty frames, a stream of Connect JSON',
    submitBatchStream,
    () => repeated(frame(Buffer.from('{}'))),
    { 'content-type': 'application/connect+json' },
  ],
  ['white space, JSON route', '/message/send', () => Buffer.from(`{"expire":${' '.repeat(most - 1024)}1}`), {}],
  ['a page token, Connect', `${moderation}/ListRules`, () => field(2, repeated('a')), proto],
  ['a note, Connect', `${moderation}/CreateRule`, () => field(1, field(7, repeated('a'))), proto],
  ['numbers, Connect', `${moderation}/ReviewFlagged`, () => field(1, repeated(Buffer.from([1]))), proto],
  ['1000 messages of 16 kB, Connect', sendBatch, () => binary(full), proto],
  ['1000 messages of 16 kB, gRPC-Web', sendBatch, () => frame(binary(full)), grpcWeb],
  ['760 messages of 16 kB, Connect JSON', sendBatch, () => inMessages(text(full.slice(0, 760))), connectJson],
  ['760 messages of 16 kB, JSON route', '/message/sendbatch', () => text(full.slice(0, 760), true), {}],
  ['100,000 messages to submit, Connect', submitBatch, () => submit, proto],
  [
    '100,000 uids, Connect',
    '/sendbatch.v1.ChannelService/AddMembers',
    () =>
      Buffer.from(
        toBinary(
          AddMembersRequestSchema,
          create(AddMembersRequestSchema, {
            channelId: 'g',
            channelType: 2,
            subscribers: Array.from({ length: 100_000 }, (_, i) => `user-${i}`),
          }),
        ),
      ),
    proto,
  ],
];

describe('a single large request', () => {
  for (const [what, path, body, headers] of rows) {
    test(`one request does not stall the event loop: ${what}`, async (context) => {
      const bytes = new Uint8Array(body());
      // What other work leaves behind only adds to the memory that is seen, so the least of up to
      // three tries is the request's own.
      let grownBytes = Number.POSITIVE_INFINITY;
      for (let tries = 0; tries < 3 && grownBytes >= mostGrownBytes; tries++) {
        collectGarbage();
        const before = process.memoryUsage().rss;
        let peak = before;
        const stalls = watchStalls();
        const watching = setInterval(() => {
          peak = Math.max(peak, process.memoryUsage().rss);
        }, 5);
        const since = performance.now();
        const response = await fetch(service.url + path, { method: 'POST', body: bytes, headers });
        const answer = Buffer.from(await response.arrayBuffer()).toString('latin1');
        clearInterval(watching);
        const longestMs = stalls();
        grownBytes = Math.min(grownBytes, peak - before);
        context.diagnostic(
          `${what}: ${response.status} ${(performance.now() - since).toFixed(0)} ms, stall ${longestMs.toFixed(0)} ms, +${((peak - before) / mebi).toFixed(0)} MB of ${(bytes.length / mebi).toFixed(1)}: ${answer.slice(0, 160)}`,
        );
        assert.ok(response.status < 500, answer.slice(0, 500));
        assert.ok(longestMs < mostStallMs(), `${longestMs.toFixed(0)} ms of the event loop in one turn`);
      }
      assert.ok(grownBytes < mostGrownBytes, `${(grownBytes / mebi).toFixed(0)} MB`);
    });
  }
});
