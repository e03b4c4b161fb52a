import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createClient, type Transport } from '@connectrpc/connect';
import {
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from '@connectrpc/connect-node';
import pg from 'pg';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { samplesOf, scrape, sumOf } from '../support/metrics.ts';
import { openReader, readerNames } from '../support/readers.ts';
import { openRelay, ways } from '../support/relay.ts';
import { startService, type TestService } from '../support/service.ts';
import { until, untilOneWaitsFor } from '../support/watch.ts';

/** Time within which a reader must be released; leaves room for pauses of the machine. */
const leaveMs = 10_000;

const pem = (name: string) => readFileSync(join(import.meta.dirname, '../support/certificates', name), 'utf8');
const tls = { key: pem('localhost-key.pem'), cert: pem('localhost-cert.pem') };

describe('a reader that disconnects', () => {
  let services: Record<'cleartext' | 'TLS', TestService>;
  before(async () => {
    const cleartext = await startService();
    services = { cleartext, TLS: await startService({ databaseUrl: cleartext.databaseUrl, tls }) };
    const call = jsonCaller(cleartext.url);
    const payload = Buffer.alloc(32 * 1024).toString('base64');
    // More data than the buffers of two loopback connections hold.
    for (let round = 0; round < 10; round++) {
      const messages = Array.from({ length: 100 }, () => ({
        channel_id: 'large',
        channel_type: 2,
        from_uid: 'u1',
        payload,
      }));
      assert.equal((await call.post('/message/sendbatch', messages)).status, 200);
    }
  });
  after(async () => {
    await services.TLS.stop();
    await services.cleartext.stop();
  });

  const readers = async (service: TestService) => sumOf(samplesOf(await service.metrics()), 'sendbatch_tail_readers');
  async function assertReleased(service: TestService): Promise<void> {
    const end = performance.now() + leaveMs;
    while ((await readers(service)) > 0) {
      assert.ok(performance.now() < end, `${await readers(service)} readers are left after ${leaveMs} ms`);
      await delay(20);
    }
  }

  for (const secure of [false, true]) {
    for (const name of readerNames) {
      for (const way of ways) {
        test(`a reader that disconnects is released at once: ${name}${secure ? ' over TLS' : ''}, ${way}`, async () => {
          const service = services[secure ? 'TLS' : 'cleartext'];
          const relay = await openRelay(Number(new URL(service.url).port));
          const url = `http${secure ? 's' : ''}://localhost:${relay.port}`;
          // One reader waits for messages; the service is writing to the other.
          const waiting = await openReader(name, { url, channelId: 'quiet', ca: tls.cert });
          const writing = await openReader(name, { url, channelId: 'large', ca: tls.cert });
          assert.equal(await readers(service), 2);
          relay.hold();
          relay.leave(way);
          await assertReleased(service);
          relay.close();
          for (const reader of [waiting, writing]) reader.close();
        });
      }
    }
  }

  test('a reader is released at once when its process is killed, on every protocol', async () => {
    const service = services.cleartext;
    const child = fork(join(import.meta.dirname, '../support/readers.ts'), [service.url, 'quiet', 'large']);
    await once(child, 'message');
    assert.equal(await readers(service), 2 * readerNames.length);
    child.kill('SIGKILL');
    await assertReleased(service);
  });
});

describe('a caller that leaves with the packet of its headers', () => {
  let service: TestService;
  before(async () => {
    service = await startService({ requiresCredential: true, open: false });
  });
  after(() => service.stop());

  const frame = (type: number, flags: number, stream: number, payload: Buffer) => {
    const head = Buffer.alloc(9);
    head.writeUIntBE(payload.length, 0, 3);
    head.writeUInt8(type, 3);
    head.writeUInt8(flags, 4);
    head.writeUInt32BE(stream, 5);
    return Buffer.concat([head, payload]);
  };
  const text = (value: string) => Buffer.from(`${String.fromCharCode(value.length)}${value}`);
  const headers = (fields: Record<string, string>) => {
    const all = {
      ':method': 'POST',
      ':scheme': 'http',
      ':authority': 'localhost',
      ':path': '/sendbatch.v1.MessageService/SendBatch',
      authorization: 'Bearer sb_unknown',
      ...fields,
    };
    const block = Object.entries(all).flatMap(([name, value]) => [Buffer.of(0), text(name), text(value)]);
    return frame(1, 4, 1, Buffer.concat(block));
  };
  const preface = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0, Buffer.alloc(0))]);
  const kinds: Record<string, Record<string, string>> = {
    gRPC: { 'content-type': 'application/grpc' },
    'gRPC, compressed': { 'content-type': 'application/grpc', 'grpc-encoding': 'gzip' },
    Connect: { 'content-type': 'application/proto' },
  };
  const leaving: Record<string, Buffer> = {
    'it cancels': frame(3, 0, 1, Buffer.of(0, 0, 0, 8)),
    'it resets with an error': frame(3, 0, 1, Buffer.of(0, 0, 0, 2)),
    'it breaks the protocol': frame(0, 0, 99, Buffer.of(0)),
    'it closes the connection with an error': frame(7, 0, 0, Buffer.of(0, 0, 0, 0, 0, 0, 0, 2)),
  };
  for (const [kind, fields] of Object.entries(kinds))
    for (const [way, last] of Object.entries(leaving))
      test(`the service keeps serving: ${kind}, ${way}`, async () => {
        const socket = net.connect(Number(new URL(service.url).port), '127.0.0.1');
        socket.on('error', () => {}).resume();
        const closed = once(socket, 'close');
        socket.end(Buffer.concat([preface, headers(fields), last]));
        await closed;
        assert.equal((await fetch(`${service.url}/livez`)).status, 200);
      });
});

