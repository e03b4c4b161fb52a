import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, type TestContext, test } from 'node:test';
import { createDatabase, shards } from '../support/database.ts';
import { openFaultProxy } from '../support/fault-proxy.ts';
import { jsonCaller } from '../support/json.ts';
import { spawnService } from '../support/process.ts';
import { startService } from '../support/service.ts';
import { until } from '../support/watch.ts';

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly links?: readonly { readonly traceId: string; readonly spanId: string }[];
  readonly status: { readonly code?: number };
  readonly attributes: readonly { readonly key: string; readonly value: Record<string, unknown> }[];
}

/** Starts a collector for OTLP over HTTP that records its requests. */
async function startCollector(context: TestContext) {
  const requests: { path: string; type: string; body: Buffer }[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    requests.push({
      path: request.url ?? '',
      type: request.headers['content-type'] ?? '',
      body: Buffer.concat(chunks),
    });
    response.end('{}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  context.after(() => server.close());
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    spans: (): Span[] =>
      requests.flatMap(({ body }) =>
        JSON.parse(body.toString()).resourceSpans.flatMap((resource: { scopeSpans: { spans: Span[] }[] }) =>
          resource.scopeSpans.flatMap((scope) => scope.spans),
        ),
      ),
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}

type Collector = Awaited<ReturnType<typeof startCollector>>;

const traced = (collector: Collector, more: { sampler?: string; ratio?: number } = {}) => ({
  traces: {
    url: `${collector.url}/v1/traces`,
    protocol: 'http/json' as const,
    sampler: 'parentbased_always_on',
    ratio: 1,
    ...more,
  },
});
const traceId = (digit: string) => digit.repeat(32);
const parentOf = (digit: string, flags = '01') => ({
  traceparent: `00-${traceId(digit)}-${digit.repeat(16)}-${flags}`,
});
const draft = (key: string, more: object = {}) => ({
  from_uid: 'u',
  channel_id: 'traced',
  channel_type: 2,
  client_msg_no: key,
  payload: 'c2VjcmV0LXBheWxvYWQ=',
  ...more,
});
const attribute = (span: Span | undefined, key: string) =>
  Object.values(span?.attributes.find((each) => each.key === key)?.value ?? {})[0];

describe('traces', () => {
  test('the span of a call is a child of its caller’s span and the parent of group commit and SQL spans', async (context) => {
    const collector = await startCollector(context);
    const service = await startService(traced(collector));
    const { post } = jsonCaller(service.url, { ...parentOf('a'), 'x-request-id': 'traced-call' });
    assert.equal((await post('/message/sendbatch', [draft('1'), draft('2')])).status, 200);
    await service.stop();
    const spans = collector.spans();
    const call = spans.find((span) => span.name === 'sendbatch.v1.MessageService/SendBatch');
    assert.equal(call?.traceId, traceId('a'));
    assert.equal(call?.parentSpanId, 'a'.repeat(16));
    assert.equal(call?.kind, 2, 'SERVER');
    assert.equal(attribute(call, 'rpc.system.name'), 'http_json');
    assert.equal(attribute(call, 'rpc.response.status_code'), 'OK');
    assert.equal(attribute(call, 'sendbatch.request_id'), 'traced-call');
    assert.equal(Number(attribute(call, 'sendbatch.accepted')), 2);
    const group = spans.find((span) => span.name === 'group commit');
    assert.deepEqual([group?.traceId, group?.parentSpanId], [call?.traceId, call?.spanId]);
    assert.equal(Number(attribute(group, 'sendbatch.group.messages')), 2);
    const statements = spans.filter((span) => span.kind === 3);
    assert.ok(statements.some((span) => span.parentSpanId === group?.spanId));
    for (const span of statements) {
      assert.equal(span.traceId, traceId('a'), span.name);
      assert.equal(attribute(span, 'db.system.name'), 'postgresql');
      assert.match(String(attribute(span, 'db.query.text')), /\S/);
    }
    const text = JSON.stringify(spans);
    for (const secret of ['secret-payload', 'c2VjcmV0']) assert.ok(!text.includes(secret), 'no payload in a trace');
    await collector.close();
  });

  test('the spans of calls that share a commit and the span of the commit link to each other', async (context) => {
    const collector = await startCollector(context);
    const database = await createDatabase();
    const proxy = await openFaultProxy(database.url);
    context.after(() => proxy.close());
    const service = await startService({ ...traced(collector), lanes: 1, databaseUrl: proxy.url });
    const call = (digit: string, body: object[]) =>
      jsonCaller(service.url, parentOf(digit)).post('/message/sendbatch', body);
    await call('1', [draft('first')]);
    const release = proxy.holdNextAppend();
    const ahead = call('2', [draft('ahead')]);
    await until('the group ahead is held back', () => proxy.cuts === 1);
    const sharing = [call('3', [draft('b')]), call('4', [draft('c')])];
    // Both must wait in the lane before the group ahead ends; the metrics show when.
    // With several shards, in the lane of the channels' shard.
    const lane = shards.count === 1 ? '0' : '\\d+';
    const bothWait = new RegExp(`sendbatch_lane_waiting_batches\\{lane="${lane}"\\} 2\\n`);
    await until('both wait', async () => bothWait.test(await service.metrics()));
    release();
    for (const answer of await Promise.all([ahead, ...sharing])) assert.equal(answer.status, 200);
    await service.stop();
    await database.drop();
    const spans = collector.spans();
    const callOf = (digit: string) =>
      spans.find((span) => span.traceId === traceId(digit) && span.name.endsWith('SendBatch'));
    const shared = spans.find((span) => Number(attribute(span, 'sendbatch.group.batches')) === 2);
    const links = shared?.links?.map((link) => link.spanId).sort();
    assert.deepEqual(links, [callOf('3')?.spanId, callOf('4')?.spanId].sort());
    const [first, second] = shared?.traceId === traceId('3') ? ['3', '4'] : ['4', '3'];
    assert.equal(shared?.parentSpanId, callOf(first ?? '')?.spanId, 'below the first of them');
    assert.deepEqual(
      callOf(second ?? '')?.links?.map((link) => link.spanId),
      [shared?.spanId],
    );
    await collector.close();
  });

  test('the trace context is sent to the moderation hook', async (context) => {
    const seen: (string | undefined)[] = [];
    const hook = createServer((request, response) => {
      seen.push(request.headers.traceparent as string | undefined);
      response.end('{"results":[{"action":"allow"}]}');
    });
    await new Promise<void>((resolve) => hook.listen(0, '127.0.0.1', resolve));
    context.after(() => hook.close());
    const url = `http://127.0.0.1:${(hook.address() as AddressInfo).port}/`;
    const collector = await startCollector(context);
    const moderationHook = { url, timeoutMs: 30_000, onFailure: 'closed' as const };
    const service = await startService({ ...traced(collector), moderationHook });
    await jsonCaller(service.url, parentOf('b')).post('/message/send', draft('1'));
    await service.stop();
    const call = collector.spans().find((span) => span.name.endsWith('/Send'));
    assert.deepEqual(seen, [`00-${traceId('b')}-${call?.spanId}-01`]);
    await collector.close();
  });

  test('a call that misses its deadline is an error in its span', async (context) => {
    const collector = await startCollector(context);
    const database = await createDatabase();
    const proxy = await openFaultProxy(database.url);
    context.after(() => proxy.close());
    const service = await startService({ ...traced(collector), databaseUrl: proxy.url });
    // The store answers after the deadline, however fast or slow the machine is.
    const release = proxy.holdNextAppend();
    const headers = { ...parentOf('e'), 'connect-timeout-ms': '50' };
    const { status } = await jsonCaller(service.url, headers).post('/message/sendbatch', [draft('1')]);
    release();
    assert.equal(status, 504);
    await service.stop();
    await database.drop();
    const call = collector.spans().find((span) => span.traceId === traceId('e') && span.name.endsWith('/SendBatch'));
    assert.deepEqual([call?.status.code, attribute(call, 'error.type')], [2, 'DEADLINE']);
    await collector.close();
  });

  test('a refusal has its reason in the span without an error, and unsampled callers are not traced', async (context) => {
    const collector = await startCollector(context);
    const service = await startService(traced(collector));
    const { status } = await jsonCaller(service.url, parentOf('c')).post(
      '/message/send',
      draft('1', { channel_type: 99 }),
    );
    assert.equal(status, 400);
    await jsonCaller(service.url, parentOf('d', '00')).post('/message/send', draft('2'));
    await service.stop();
    const spans = collector.spans();
    const call = spans.find((span) => span.traceId === traceId('c'));
    assert.deepEqual([call?.status.code, attribute(call, 'error.type')], [0, 'INVALID_FIELD']);
    assert.deepEqual(
      spans.filter((span) => span.traceId === traceId('d')),
      [],
    );
    await collector.close();
  });

  test('the OTEL variables enable traces in Protobuf, and an unreachable collector fails neither a call nor a stop', async (context) => {
    const collector = await startCollector(context);
    const database = await createDatabase();
    const service = await spawnService({
      DATABASE_URL: database.url,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_SERVICE_NAME: 'chat-batches',
      OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test',
    });
    assert.equal((await jsonCaller(service.url).post('/message/send', draft('1'))).status, 200);
    assert.equal(await service.end('SIGTERM'), 0, service.output());
    for (const { path, type } of collector.requests)
      assert.deepEqual([path, type], ['/v1/traces', 'application/x-protobuf']);
    const sent = Buffer.concat(collector.requests.map(({ body }) => body));
    for (const text of [
      'sendbatch.v1.MessageService/Send',
      'group commit',
      'chat-batches',
      'deployment.environment.name',
    ])
      assert.ok(sent.includes(text), text);
    await collector.close();

    const away = await spawnService({ DATABASE_URL: database.url, OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
    assert.equal((await jsonCaller(away.url).post('/message/send', draft('2'))).status, 200);
    assert.equal(await away.end('SIGTERM'), 0);
    await database.drop();
  });

  test('OTEL_TRACES_EXPORTER=none disables traces', async (context) => {
    const collector = await startCollector(context);
    const database = await createDatabase();
    const service = await spawnService({
      DATABASE_URL: database.url,
      OTEL_TRACES_EXPORTER: 'none',
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    });
    assert.equal((await jsonCaller(service.url).post('/message/send', draft('1'))).status, 200);
    assert.equal(await service.end('SIGTERM'), 0);
    assert.equal(collector.requests.length, 0);
    await collector.close();
    await database.drop();
  });
});
