import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import * as grpc from '@grpc/grpc-js';
import pg from 'pg';
import {
  Health,
  HealthCheckRequestSchema,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from '../../gen/grpc/health/v1/health_pb.ts';
import { ConfigError, loadConfig } from '../../src/config/index.ts';
import { createReadiness } from '../../src/postgres/readiness.ts';
import { guardedServices } from '../../src/rpc/interceptors/authenticate.ts';
import { adminUrlVariable, createDatabase, openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { samplesOf } from '../support/metrics.ts';
import { startService, type TestService } from '../support/service.ts';
import { query } from '../support/verify.ts';
import { until } from '../support/watch.ts';

const transports = (url: string): [string, Transport][] => [
  ['gRPC', createGrpcTransport({ baseUrl: url })],
  ['gRPC-Web', createGrpcWebTransport({ baseUrl: url, httpVersion: '1.1' })],
  ['Connect', createConnectTransport({ baseUrl: url, httpVersion: '1.1' })],
];

async function runSql(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

const names = new Map<number, string>(Object.entries(Status).map(([name, value]) => [value, name]));

/** Watches health with grpc-js, as the client of an orchestrator does. */
function watch(url: string, service: string) {
  const client = new grpc.Client(new URL(url).host, grpc.credentials.createInsecure());
  const stream = client.makeServerStreamRequest(
    '/grpc.health.v1.Health/Watch',
    (message: { service: string }) =>
      Buffer.from(toBinary(HealthCheckRequestSchema, create(HealthCheckRequestSchema, message))),
    (bytes: Buffer) => fromBinary(HealthCheckResponseSchema, bytes),
    { service },
    new grpc.Metadata(),
    { deadline: Date.now() + 240_000 },
  );
  const statuses = stream[Symbol.asyncIterator]();
  return {
    /** Returns the next status, or the code of the error that ended the watch. */
    async next(): Promise<string> {
      try {
        const { value, done } = await statuses.next();
        return done === true ? 'ended' : (names.get((value as { status: number }).status) ?? '');
      } catch (error) {
        return grpc.status[(error as grpc.ServiceError).code] ?? String(error);
      }
    },
    close() {
      stream.on('error', () => {}).cancel();
      client.close();
    },
  };
}

describe('health', () => {
  let service: TestService;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService();
    call = jsonCaller(service.url);
  });
  after(() => service.stop());

  test('the health probes answer in JSON and as lines', async () => {
    assert.deepEqual(await call.get('/livez'), { status: 200, body: { status: 'ok' } });
    const well = { status: 'ok', checks: { database: 'ok', schema: 'ok', draining: 'ok' } };
    for (const path of ['/readyz', '/healthz']) assert.deepEqual(await call.get(path), { status: 200, body: well });
    const lines = await (await fetch(`${service.url}/readyz?verbose`)).text();
    assert.equal(lines, '[+] database: ok\n[+] schema: ok\n[+] draining: ok\nok\n');
    const head = await fetch(`${service.url}/readyz`, { method: 'HEAD' });
    assert.deepEqual([head.status, head.headers.get('cache-control'), await head.text()], [200, 'no-store', '']);
    assert.equal((await fetch(`${service.url}/readyz`, { method: 'POST' })).status, 405);
  });

  test('only probes are served under a Host that the origin check refuses', async () => {
    const byAddress = async (path: string) =>
      await new Promise<number | undefined>((resolve, reject) => {
        httpRequest(service.url + path, { headers: { host: '10.1.2.3:5001' } }, (response) => {
          response.resume();
          resolve(response.statusCode);
        })
          .on('error', reject)
          .end();
      });
    assert.equal(await byAddress('/livez'), 200);
    assert.equal(await byAddress('/readyz'), 200);
    for (const path of ['/docs', '/', '/openapi.json', '/v1/server-info', '/readyz/x'])
      assert.equal(await byAddress(path), 403, path);
  });

  test('health Check and List cover the server and each service over every protocol, and unknown services are NOT_FOUND', async () => {
    for (const [name, transport] of transports(service.url)) {
      const client = createClient(Health, transport);
      for (const each of ['', ...guardedServices.map(({ typeName }) => typeName)])
        assert.equal((await client.check({ service: each })).status, Status.SERVING, `${name} ${each}`);
      await assert.rejects(
        client.check({ service: 'sendbatch.v1.Nothing' }),
        (error) => error instanceof ConnectError && error.code === Code.NotFound,
      );
      const { statuses } = await client.list({});
      for (const { typeName } of guardedServices) assert.equal(statuses[typeName]?.status, Status.SERVING, typeName);
      assert.equal(statuses['']?.status, Status.SERVING);
    }
  });

  test('health Watch of an unknown service reports SERVICE_UNKNOWN and stays open', async () => {
    const unknown = watch(service.url, 'sendbatch.v1.Nothing');
    assert.equal(await unknown.next(), 'SERVICE_UNKNOWN');
    unknown.close();
  });

  test('the service is live but not ready while its database refuses connections, and ready again afterwards', async () => {
    const admin = process.env[adminUrlVariable] ?? '';
    const name = new URL(service.databaseUrl).pathname.slice(1);
    const watching = watch(service.url, 'sendbatch.v1.MessageService');
    assert.equal(await watching.next(), 'SERVING');
    await runSql(admin, `alter database ${name} allow_connections false`);
    try {
      // A connection admitted just before may appear after the first check.
      const ended = `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'`;
      await until('no connection is left', async () => (await query(admin, ended)).length === 0);
      assert.equal(await watching.next(), 'NOT_SERVING');
      const { status, body } = await call.get('/readyz');
      assert.equal(status, 503);
      assert.deepEqual([body.status, body.checks.draining], ['unavailable', 'ok']);
      assert.match(body.checks.database, /no answer/);
      assert.doesNotMatch(JSON.stringify(body), new RegExp(name), 'no address of the database');
      assert.equal((await call.get('/livez')).status, 200);
    } finally {
      await runSql(admin, `alter database ${name} allow_connections true`);
    }
    assert.equal(await watching.next(), 'SERVING');
    assert.equal((await call.get('/readyz')).status, 200);
    watching.close();
  });

  test('health needs no credential where all other calls do, and other calls still need one', async () => {
    const strict = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false });
    try {
      for (const [name, transport] of transports(strict.url))
        assert.equal((await createClient(Health, transport).check({})).status, Status.SERVING, name);
      const watching = watch(strict.url, '');
      assert.equal(await watching.next(), 'SERVING');
      watching.close();
      for (const path of ['/livez', '/readyz', '/healthz'])
        assert.equal((await fetch(strict.url + path)).status, 200, path);
      assert.equal((await fetch(`${strict.url}/v1/server-info`)).status, 401);
    } finally {
      await strict.stop();
    }
  });
});

