import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import { gather } from '../../src/observability/gather.ts';
import { createDatabase, openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { type Sample, scrape, sumOf } from '../support/metrics.ts';
import { spawnService } from '../support/process.ts';
import { openClients } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

const draft = (key: string, more: object = {}) => ({
  from_uid: 'metrics-sender',
  channel_id: 'metrics-channel',
  channel_type: 2,
  client_msg_no: key,
  payload: 'eA==',
  ...more,
});

describe('the metrics', () => {
  let service: TestService;
  before(async () => {
    service = await startService({
      rates: { caller: [], sender: [{ points: 50, seconds: 3600 }], channel: [], store: 'memory' },
    });
  });
  after(() => service.stop());

  test('metrics count a tail closed by its client as CANCELLED, not as a server error', async () => {
    const code = async (wanted: string) =>
      sumOf(await scrape(service.url), 'rpc_server_call_duration_seconds_count', {
        rpc_method: 'sendbatch.v1.MessageService/Subscribe',
        rpc_response_status_code: wanted,
      });
    for (const transport of [createGrpcTransport, createConnectTransport]) {
      const rpc = createClient(MessageService, transport({ baseUrl: service.url, httpVersion: '2' }));
      const abort = new AbortController();
      const frames = rpc.subscribe({ channels: [{ channelId: 'closed', channelType: 2 }] }, { signal: abort.signal });
      await frames[Symbol.asyncIterator]().next();
      abort.abort();
    }
    await until('both are counted', async () => (await code('CANCELLED')) === 2);
    assert.equal(await code('INTERNAL'), 0);
    assert.equal(await code('OK'), 0);
  });

  test('metrics count calls by RPC, protocol and code for every protocol', async () => {
    const protocolClients = openClients(service.url);
    for (const [index, protocolClient] of protocolClients.entries()) {
      await protocolClient.send({
        messages: [{ channelId: 'c', channelType: 2, fromUid: `door-${index}`, payload: Buffer.from('x') }],
      });
      await protocolClient.send({ messages: [] });
      protocolClient.close();
    }
    const samples = await scrape(service.url);
    const calls = (labels: Record<string, string>) =>
      sumOf(samples, 'rpc_server_call_duration_seconds_count', {
        rpc_method: 'sendbatch.v1.MessageService/SendBatch',
        ...labels,
      });
    // Clients: two gRPC, one gRPC-Web, two Connect, one JSON; each sends a valid and an empty batch.
    for (const [protocol, count] of Object.entries({ grpc: 2, 'grpc-web': 1, connect: 2, json: 1 })) {
      assert.equal(calls({ protocol, rpc_response_status_code: 'OK' }), count, protocol);
      assert.equal(
        calls({ protocol, rpc_response_status_code: 'INVALID_ARGUMENT', error_type: 'EMPTY_BATCH' }),
        count,
        `${protocol}, refused`,
      );
    }
    assert.equal(calls({ rpc_system_name: 'grpc' }), 6);
    assert.equal(calls({ rpc_system_name: 'connectrpc' }), 4);
    assert.equal(calls({ rpc_system_name: 'http_json' }), 2);
  });

  test('metrics count requests rejected before they are calls, by reason', async () => {
    const before = await scrape(service.url);
    const post = (path: string, body: string, headers = {}) =>
      fetch(service.url + path, { method: 'POST', body, headers });
    await post('/message/sendbatch', '{bad');
    await post('/sendbatch.v1.MessageService/Send', '{bad', { 'content-type': 'application/json' });
    await post('/nowhere', '');
    await post('/message/sendbatch', '[]', { origin: 'http://elsewhere.example' });
    await grpcBytes(service.url, Buffer.from([0, 0, 0, 0, 9, 1]));
    const after = await scrape(service.url);
    const grown = (reason: string) =>
      sumOf(after, 'sendbatch_requests_rejected_total', { reason }) -
      sumOf(before, 'sendbatch_requests_rejected_total', { reason });
    assert.deepEqual([grown('malformed'), grown('not_found'), grown('origin')], [3, 1, 1]);
  });

  test('metrics count messages by outcome and reason, and batches by outcome', async () => {
    const before = await scrape(service.url);
    const { post } = jsonCaller(service.url);
    await post('/message/sendbatch', [draft('1'), draft('2')]);
    await post('/message/sendbatch', [draft('1'), draft('2', { payload: 'eQ==' }), draft('3')]);
    await post('/message/sendbatch', [draft('2', { payload: 'eQ==' })]);
    const many = Array.from({ length: 60 }, (_, index) => draft(`m${index}`, { from_uid: 'busy', channel_id: 'busy' }));
    await post('/message/sendbatch?mode=atomic', many);
    await post('/message/sendbatch', many);
    await post('/message/sendbatch?validate_only=true', [draft('9')]);
    const after = await scrape(service.url);
    const grown = (name: string, labels: Record<string, string> = {}) =>
      sumOf(after, name, labels) - sumOf(before, name, labels);
    assert.equal(grown('sendbatch_messages_total', { outcome: 'accepted' }), 53);
    assert.equal(grown('sendbatch_messages_total', { outcome: 'duplicate' }), 1);
    assert.equal(grown('sendbatch_messages_total', { reason: 'CLIENT_MSG_NO_REUSED' }), 2);
    assert.equal(grown('sendbatch_messages_total', { reason: 'RATE_LIMITED' }), 70);
    assert.equal(grown('sendbatch_rate_limited_messages_total', { limit: 'sender' }), 10);
    assert.equal(grown('sendbatch_batches_total', { outcome: 'stored' }), 1);
    assert.equal(grown('sendbatch_batches_total', { outcome: 'partial' }), 2);
    assert.equal(grown('sendbatch_batches_total', { outcome: 'refused' }), 2);
    assert.equal(grown('sendbatch_batch_messages_sum'), 126);
    assert.ok(grown('sendbatch_group_messages_sum') >= 53);
    assert.ok(grown('sendbatch_commit_duration_seconds_count', { outcome: 'stored' }) >= 3);
  });

  test('metrics contain no uid and no channel', async () => {
    const page = await (await fetch(`${service.url}/metrics`)).text();
    for (const name of ['metrics-sender', 'metrics-channel', 'door-', 'busy"']) assert.ok(!page.includes(name), name);
  });

  test('/metrics accepts only GET and HEAD, over HTTP/1.1 and HTTP/2, with gzip on request', async () => {
    const plain = await fetch(`${service.url}/metrics`, { headers: { 'accept-encoding': 'identity' } });
    assert.match(plain.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
    assert.equal(plain.headers.get('content-encoding'), null);
    assert.match(await plain.text(), /^# HELP .*\n# TYPE /);
    const packed = await fetch(`${service.url}/metrics`, { headers: { 'accept-encoding': 'gzip' } });
    assert.equal(packed.headers.get('content-encoding'), 'gzip');
    assert.match(await packed.text(), /sendbatch_build_info\{version="/);
    const head = await fetch(`${service.url}/metrics`, { method: 'HEAD' });
    assert.deepEqual([head.status, await head.text()], [200, '']);
    assert.equal((await fetch(`${service.url}/metrics`, { method: 'POST' })).status, 405);
    const session = http2.connect(service.url);
    const request = session.request({ ':path': '/metrics' });
    let page = '';
    for await (const chunk of request) page += String(chunk);
    session.close();
    assert.match(page, /sendbatch_messages_total/);
  });
});

test('metrics count a reader that disconnects during a write as CANCELLED', async () => {
  const service = await startService();
  const ended = async (wanted: Record<string, string> = {}) =>
    sumOf(await scrape(service.url), 'rpc_server_call_duration_seconds_count', {
      rpc_method: 'sendbatch.v1.MessageService/Subscribe',
      ...wanted,
    });
  const draft = { channelId: 'flowing', channelType: ChannelType.GROUP, fromUid: 'system', payload: Buffer.from('x') };
  const sender = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
  await sender.sendBatch({ messages: Array.from({ length: 1000 }, () => draft) });
  const transports = [
    createGrpcTransport({ baseUrl: service.url }),
    createConnectTransport({ baseUrl: service.url, httpVersion: '2' }),
    createConnectTransport({ baseUrl: service.url, httpVersion: '1.1' }),
  ];
  const each = 3;
  for (const transport of transports)
    for (let reader = 0; reader < each; reader++) {
      const abort = new AbortController();
      const channels = [{ channelId: 'flowing', channelType: ChannelType.GROUP }];
      const frames = createClient(MessageService, transport).subscribe({ channels }, { signal: abort.signal });
      await frames[Symbol.asyncIterator]().next();
      abort.abort();
    }
  await until('all of them have ended', async () => (await ended()) === transports.length * each);
  assert.equal(await ended({ rpc_response_status_code: 'CANCELLED' }), transports.length * each);
  await service.stop();
});

describe('access to the metrics', () => {
  test('/metrics requires the scope metrics or admin when calls need a credential, unless METRICS=open', async () => {
    const service = await startService({ requiresCredential: true, open: false });
    const db = openStore(service.databaseUrl);
    const keys = createKeys(db);
    const status = async (headers: Record<string, string>, url = service.url) =>
      (await fetch(`${url}/metrics`, { headers })).status;
    const bearer = async (scopes: ('send' | 'read' | 'admin' | 'metrics')[]) => {
      const { key } = await keys.create({ name: scopes.join(), scopes });
      return { authorization: `Bearer ${key}` };
    };
    assert.equal(await status({}), 401);
    assert.equal(await status({ authorization: 'Bearer sb_nothing' }), 401);
    assert.equal(await status(await bearer(['send', 'read'])), 403);
    assert.equal(await status(await bearer(['admin'])), 200);
    const scraper = await bearer(['metrics']);
    assert.equal(await status(scraper), 200);
    const { status: read } = await jsonCaller(service.url, scraper).post('/channel/messagesync', {
      login_uid: 'u',
      channel_id: 'c',
      channel_type: 2,
    });
    assert.equal(read, 403, 'a scraper’s key reads no messages');
    const open = await startService({
      requiresCredential: true,
      open: false,
      metricsOpen: true,
      databaseUrl: service.databaseUrl,
    });
    assert.equal(await status({}, open.url), 200);
    await open.stop();
    await db.destroy();
    await service.stop();
  });
});

describe('the metrics of WORKERS=2', () => {
  test('metrics cover both workers whichever one is scraped, and a replaced worker keeps its label', async (context) => {
    const database = await createDatabase();
    const service = await spawnService({ DATABASE_URL: database.url, WORKERS: '2' });
    context.after(async () => {
      await service.end('SIGTERM');
      await database.drop();
    });
    for (let index = 0; index < 8; index++)
      await fetch(`${service.url}/message/send`, {
        method: 'POST',
        headers: { connection: 'close' },
        body: JSON.stringify(draft(String(index))),
      });
    for (let again = 0; again < 4; again++) {
      // A worker that is busy for two seconds is reported as down.
      let samples: Sample[] = [];
      await until('both answer', async () => {
        samples = await scrape(service.url, { connection: 'close' });
        return sumOf(samples, 'sendbatch_worker_up') === 2;
      });
      assert.equal(sumOf(samples, 'sendbatch_messages_total', { outcome: 'accepted' }), 8);
      for (const worker of ['0', '1']) assert.equal(sumOf(samples, 'sendbatch_build_info', { worker }), 1);
    }
    const [pid] = execFileSync('ps', ['-o', 'pid=', '--ppid', String(service.child.pid)], { encoding: 'utf8' })
      .trim()
      .split(/\s+/)
      .map(Number);
    // A connection assigned to the killed worker gets no answer.
    const up = async () => {
      const samples = await scrape(service.url, { connection: 'close' }, 5000).catch(() => []);
      return sumOf(samples, 'sendbatch_worker_up');
    };
    // Stop the worker first: a killed one may be replaced before a scrape sees it down.
    process.kill(pid ?? 0, 'SIGSTOP');
    try {
      await until('one is down', async () => (await up()) === 1);
    } finally {
      process.kill(pid ?? 0, 'SIGKILL');
    }
    await until('both are up again', async () => (await up()) === 2);
    assert.match(service.output(), /worker exited, starting a replacement/);
    let samples: Sample[] = [];
    await until('both answer', async () => {
      samples = await scrape(service.url, { connection: 'close' });
      return sumOf(samples, 'sendbatch_worker_up') === 2;
    });
    for (const worker of ['0', '1']) assert.equal(sumOf(samples, 'sendbatch_build_info', { worker }), 1);
  });

  test('metrics of workers are grouped by name and labelled with their worker', () => {
    const page = gather(
      new Map([
        ['0', '# HELP a Of a.\n# TYPE a counter\na{b="} 1"} 1\na 2\n# HELP c Of c.\n# TYPE c gauge\nc 3\n'],
        ['1', '# HELP c Of c.\n# TYPE c gauge\nc 4\n'],
        ['2', undefined],
      ]),
    );
    assert.equal(
      page,
      `# HELP a Of a.
# TYPE a counter
a{worker="0",b="} 1"} 1
a{worker="0"} 2
# HELP c Of c.
# TYPE c gauge
c{worker="0"} 3
c{worker="1"} 4
# HELP sendbatch_worker_up Whether the worker answered in time when it was asked for its metrics.
# TYPE sendbatch_worker_up gauge
sendbatch_worker_up{worker="0"} 1
sendbatch_worker_up{worker="1"} 1
sendbatch_worker_up{worker="2"} 0
`,
    );
  });
});

/** Sends raw bytes as the body of a gRPC call. */
async function grpcBytes(url: string, bytes: Buffer): Promise<void> {
  const session = http2.connect(url);
  const request = session.request({
    ':method': 'POST',
    ':path': '/sendbatch.v1.MessageService/Send',
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  request.end(bytes);
  for await (const _ of request);
  session.close();
}
