import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { openEvents as open } from '../support/events.ts';
import { openFaultProxy } from '../support/fault-proxy.ts';
import { jsonCaller } from '../support/json.ts';
import { scrape, sumOf } from '../support/metrics.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

const payload = Buffer.from('x').toString('base64');

describe('Server-Sent Events', () => {
  let service: TestService;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService();
    call = jsonCaller(service.url);
  });
  after(() => service.stop());
  const endedCalls = async () =>
    sumOf(await scrape(service.url), 'rpc_server_call_duration_seconds_count', { protocol: 'sse' });
  const send = (channel_id: string, more: object = {}) =>
    call.post('/message/sendbatch', [{ channel_id, channel_type: 2, from_uid: 'u1', payload, ...more }]);

  test('an event stream sends history, caught_up and new messages, and resumes after Last-Event-ID', async () => {
    await send('sse');
    await send('sse');
    const first = await open(`${service.url}/v1/channels/2/sse/events`);
    assert.deepEqual([first.status, first.type], [200, 'text/event-stream; charset=utf-8']);
    const one = await first.next();
    assert.deepEqual([one.id, one.event, one.data.message_seq, one.data.payload], ['1.0', 'message', 1, payload]);
    assert.equal((await first.next()).id, '2.0');
    assert.deepEqual(await first.next(), { id: '2.0', event: 'caught_up', data: { last_seq: 2, last_change: 0 } });
    await send('sse');
    await send('sse', { header: { no_persist: 1 } });
    const [three, live] = [await first.next(), await first.next()];
    assert.equal(three.id, '3.0');
    assert.deepEqual([live.id, live.event, live.data.message_seq], [undefined, 'message', 0]);
    first.close();
    const again = await open(`${service.url}/v1/channels/2/sse/events?after_seq=0`, { 'last-event-id': '2' });
    assert.equal((await again.next()).id, '3.0');
    again.close();
    const later = await open(`${service.url}/v1/channels/2/sse/events?after_seq=1`);
    assert.equal((await later.next()).id, '2.0');
    later.close();
    const now = await open(`${service.url}/v1/channels/2/sse/events?from_now=true`);
    assert.equal((await now.next()).event, 'caught_up');
    now.close();
  });

  test('a refused event stream is an HTTP error with a JSON body', async () => {
    const rows: [string, number, string][] = [
      ['/v1/channels/0/a/events', 400, 'INVALID_FIELD'],
      ['/v1/channels/x/a/events', 400, 'INVALID_FIELD'],
      ['/v1/channels/2/a/events?after_seq=x', 400, 'INVALID_FIELD'],
      ['/v1/channels/2/%ff/events', 400, 'INVALID_FIELD'],
      ['/v1/channels/1/alone/events', 400, 'INVALID_FIELD'],
      ['/v1/channels/2/a/events?uid=stranger', 403, 'NOT_SUBSCRIBER'],
      ['/v1/channels/2/a/events?uid=%00', 400, 'INVALID_FIELD'],
      ['/v1/channels/2/a/events?login_uid=a%00', 400, 'INVALID_FIELD'],
      [`/v1/channels/2/a/events?uid=${'u'.repeat(257)}`, 400, 'INVALID_FIELD'],
    ];
    for (const [path, status, reason] of rows) {
      const stream = await open(service.url + path);
      assert.equal(stream.status, status, path);
      assert.equal((await stream.body()).error.details[0].reason, reason);
    }
  });

  test('a from_now reader disconnected before its first message resumes from the head it was sent', async () => {
    await send('from now');
    const first = await open(`${service.url}/v1/channels/2/from%20now/events?from_now=true`);
    const { id = '' } = await first.next();
    assert.equal(id, '1.0');
    first.close();
    await send('from now');
    const again = await open(`${service.url}/v1/channels/2/from%20now/events?from_now=true`, { 'last-event-id': id });
    assert.equal((await again.next()).id, '2.0');
    again.close();
  });

  test('a client that accepts only events gets a retryable refusal as a stream with a retry time', async () => {
    const proxy = await openFaultProxy(service.databaseUrl);
    const other = await startService({ databaseUrl: proxy.url, statementTimeoutMs: 500, lockTimeoutMs: 500 });
    proxy.drop();
    proxy.cut();
    const fetchEvents = async (accept: string) => {
      const response = await fetch(`${other.url}/v1/channels/2/passing/events`, { headers: { accept } });
      return { status: response.status, type: response.headers.get('content-type'), text: await response.text() };
    };
    const plain = await fetchEvents('*/*');
    assert.deepEqual([plain.status, plain.type], [503, 'application/json']);
    const events = await fetchEvents('text/event-stream');
    assert.deepEqual([events.status, events.type], [200, 'text/event-stream; charset=utf-8']);
    assert.match(events.text, /^retry: 1000\nevent: error\ndata: \{.*STORE_BUSY.*\}\n\n$/);
    proxy.resume();
    await other.stop();
    await proxy.close();
  });

  test('HEAD of an event stream returns only headers and leaves no reader open', async () => {
    const response = await fetch(`${service.url}/v1/channels/2/sse/events`, { method: 'HEAD' });
    assert.deepEqual(
      [response.status, response.headers.get('content-type'), await response.text()],
      [200, 'text/event-stream; charset=utf-8', ''],
    );
    await until('no reader is left', async () => sumOf(await scrape(service.url), 'sendbatch_tail_readers') === 0);
    assert.equal((await fetch(`${service.url}/v1/channels/0/a/events`, { method: 'HEAD' })).status, 400);
  });

  test('an event stream accepts an allowed origin and checks the token of its query', async () => {
    const guarded = await startService({
      requiresCredential: true,
      open: false,
      allowedOrigins: ['https://app.example'],
      identity: { tokens: undefined, certificateScopes: undefined },
    });
    const refused = await open(`${guarded.url}/v1/channels/2/a/events`);
    assert.deepEqual([refused.status, (await refused.body()).error.details[0].reason], [401, 'CREDENTIAL_MISSING']);
    const bad = await open(`${guarded.url}/v1/channels/2/a/events?access_token=sb_x`);
    assert.equal(bad.status, 401);
    const response = await fetch(`${guarded.url}/v1/channels/2/a/events`, {
      headers: { origin: 'https://app.example' },
    });
    assert.equal(response.headers.get('access-control-allow-origin'), 'https://app.example');
    await response.body?.cancel();
    await guarded.stop();
  });

  test('a client that disconnects before the first event is released at once', async () => {
    await send('left');
    const before = await endedCalls();
    const { hostname, port } = new URL(service.url);
    const callers = 20;
    for (let caller = 0; caller < callers; caller++) {
      const socket = connect(Number(port), hostname);
      socket.on('error', () => {});
      await once(socket, 'connect');
      socket.write(`GET /v1/channels/2/left/events HTTP/1.1\r\nhost: ${hostname}\r\n\r\n`);
      socket.destroySoon();
    }
    await until('all of them have ended', async () => (await endedCalls()) === before + callers);
  });

  test('a stop of the service ends an event stream with an error event', async () => {
    const other = await startService({ databaseUrl: service.databaseUrl, shutdownGraceMs: 120_000 });
    const stream = await open(`${other.url}/v1/channels/2/ending/events`);
    assert.equal((await stream.next()).event, 'caught_up');
    const start = performance.now();
    const ended = stream.next();
    await other.stop();
    assert.equal((await ended).event, 'error');
    assert.ok(performance.now() - start < 60_000, 'it does not wait for the calls in flight');
  });
});
