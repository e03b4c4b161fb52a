import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, request as httpRequest } from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import { openStore } from '../support/database.ts';
import { openClients } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';

const mebi = 1024 * 1024;
const sendBatch = '/sendbatch.v1.MessageService/SendBatch';
/** Limit for one answer: above pauses of the machine, far below a stalled connection (76 s). */
const soonMs = 10_000;

let open: TestService;
let authenticated: TestService;
let key: string;
before(async () => {
  open = await startService();
  authenticated = await startService({ databaseUrl: open.databaseUrl, requiresCredential: true, open: false });
  const db = openStore(open.databaseUrl);
  ({ key } = await createKeys(db).create({ name: 'a service', scopes: ['send', 'read'] }));
  await db.destroy();
});
after(async () => {
  await authenticated.stop();
  await open.stop();
});

/** Fails when the work takes longer than `soonMs`. */
function within<T>(what: string, work: Promise<T>): Promise<T> {
  return Promise.race([
    work,
    new Promise<T>((_, reject) => {
      setTimeout(() => reject(new Error(`${what}: no answer in ${soonMs} ms`)), soonMs).unref();
    }),
  ]);
}

/** Prefixes a message with the envelope of gRPC, gRPC-Web and Connect streams. */
function envelope(bytes: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly close: boolean;
}

/** Opens one HTTP/1.1 or HTTP/2 connection for sequential calls. */
function connection(url: string, version: 1 | 2) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const session = version === 2 ? http2.connect(url) : undefined;
  session?.on('error', () => {});
  const post1 = (path: string, headers: Record<string, string>, body: Uint8Array | undefined, declared?: number) =>
    new Promise<Answer>((resolve, reject) => {
      const method = body === undefined ? 'GET' : 'POST';
      const length = declared === undefined ? {} : { 'content-length': String(declared) };
      const request = httpRequest(url + path, { agent, method, headers: { ...headers, ...length } }, (response) => {
        let text = JSON.stringify(response.headers);
        response.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
        response.on('error', reject);
        response.on('end', () => {
          text += JSON.stringify(response.trailers);
          resolve({ status: response.statusCode ?? 0, text, close: response.headers.connection === 'close' });
        });
      });
      request.on('error', reject);
      if (body !== undefined) request.write(body);
      if (declared === undefined || body === undefined) request.end();
    });
  const post2 = (path: string, headers: Record<string, string>, body: Uint8Array | undefined) =>
    new Promise<Answer>((resolve, reject) => {
      const method = body === undefined ? 'GET' : 'POST';
      const stream = session?.request({ ':method': method, ':path': path, ...headers });
      if (stream === undefined) return;
      let status = 0;
      let text = '';
      stream.on('response', (answer) => {
        status = Number(answer[':status']);
        text += JSON.stringify(answer);
      });
      stream.on('trailers', (answer) => (text += JSON.stringify(answer)));
      stream.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
      stream.on('error', reject);
      stream.on('close', () => resolve({ status, text, close: false }));
      stream.end(body);
    });
  return {
    call: version === 1 ? post1 : post2,
    end() {
      agent.destroy();
      session?.destroy();
    },
  };
}

const proto = { 'content-type': 'application/proto' };
const protocols: [string, string, Record<string, string>, (bytes: Uint8Array) => Uint8Array, string][] = [
  ['gRPC', sendBatch, { 'content-type': 'application/grpc', te: 'trailers' }, envelope, '"grpc-status":"8"'],
  ['gRPC-Web', sendBatch, { 'content-type': 'application/grpc-web+proto' }, envelope, 'grpc-status: 8'],
  ['Connect', sendBatch, proto, (bytes) => bytes, 'resource_exhausted'],
  ['Connect JSON', sendBatch, { 'content-type': 'application/json' }, (bytes) => bytes, 'resource_exhausted'],
  ['the JSON route', '/message/sendbatch', {}, (bytes) => bytes, 'BATCH_TOO_LARGE'],
  ['NDJSON', '/v1/batches', { 'content-type': 'application/x-ndjson' }, (bytes) => bytes, 'more than 16777216 bytes'],
];