/** An empty request in a gRPC envelope. */
const nothing = Buffer.alloc(5);

test('a client that cancels a health Watch at any moment is never counted as INTERNAL', async () => {
  const service = await startService();
  const session = http2.connect(service.url);
  session.on('error', () => {});
  await new Promise((resolve) => session.once('remoteSettings', resolve));
  const path = '/grpc.health.v1.Health/Watch';
  // Stays below the count of resets that Node treats as an attack.
  for (let round = 0; round < 5; round++) {
    const streams = Array.from({ length: 50 }, () => {
      const headers = { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' };
      const stream = session.request(headers);
      stream.on('error', () => {});
      stream.end(nothing);
      return stream;
    });
    await new Promise(setImmediate);
    const closed = streams.map((stream) => new Promise((resolve) => stream.once('close', resolve)));
    for (const stream of streams) stream.close(http2.constants.NGHTTP2_CANCEL);
    await Promise.all(closed);
  }
  session.close();
  const ends = async () =>
    samplesOf(await service.metrics()).filter(
      ({ name, labels }) => name === 'rpc_server_call_duration_seconds_count' && path === `/${labels.rpc_method}`,
    );
  const count = (samples: Awaited<ReturnType<typeof ends>>) => samples.reduce((sum, { value }) => sum + value, 0);
  for (let look = 0; look < 500 && count(await ends()) < 250; look++) await delay(10);
  assert.equal(count(await ends()), 250);
  assert.deepEqual(
    (await ends()).filter(({ labels }) => labels.rpc_response_status_code === 'INTERNAL'),
    [],
  );
  await service.stop();
});

describe('a stop', () => {
  test('a stop reports not ready first and keeps serving for the drain delay', async () => {
    const drain = async (drainDelayMs: number) => {
      const service = await startService({ drainDelayMs });
      const call = jsonCaller(service.url);
      const watching = watch(service.url, '');
      assert.equal(await watching.next(), 'SERVING');
      const stopping = service.stop();
      const since = performance.now();
      assert.equal(await watching.next(), 'NOT_SERVING');
      const ready = await call.get('/readyz').catch(() => undefined);
      const draft = { from_uid: 'system', channel_id: 'drain', channel_type: 2, payload: 'SGk=' };
      const sent = await call.post('/message/send', draft).catch(() => undefined);
      return { call, watching, stopping, ready, sent, isInTime: performance.now() - since < drainDelayMs };
    };
    let drained = await drain(2000);
    // A machine that paused for the whole delay gets a longer one.
    for (const longer of [8000, 30_000])
      if (!drained.isInTime) {
        await drained.stopping;
        drained.watching.close();
        drained = await drain(longer);
      }
    const { call, watching, stopping, ready, sent } = drained;
    assert.deepEqual([ready?.status, ready?.body.checks.draining], [503, 'this instance is stopping']);
    assert.equal(sent?.status, 200);
    assert.equal(await watching.next(), 'UNAVAILABLE');
    await stopping;
    watching.close();
    await assert.rejects(call.get('/livez'));
  });

  test('a stop without a drain delay notifies health watches before their connections end', async () => {
    const service = await startService();
    const watchers = ['', 'sendbatch.v1.MessageService'].map((name) => watch(service.url, name));
    const unknown = watch(service.url, 'nothing');
    for (const each of watchers) assert.equal(await each.next(), 'SERVING');
    assert.equal(await unknown.next(), 'SERVICE_UNKNOWN');
    const stopping = service.stop();
    for (const each of watchers) assert.equal(await each.next(), 'NOT_SERVING');
    for (const each of [...watchers, unknown]) assert.equal(await each.next(), 'UNAVAILABLE');
    await stopping;
    for (const each of [...watchers, unknown]) each.close();
  });

  test('DRAIN_DELAY accepts whole milliseconds and refuses other values', () => {
    const env = { DATABASE_URL: 'postgres://not/asked' };
    assert.equal(loadConfig(env).drainDelayMs, 0);
    assert.equal(loadConfig({ ...env, DRAIN_DELAY: '5000' }).drainDelayMs, 5000);
    for (const odd of ['-1', 'soon', '1.5'])
      assert.throws(
        () => loadConfig({ ...env, DRAIN_DELAY: odd }),
        (error) => error instanceof ConfigError && /DRAIN_DELAY/.test(error.message),
      );
  });
});

describe('readiness', () => {
  test('readiness reports a drain at once even when the database does not answer', async () => {
    const database = await createDatabase();
    const db = openStore(database.url);
    let now = 0;
    const readiness = createReadiness(db, { patienceMs: 60_000, now: () => now });
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    const gone = new AbortController();
    try {
      const changes = readiness.follow(gone.signal)[Symbol.asyncIterator]();
      assert.equal((await changes.next()).value.ready, true);
      const holding = Promise.withResolvers<void>();
      const holder = db.connection().execute(() => {
        holding.resolve();
        return held;
      });
      await holding.promise;
      now = 5000;
      const next = changes.next();
      const drained = readiness.drain();
      assert.equal((await Promise.race([next, drained]))?.value.ready, false, 'before the drain continues');
      const end = changes.next();
      await drained;
      gone.abort();
      await end;
      release();
      await holder;
    } finally {
      release();
      await db.destroy();
      await database.drop();
    }
  });

  test('readiness checks at most once per second, fails for a schema with missing migrations and accepts a newer one', async () => {
    const database = await createDatabase();
    const db = openStore(database.url);
    let now = 0;
    const readiness = createReadiness(db, { patienceMs: 60_000, now: () => now });
    const schema = async () => (await readiness.look()).checks.find(({ name }) => name === 'schema')?.fault;
    try {
      assert.equal(await schema(), undefined);
      await runSql(database.url, `insert into sendbatch.migration (name, timestamp) values ('9999-newer', 'now')`);
      await runSql(database.url, `delete from sendbatch.migration where name = '0001-messages'`);
      assert.equal(await schema(), undefined, 'what was seen is known for a second');
      now = 1001;
      assert.equal(await schema(), 'migrations are missing: 0001-messages');
      assert.equal((await readiness.look()).ready, false);
      await runSql(database.url, `insert into sendbatch.migration (name, timestamp) values ('0001-messages', 'now')`);
      now = 2002;
      assert.equal((await readiness.look()).ready, true);
      await runSql(database.url, 'drop schema sendbatch cascade');
      now = 3003;
      assert.match((await schema()) ?? '', /no migration/);
    } finally {
      await db.destroy();
      await database.drop();
    }
  });
});
