import assert from 'node:assert/strict';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import * as grpc from '@grpc/grpc-js';
import fc from 'fast-check';
import { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import {
  SendBatchRequestSchema,
  SendRequestSchema,
  SendResponseSchema,
  SubscribeRequestSchema,
} from '../../gen/sendbatch/v1/message_service_pb.ts';
import { encodeGrpcMessage } from '../../src/server/grpc-message.ts';
import { startService, type TestService } from '../support/service.ts';
import { draftTo } from '../support/watch.ts';

interface Answer {
  /** First block of headers. */
  readonly headers: http2.IncomingHttpHeaders;
  readonly isTrailersOnly: boolean;
  readonly body: Buffer;
  readonly trailers: http2.IncomingHttpHeaders;
}

/** Sends one HTTP/2 request and returns its answer as it was on the wire. */
async function sendRaw(url: string, headers: http2.OutgoingHttpHeaders, body: Uint8Array): Promise<Answer> {
  const session = http2.connect(url);
  try {
    return await new Promise((resolve, reject) => {
      const stream = session.request({ ':method': 'POST', 'content-type': 'application/grpc', ...headers });
      let first: http2.IncomingHttpHeaders = {};
      let isTrailersOnly = false;
      let trailers: http2.IncomingHttpHeaders = {};
      const chunks: Buffer[] = [];
      stream.on('response', (found, flags) => {
        first = found;
        isTrailersOnly = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      });
      stream.on('trailers', (found) => (trailers = found));
      stream.on('data', (chunk) => chunks.push(chunk));
      stream.setTimeout(20_000, () => stream.destroy(new Error('no answer within 20 s')));
      stream.on('error', reject);
      stream.on('close', () => resolve({ headers: first, isTrailersOnly, body: Buffer.concat(chunks), trailers }));
      stream.end(body);
    });
  } finally {
    session.close();
  }
}

function envelopeOf<D extends DescMessage>(schema: D, init: MessageInitShape<D>): Uint8Array {
  return encodeEnvelope(0, toBinary(schema, create(schema, init)));
}

const service = '/sendbatch.v1.MessageService';
const oneMessage = envelopeOf(SendBatchRequestSchema, { messages: [draftTo('a', '1')] });
const packed = gzipSync(toBinary(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages: [] })));

