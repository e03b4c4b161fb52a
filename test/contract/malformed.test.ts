import assert from 'node:assert/strict';
import http2 from 'node:http2';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { createClient } from '@connectrpc/connect';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import { createGrpcTransport } from '@connectrpc/connect-node';
import fc from 'fast-check';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';

const path = '/sendbatch.v1.MessageService/SendBatch';
/** Bodies that are not a valid SendBatchRequest. */
const unreadable: [string, Uint8Array][] = [
  ['a length beyond the end', Buffer.from([0x0a, 0x7f, 0x01])],
  ['a string that is not UTF-8', Buffer.from([0x22, 0x02, 0xff, 0xfe])],
  ['a field number 0', Buffer.from([0x00, 0x01])],
  ['JSON', Buffer.from('{"messages":[]}')],
];

describe('unreadable requests', () => {
  let service: TestService;
  let session: http2.ClientHttp2Session;
  before(async () => {
    service = await startService();
    session = http2.connect(service.url);
    session.on('error', () => {});
  });
  after(async () => {
    session.destroy();
    await service.stop();
  });

  /** Returns the error code of an answer in the format of its protocol. */
  const codeOf = (type: string, body: Uint8Array, headers: http2.OutgoingHttpHeaders = {}, method = 'POST') =>
    new Promise<string>((resolve, reject) => {
      const stream = session.request({ ':method': method, ':path': path, 'content-type': type, ...headers });
      let head: http2.IncomingHttpHeaders = {};
      const chunks: Buffer[] = [];
      stream.setTimeout(60_000, () => stream.destroy(new Error('no answer')));
      stream.on('response', (found) => (head = found));
      stream.on('data', (chunk) => chunks.push(chunk));
      stream.on('error', reject);
      stream.on('end', () => {
        const text = Buffer.concat(chunks).toString('latin1');
        const trailer = /grpc-status: (\d+)/.exec(text)?.[1];
        const status = head['grpc-status'] ?? trailer;
        if (status !== undefined) resolve(String(status));
        else resolve(/"code":"?(\w+)/.exec(text)?.[1] ?? `${head[':status']} ${text.slice(0, 100)}`);
      });
      stream.end(body);
    });
  const protocols: [string, (message: Uint8Array) => Promise<string>, string][] = [
    ['gRPC', (message) => codeOf('application/grpc+proto', encodeEnvelope(0, message)), '3'],
    [
      'gRPC, compressed',
      (message) => codeOf('application/grpc+proto', encodeEnvelope(1, gzipSync(message)), { 'grpc-encoding': 'gzip' }),
      '3',
    ],
    ['gRPC-Web', (message) => codeOf('application/grpc-web+proto', encodeEnvelope(0, message)), '3'],
    ['Connect', (message) => codeOf('application/proto', message), 'invalid_argument'],
    [
      'Connect, compressed',
      (message) => codeOf('application/proto', gzipSync(message), { 'content-encoding': 'x-gzip' }),
      'invalid_argument',
    ],
  ];
  for (const [name, codeFor, code] of protocols) {
    for (const [what, message] of unreadable)
      test(`a Protobuf body with ${what} is INVALID_ARGUMENT: ${name}`, async () =>
        assert.equal(await codeFor(message), code));

    test(`random bytes never cause a server error: ${name}`, async (context) => {
      await fc.assert(
        fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), async (bytes) => {
          const found = await codeFor(bytes);
          assert.ok(['0', '3', 'invalid_argument', '200 '].includes(found) || found.startsWith('200'), found);
        }),
        { seed: seedOf(context), numRuns: 40 },
      );
    });
  }

  test('an unreadable message of a Connect GET is INVALID_ARGUMENT', async () => {
    const get = (message: string) =>
      fetch(
        `${service.url}/sendbatch.v1.MessageService/GetServerInfo?connect=v1&encoding=proto&base64=1&message=${message}`,
      );
    const response = await get('CgE');
    assert.deepEqual([response.status, ((await response.json()) as { code: string }).code], [400, 'invalid_argument']);
    assert.equal((await get('')).status, 200);
  });

  test('a repeated Host and a Host that differs from the authority are refused', async () => {
    const socket = net.connect(Number(new URL(service.url).port), '127.0.0.1');
    socket.write('GET /v1/server HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n');
    const chunks: Buffer[] = [];
    for await (const chunk of socket) chunks.push(chunk as Buffer);
    assert.match(Buffer.concat(chunks).toString(), /^HTTP\/1\.1 400 [\s\S]*Host must be sent only once/);
    assert.equal(
      await codeOf('application/json', Buffer.from('{}'), { ':authority': 'localhost', host: 'evil.example' }),
      'invalid_argument',
    );
  });

  test('the base64 format of gRPC-Web is refused with the supported one named', async () => {
    for (const type of ['application/grpc-web-text', 'application/grpc-web-text+proto']) {
      const response = await fetch(service.url + path, {
        method: 'POST',
        headers: { 'content-type': type },
        body: 'AAAAAAA=',
      });
      assert.equal(response.status, 415);
      assert.match(((await response.json()) as { msg: string }).msg, /application\/grpc-web\+proto/);
    }
  });

  test('a body with Content-Encoding x-gzip is accepted on every route', async () => {
    const message = { channel_id: 'packed', channel_type: 2, from_uid: 'u1', payload: 'eA==' };
    for (const [route, body] of [
      ['/message/send', message],
      [path, { messages: [{ channelId: 'packed', channelType: 2, fromUid: 'u1', payload: 'eA==' }] }],
    ] as const) {
      const response = await fetch(service.url + route, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'content-encoding': 'X-Gzip' },
        body: gzipSync(JSON.stringify(body)),
      });
      assert.equal(response.status, 200, `${route} ${await response.text()}`);
    }
  });

  test('a form and an empty body are refused as such', async () => {
    const form = new FormData();
    form.set('channel_id', 'a');
    const rows: [FormData | URLSearchParams | undefined, RegExp][] = [
      [form, /body: is a form \(multipart\/form-data\), not JSON/],
      [new URLSearchParams({ channel_id: 'a' }), /body: is a form \(application\/x-www-form-urlencoded\), not JSON/],
      [undefined, /empty/],
    ];
    for (const [body, words] of rows) {
      const response = await fetch(`${service.url}/message/sendbatch`, { method: 'POST', ...(body && { body }) });
      assert.equal(response.status, 400);
      assert.match(((await response.json()) as { msg: string }).msg, words);
    }
    // curl -d sends JSON with the Content-Type of a form.
    const json = JSON.stringify([{ channel_id: 'a', channel_type: 2, from_uid: 'u1', payload: 'eA==' }]);
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    assert.equal(
      (await fetch(`${service.url}/message/sendbatch`, { method: 'POST', body: json, headers })).status,
      200,
    );
  });

  test('an unreadable message on a stream is INVALID_ARGUMENT', async () => {
    const client = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    assert.ok((await client.getServerInfo({})).version);
    const code = await codeOf('application/grpc', encodeEnvelope(0, Buffer.from([0x0a, 0x7f])), {
      ':path': '/sendbatch.v1.MessageService/Subscribe',
    });
    assert.equal(code, '3');
  });
});