describe('a sender that disconnects while it waits', () => {
  let service: TestService;
  before(async () => {
    service = await startService({ lanes: 1 });
  });
  after(() => service.stop());

  const message = (clientMsgNo: string) => ({
    channelId: 'left',
    channelType: ChannelType.GROUP,
    fromUid: 'u1',
    clientMsgNo,
    payload: Buffer.from('x'),
  });
  const rpc = (transport: Transport) => {
    const client = createClient(MessageService, transport);
    return async (key: string, signal: AbortSignal) => client.sendBatch({ messages: [message(key)] }, { signal });
  };
  const json = async (key: string, signal: AbortSignal) => {
    const { channelId, channelType, fromUid, clientMsgNo } = message(key);
    const draft = { channelId, channelType, fromUid, clientMsgNo, payload: 'eA==' };
    const body = JSON.stringify([draft]);
    const headers = { 'content-type': 'application/json' };
    await fetch(`${service.url}/message/sendbatch`, { method: 'POST', body, headers, signal });
  };
  const gzip = { sendCompression: compressionGzip, compressMinBytes: 0 };
  const senders: Record<string, () => (key: string, signal: AbortSignal) => Promise<unknown>> = {
    gRPC: () => rpc(createGrpcTransport({ baseUrl: service.url })),
    'gRPC, compressed': () => rpc(createGrpcTransport({ baseUrl: service.url, ...gzip })),
    'gRPC-Web': () => rpc(createGrpcWebTransport({ baseUrl: service.url, httpVersion: '1.1' })),
    'Connect over HTTP/2': () => rpc(createConnectTransport({ baseUrl: service.url, httpVersion: '2' })),
    'Connect over HTTP/1.1': () => rpc(createConnectTransport({ baseUrl: service.url, httpVersion: '1.1' })),
    'the JSON route': () => json,
  };

  for (const [name, open] of Object.entries(senders)) {
    test(`it leaves the queue, and nothing of it is stored: ${name}`, async (context) => {
      const samples = () => scrape(service.url);
      const cancelled = async () =>
        sumOf(await samples(), 'rpc_server_call_duration_seconds_count', {
          rpc_method: 'sendbatch.v1.MessageService/SendBatch',
          rpc_response_status_code: 'CANCELLED',
        });
      const before = await cancelled();
      const holder = new pg.Client({ connectionString: service.databaseUrl });
      await holder.connect();
      context.after(() => holder.end());
      await holder.query('begin; lock table sendbatch.channel_head in exclusive mode');
      const send = open();
      const first = send(`${name}: stays`, new AbortController().signal);
      await untilOneWaitsFor(holder);
      const leaving = new AbortController();
      const second = assert.rejects(send(`${name}: leaves`, leaving.signal));
      await until('a message waits', async () => sumOf(await samples(), 'sendbatch_lane_waiting_messages') === 1);
      leaving.abort();
      await second;
      await until('the call has ended', async () => (await cancelled()) === before + 1);
      assert.equal(sumOf(await samples(), 'sendbatch_lane_waiting_messages'), 0);
      await holder.query('rollback');
      await first;
      const { rows } = await holder.query(`select client_msg_no from sendbatch.message where client_msg_no like $1`, [
        `${name}:%`,
      ]);
      assert.deepEqual(rows, [{ client_msg_no: `${name}: stays` }]);
    });
  }
});