describe('a gRPC error before the first message', () => {
  let running: TestService;
  before(async () => {
    running = await startService({
      rates: { caller: [], sender: [{ points: 1, seconds: 1 }], channel: [], store: 'memory' },
    });
  });
  after(() => running.stop());

  const rows: [what: string, headers: http2.OutgoingHttpHeaders, body: Uint8Array, status: grpc.status][] = [
    ['a unary call', { ':path': `${service}/SendBatch` }, envelopeOf(SendBatchRequestSchema, {}), 3],
    [
      'a unary call with a compressed request',
      { ':path': `${service}/SendBatch`, 'grpc-encoding': 'gzip' },
      encodeEnvelope(1, packed),
      3,
    ],
    [
      'a unary call in JSON',
      { ':path': `${service}/SendBatch`, 'content-type': 'application/grpc+json' },
      encodeEnvelope(0, Buffer.from('{}')),
      3,
    ],
    ['a server stream', { ':path': `${service}/Subscribe` }, envelopeOf(SubscribeRequestSchema, {}), 3],
    ['a client stream', { ':path': '/sendbatch.v1.BatchService/SubmitBatchStream' }, new Uint8Array(), 3],
    ['a flag that gRPC does not define', { ':path': `${service}/SendBatch` }, encodeEnvelope(128, new Uint8Array()), 3],
    ['an unknown compression', { ':path': `${service}/SendBatch`, 'grpc-encoding': 'br2' }, oneMessage, 12],
    ['a method that does not exist', { ':path': `${service}/Sned` }, oneMessage, 12],
    ['a foreign Host', { ':path': `${service}/SendBatch`, ':authority': 'evil.example' }, oneMessage, 7],
    ['a foreign Origin', { ':path': `${service}/SendBatch`, origin: 'https://evil.example' }, oneMessage, 7],
  ];
  for (const [what, headers, body, status] of rows) {
    test(`a gRPC error before the first message is one block of headers that ends the stream: ${what}`, async () => {
      const answer = await sendRaw(running.url, headers, body);
      assert.deepEqual(
        [answer.headers[':status'], answer.headers['grpc-status'], answer.isTrailersOnly, answer.body.length],
        [200, String(status), true, 0],
        JSON.stringify(answer.headers),
      );
      assert.match(String(answer.headers['content-type']), /^application\/grpc/);
      assert.notEqual(decodeURIComponent(String(answer.headers['grpc-message'])), '');
      assert.deepEqual(answer.trailers, {});
    });
  }

  test('a successful gRPC answer keeps headers, messages and trailers apart', async () => {
    const ofBothWays = [{}, { 'grpc-encoding': 'gzip' }];
    for (const more of ofBothWays) {
      const answer = await sendRaw(
        running.url,
        { ':path': `${service}/GetServerInfo`, ...more },
        encodeEnvelope(0, new Uint8Array()),
      );
      assert.deepEqual(
        [answer.isTrailersOnly, answer.headers['grpc-status'], answer.trailers['grpc-status']],
        [false, undefined, '0'],
      );
      assert.ok(answer.body.length > 5);
    }
  });

  const forms: [what: string, type: string, path: string, read: (answer: Answer) => unknown, wanted: unknown][] = [
    ['gRPC-Web', 'application/grpc-web+proto', `${service}/Send`, ({ headers }) => headers['grpc-status'], '7'],
    [
      'Connect',
      'application/proto',
      `${service}/Send`,
      ({ body }) => JSON.parse(body.toString()).code,
      'permission_denied',
    ],
    [
      'a stream of Connect',
      'application/connect+proto',
      `${service}/Subscribe`,
      ({ body }) => [body[0], JSON.parse(body.subarray(5).toString()).error.code],
      [2, 'permission_denied'],
    ],
    [
      'JSON',
      'application/json',
      '/message/send',
      ({ body }) => JSON.parse(body.toString()).error.status,
      'PERMISSION_DENIED',
    ],
  ];
  for (const [what, type, path, read, wanted] of forms) {
    test(`a foreign Host is refused in the error format of ${what}`, async () => {
      const answer = await sendRaw(
        running.url,
        { ':path': path, ':authority': 'evil.example', 'content-type': type },
        oneMessage,
      );
      assert.deepEqual(read(answer), wanted);
      assert.equal(answer.headers[':status'], /grpc|connect\+/.test(type) ? 200 : 403);
    });
  }

  test('gRPC clients read the text of an error exactly as it was written', async () => {
    const client = new grpc.Client(new URL(running.url).host, grpc.credentials.createInsecure());
    const detailsOf = (path: string, body: Uint8Array) =>
      new Promise<string>((resolve) => {
        client.makeUnaryRequest(
          path,
          () => Buffer.from(body),
          (bytes) => bytes,
          undefined,
          (error) => resolve(error?.details ?? 'no error'),
        );
      });
    const empty = await detailsOf(`${service}/SendBatch`, new Uint8Array());
    assert.match(empty, /^messages: must have at least one entry/);
    assert.match(
      await detailsOf(`${service}/Nothing`, new Uint8Array()),
      /^POST \/sendbatch\.v1\.MessageService\/Nothing /,
    );
    const stream = client.makeServerStreamRequest(
      `${service}/Subscribe`,
      () => Buffer.alloc(0),
      (bytes) => bytes,
      undefined,
    );
    const failed = await new Promise<grpc.ServiceError>((resolve) => stream.on('error', resolve).resume());
    assert.match(failed.details, /^channels: must have at least one entry, unless/);
    client.close();
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const encoded = encodeGrpcMessage(text);
        assert.match(encoded, /^[\x20-\x7e]*$/);
        assert.equal(decodeURIComponent(encoded), Buffer.from(text).toString());
      }),
    );
  });

  test('the retry policy of a gRPC client retries an error after the time that the service returns', async () => {
    const policy = {
      methodConfig: [
        {
          name: [{ service: 'sendbatch.v1.MessageService' }],
          retryPolicy: {
            maxAttempts: 5,
            initialBackoff: '0.01s',
            maxBackoff: '0.01s',
            backoffMultiplier: 1,
            retryableStatusCodes: ['RESOURCE_EXHAUSTED', 'UNAVAILABLE'],
          },
        },
      ],
    };
    const client = new grpc.Client(new URL(running.url).host, grpc.credentials.createInsecure(), {
      'grpc.service_config': JSON.stringify(policy),
    });
    const send = (key: string) =>
      new Promise<number>((resolve, reject) => {
        client.makeUnaryRequest(
          `${service}/Send`,
          (draft: ReturnType<typeof draftTo>) =>
            Buffer.from(
              toBinary(SendRequestSchema, create(SendRequestSchema, { message: create(MessageDraftSchema, draft) })),
            ),
          (bytes: Buffer) => fromBinary(SendResponseSchema, bytes),
          draftTo('retried', key),
          (error, response) => (error ? reject(error) : resolve(Number(response?.messageSeq ?? 0))),
        );
      });
    assert.deepEqual([await send('1'), await send('2'), await send('3')], [1, 2, 3]);
    client.close();
  });

  test('a retryable gRPC error repeats its RetryInfo as grpc-retry-pushback-ms', async () => {
    const draft = (key: string) =>
      envelopeOf(SendRequestSchema, { message: { ...draftTo('pushed', key), fromUid: 'u2' } });
    const pushed = (key: string) => sendRaw(running.url, { ':path': `${service}/Send` }, draft(key));
    assert.equal((await pushed('1')).trailers['grpc-status'], '0');
    const { headers } = await pushed('2');
    assert.equal(headers['grpc-status'], String(grpc.status.RESOURCE_EXHAUSTED));
    const pushback = Number(headers['grpc-retry-pushback-ms']);
    assert.ok(pushback > 0 && pushback <= 1000 && Number.isInteger(pushback), `${headers['grpc-retry-pushback-ms']}`);
  });
});