describe('Expect: 100-continue', () => {
  const body = Buffer.from(JSON.stringify([{ from_uid: 'system', channel_id: 'c', channel_type: 2, payload: 'eA==' }]));
  /** Returns the received statuses in order; sends the body after 100 Continue. */
  const statusesOverHttp1 = (url: string, headers: Record<string, string>) =>
    new Promise<string>((resolve, reject) => {
      let received = '';
      const request = httpRequest(`${url}/message/sendbatch`, {
        method: 'POST',
        headers: { ...headers, expect: '100-continue', 'content-length': body.length },
      });
      request.on('continue', () => {
        received += '100 ';
        request.end(body);
      });
      request.on('response', (response) => {
        resolve(received + response.statusCode);
        request.destroy();
      });
      request.on('error', reject);
      request.flushHeaders();
    });
  const statusesOverHttp2 = async (url: string, headers: Record<string, string>) => {
    const session = http2.connect(url);
    try {
      return await new Promise<string>((resolve, reject) => {
        let received = '';
        const path = '/message/sendbatch';
        const stream = session.request({ ':method': 'POST', ':path': path, ...headers, expect: '100-continue' });
        stream.on('continue', () => {
          received += '100 ';
          stream.end(body);
        });
        stream.on('response', (answer) => resolve(`${received}${answer[':status']}`));
        session.on('error', reject);
        stream.on('error', reject);
      });
    } finally {
      session.destroy();
    }
  };
  for (const [version, statuses] of [
    ['HTTP/1.1', statusesOverHttp1],
    ['HTTP/2', statusesOverHttp2],
  ] as const)
    test(`100 Continue is sent to an authenticated caller and not to a refused one, over ${version}`, async () => {
      assert.equal(await within('the refusal', statuses(authenticated.url, {})), '401');
      assert.equal(await within('the answer', statuses(authenticated.url, { token: key })), '100 200');
      assert.equal(await within('the answer', statuses(open.url, {})), '100 200');
    });
});

describe('a body of 19.5 MB', () => {
  const large = Buffer.alloc(19.5 * mebi, 'x');
  for (const version of [1, 2] as const)
    for (const [name, path, headers, wrap, says] of protocols) {
      if (version === 1 && name === 'gRPC') continue;
      test(`a body of 19.5 MB over ${name} and HTTP/${version} is refused with its reason, and the connection stays usable`, async () => {
        const { call, end } = connection(open.url, version);
        try {
          const refused = await within('the refusal', call(path, headers, wrap(large)));
          assert.ok(refused.text.includes(says), `${refused.status} ${refused.text.slice(0, 1000)}`);
          const next = await within('the next call', call('/v1/server-info', {}, undefined));
          assert.equal(next.status, 200);
        } finally {
          end();
        }
      });
    }

  const clients: [string, (baseUrl: string) => Transport][] = [
    ['gRPC', (baseUrl) => createGrpcTransport({ baseUrl })],
    ['gRPC-Web, HTTP/1.1', (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: '1.1' })],
    ['gRPC-Web, HTTP/2', (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: '2' })],
    ['Connect, HTTP/1.1', (baseUrl) => createConnectTransport({ baseUrl, httpVersion: '1.1', useBinaryFormat: true })],
    ['Connect, HTTP/2', (baseUrl) => createConnectTransport({ baseUrl, httpVersion: '2', useBinaryFormat: true })],
  ];
  for (const [name, open_] of clients)
    test(`a body of 19.5 MB sent by the ${name} client is RESOURCE_EXHAUSTED with reason, limit and actual`, async () => {
      const client = createClient(MessageService, open_(open.url));
      const message = { channelId: 'c', channelType: ChannelType.GROUP, fromUid: 'u', payload: large };
      const error = await within(
        'the refusal',
        client.sendBatch({ messages: [message] }).then(
          () => assert.fail('the call was accepted'),
          (thrown: unknown) => thrown,
        ),
      );
      const { code, details } = error as { code: number; details: unknown[] };
      assert.equal(code, 8, String(error));
      assert.ok(details.length > 0);
      assert.equal((await within('the next call', client.getServerInfo({}))).limits?.batchMessages, 1000);
    });
});

describe('a call that is refused amid its body', () => {
  // Empty messages, of which a unary call and a server stream accept one.
  const frames = Buffer.alloc(5_000_000);
  const tail = '/sendbatch.v1.MessageService/Subscribe';
  const submit = '/sendbatch.v1.BatchService/SubmitBatchStream';
  const rows: [string, string, string, Buffer][] = [
    ['a unary call of gRPC', sendBatch, 'application/grpc', frames],
    ['a unary call of gRPC-Web', sendBatch, 'application/grpc-web', frames],
    ['a unary call as a stream of Connect', sendBatch, 'application/connect+proto', Buffer.alloc(20 * mebi)],
    ['a server stream of gRPC', tail, 'application/grpc', frames],
    ['a server stream of gRPC-Web', tail, 'application/grpc-web', frames],
    ['a server stream of Connect', tail, 'application/connect+proto', frames],
    ['a client stream of gRPC', submit, 'application/grpc', frames],
    ['a client stream of gRPC-Web', submit, 'application/grpc-web', frames],
    ['a client stream of Connect', submit, 'application/connect+json', frames],
  ];
  for (const version of [1, 2] as const)
    for (const [name, path, type, body] of rows) {
      if (version === 1 && type === 'application/grpc') continue;
      test(`a call that is refused amid its body is answered and ends, and the connection stays usable: ${name}, HTTP/${version}`, async () => {
        const { call, end } = connection(open.url, version);
        try {
          await within('the refusal', call(path, { 'content-type': type, te: 'trailers' }, body));
          const next = await within('the next call', call('/v1/server-info', {}, undefined));
          assert.equal(next.status, 200);
        } finally {
          end();
        }
      });
    }
});

describe('a call without a credential', () => {
  const bomb = gzipSync(Buffer.alloc(16 * mebi - 1024, Buffer.from([10, 0])));
  const packed = Buffer.concat([Buffer.from([1]), envelope(bomb).subarray(1)]);
  const rows: [string, string, Record<string, string>, Uint8Array][] = [
    ['gRPC', sendBatch, { 'content-type': 'application/grpc', 'grpc-encoding': 'gzip', te: 'trailers' }, packed],
    ['gRPC-Web', sendBatch, { 'content-type': 'application/grpc-web+proto', 'grpc-encoding': 'gzip' }, packed],
    ['Connect', sendBatch, { ...proto, 'content-encoding': 'gzip' }, bomb],
    ['the JSON route', '/message/sendbatch', { 'content-encoding': 'gzip' }, bomb],
    ['NDJSON', '/v1/batches', { 'content-type': 'application/x-ndjson', 'content-encoding': 'gzip' }, bomb],
    ['large, the JSON route', '/message/sendbatch', {}, Buffer.alloc(12 * mebi, '[')],
    [
      'large, gRPC',
      sendBatch,
      { 'content-type': 'application/grpc', te: 'trailers' },
      envelope(Buffer.alloc(12 * mebi)),
    ],
  ];
  for (const version of [1, 2] as const)
    for (const [name, path, headers, body] of rows) {
      if (version === 1 && name.endsWith('gRPC')) continue;
      test(`a call without a credential is UNAUTHENTICATED before its body is read, and the connection stays usable: ${name}, HTTP/${version}`, async () => {
        const { call, end } = connection(authenticated.url, version);
        try {
          const refused = await within('the refusal', call(path, headers, body));
          assert.match(refused.text, /a(%20| )credential(%20| )is(%20| )required/, refused.text.slice(0, 1000));
          const next = await within(
            'the next call',
            call('/v1/server-info', { authorization: `Bearer ${key}` }, undefined),
          );
          assert.equal(next.status, 200);
        } finally {
          end();
        }
      });
    }

  test('a call without a credential is answered at once when its body never arrives, and its connection is closed', async () => {
    const socket = net.connect(Number(new URL(authenticated.url).port), '127.0.0.1');
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    const closed = new Promise<void>((resolve) => socket.on('error', () => {}).on('close', () => resolve()));
    socket.write('POST /message/sendbatch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n[');
    await within('the end of the connection', closed);
    assert.match(text, /^HTTP\/1\.1 401 [\s\S]*connection: close/i);
  });
});

test('a request that is pipelined behind a refused body is not processed', async () => {
  const socket = net.connect(Number(new URL(authenticated.url).port), '127.0.0.1');
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  const answered = new Promise<void>((resolve) => socket.once('data', () => resolve()));
  const closed = new Promise<void>((resolve) => socket.on('error', () => {}).on('close', () => resolve()));
  const size = 2 * mebi;
  socket.write(`POST /message/sendbatch HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${size}\r\n\r\n`);
  await within('the refusal', answered);
  const message = { from_uid: 'u', channel_id: 'behind', channel_type: 2, payload: 'eA==' };
  const body = JSON.stringify([message]);
  const head = `POST /message/sendbatch HTTP/1.1\r\nHost: localhost\r\ntoken: ${key}\r\nContent-Length: ${body.length}\r\n\r\n`;
  socket.write(Buffer.concat([Buffer.alloc(size, ' '), Buffer.from(head + body)]));
  await within('the end of the connection', closed);
  assert.match(text, /^HTTP\/1\.1 401 [\s\S]*connection: close/i);
  assert.equal(text.match(/HTTP\/1\.1/g)?.length, 1, text);
  const history = await fetch(`${open.url}/v1/channels/2/behind/messages`);
  assert.equal(((await history.json()) as { last_seq: number }).last_seq, 0);
});

test('slow uploads on one connection do not make the service refuse other calls', async () => {
  const session = http2.connect(open.url);
  session.on('error', () => {});
  const streams = Array.from({ length: 32 }, () => {
    const stream = session.request({ ':method': 'POST', ':path': '/message/sendbatch', 'content-length': '1000' });
    stream.on('error', () => {});
    stream.write('[');
    return stream;
  });
  const since = performance.now();
  const protocolClients = openClients(open.url);
  // Longer than the second after which unfinished calls count as a stalled store.
  for (let count = 0; performance.now() - since < 2000; count++) {
    const protocolClient = protocolClients[count % protocolClients.length];
    const answer = await protocolClient?.send({
      messages: [{ channelId: 'dribble', channelType: 2, fromUid: 'u', payload: Buffer.from('x') }],
    });
    assert.ok(answer !== undefined && 'results' in answer, JSON.stringify(answer));
  }
  for (const protocolClient of protocolClients) protocolClient.close();
  for (const stream of streams) stream.close();
  session.destroy();
});

test('fifty streams opened at once on an idle connection are all served', async () => {
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: open.url }));
  const ends = Array.from({ length: 50 }, () => new AbortController());
  const caughtUp = ends.map(async ({ signal }, index) => {
    const channels = [{ channelId: `fifty-${index}`, channelType: ChannelType.GROUP }];
    for await (const { frame } of client.subscribe({ channels }, { signal })) return frame.case;
    return undefined;
  });
  assert.deepEqual(new Set(await Promise.all(caughtUp)), new Set(['caughtUp']));
  for (const end of ends) end.abort();
});

test('the message of a Connect GET is limited to 8 KiB after decompression', async () => {
  const list = '/sendbatch.v1.MessageService/ListMessages?encoding=proto&base64=1';
  const getMessages = async (bytes: Buffer, more = '') => {
    const response = await fetch(`${open.url}${list}${more}&message=${bytes.toString('base64url')}`);
    return { status: response.status, text: await response.text() };
  };
  const fields = Buffer.alloc(9000, Buffer.from([0x78, 1]));
  const packed = await getMessages(gzipSync(Buffer.alloc(4 * mebi, Buffer.from([0x78, 1]))), '&compression=gzip');
  for (const { status, text } of [packed, await getMessages(fields)]) {
    assert.equal(status, 429);
    assert.match(text, /at most 8192 are allowed/);
  }
  for (const message of ['***', 'a', 'a b c', '=', 'YQ=====']) {
    const odd = await fetch(`${open.url}${list}&message=${encodeURIComponent(message)}`);
    assert.equal(odd.status, 400, message);
    assert.match(await odd.text(), /message: must be base64/);
  }
  const small = Buffer.from('0a0163100240', 'hex').subarray(0, 5);
  assert.notEqual((await getMessages(gzipSync(small), '&compression=gzip')).status, 429);
});

describe('every answer carries the request id', () => {
  const id = 'asked-for-this';
  const json = { 'content-type': 'application/json' };
  const rows: [string, string, RequestInit, number][] = [
    ['an unknown path', '/nowhere', {}, 404],
    ['an unknown RPC', '/sendbatch.v1.MessageService/Nothing', { method: 'POST', headers: json, body: '{}' }, 404],
    ['a method that the path does not have', '/message/sendbatch', { method: 'DELETE' }, 405],
    ['a body that is not JSON', '/message/sendbatch', { method: 'POST', body: '[' }, 400],
    ['an unknown parameter', '/message/sendbatch?mood=odd', { method: 'POST', body: '[]' }, 400],
    [
      'a foreign origin',
      '/message/sendbatch',
      { method: 'POST', body: '[]', headers: { origin: 'https://evil.test' } },
      403,
    ],
    ['a body over the limit', '/message/sendbatch', { method: 'POST', body: Buffer.alloc(17 * mebi, ' ') }, 413],
    [
      'Protobuf that cannot be read, Connect',
      sendBatch,
      { method: 'POST', headers: { 'content-type': 'application/proto' }, body: Buffer.from([0xff]) },
      400,
    ],
    [
      'a content type of no protocol',
      sendBatch,
      { method: 'POST', headers: { 'content-type': 'text/html' }, body: 'x' },
      415,
    ],
    [
      'gRPC-Web as text',
      sendBatch,
      { method: 'POST', headers: { 'content-type': 'application/grpc-web-text' }, body: 'x' },
      415,
    ],
    [
      'Protobuf that cannot be read, gRPC-Web',
      sendBatch,
      {
        method: 'POST',
        headers: { 'content-type': 'application/grpc-web+proto' },
        body: envelope(Buffer.from([0xff])),
      },
      200,
    ],
    [
      'a line that is not JSON',
      '/v1/batches',
      { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: '{' },
      400,
    ],
    ['an event stream without a channel type', '/v1/channels/x/a/events', {}, 400],
    [
      'a stream of Connect without channels',
      '/sendbatch.v1.MessageService/Subscribe',
      { method: 'POST', headers: { 'content-type': 'application/connect+json' }, body: envelope(Buffer.from('{}')) },
      200,
    ],
    ['a page', '/docs', {}, 200],
    ['a page that is not to be changed', '/docs', { method: 'DELETE' }, 405],
    ['a file of the console', '/console/', {}, 200],
    ['a scrape', '/metrics', {}, 200],
  ];
  for (const [what, path, init, status] of rows)
    test(`the answer to ${what} has the request id`, async () => {
      const headers = { ...init.headers, 'x-request-id': id };
      const response = await within(what, fetch(open.url + path, { ...init, headers }));
      await response.arrayBuffer();
      assert.deepEqual([response.status, response.headers.get('x-request-id')], [status, id]);
    });

  test('the answer to a call without a credential has the request id', async () => {
    const response = await fetch(`${authenticated.url}/message/sendbatch`, {
      method: 'POST',
      body: '[]',
      headers: { 'x-request-id': id },
    });
    await response.arrayBuffer();
    assert.deepEqual([response.status, response.headers.get('x-request-id')], [401, id]);
  });

  const calls: [string, string, Buffer][] = [
    ['an unknown RPC', '/sendbatch.v1.MessageService/Nothing', envelope(Buffer.alloc(0))],
    ['Protobuf that cannot be read', sendBatch, envelope(Buffer.from([0xff]))],
    [
      'a stream of Protobuf that cannot be read',
      '/sendbatch.v1.MessageService/Subscribe',
      envelope(Buffer.from([0xff])),
    ],
  ];
  for (const [what, path, body] of calls)
    test(`the answer to ${what} over gRPC has the request id`, async () => {
      const session = http2.connect(open.url);
      const stream = session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
        'x-request-id': id,
      });
      stream.end(body);
      const [headers] = await within(what, once(stream, 'response'));
      assert.equal(headers['x-request-id'], id);
      stream.resume();
      await once(stream, 'close');
      session.close();
    });
});
