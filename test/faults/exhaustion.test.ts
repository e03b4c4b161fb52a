import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import pg from 'pg';
import { limits } from '../../src/limits.ts';
import { classifyPgError } from '../../src/postgres/pg-errors.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound } from '../support/verify.ts';
import { assertBusy, clientOf, draftTo, timed, until, type Watch, watch } from '../support/watch.ts';

const lockTimeoutMs = 500;
const statementTimeoutMs = 1000;
const requestTimeoutMs = 10_000;

describe('a database that runs out of connections, time or locks', () => {
  let cluster: TestCluster;
  let url: string;
  let service: TestService;
  let other: TestService;
  let watching: Watch;
  let admin: pg.Client;
  before(async () => {
    cluster = await startCluster({ durable: false, settings: { max_connections: '40' } });
    url = cluster.url('sendbatch');
    const settings = { databaseUrl: url, poolSize: 2, sweepIntervalMs: 200 };
    other = await startService(settings);
    service = await startService({ ...settings, lockTimeoutMs, statementTimeoutMs, requestTimeoutMs });
    admin = await connected(url);
    watching = watch(service, other, url);
    await watching.assertWell();
  });
  after(async () => {
    watching.stop();
    await admin.end();
    await service.stop();
    await other.stop();
    await cluster.stop();
  });

  /** Sends over gRPC and JSON and reads, all at once; each must get a retryable error in time. */
  async function assertAllBusy(channel: string): Promise<void> {
    const grpc = clientOf(service, 'gRPC, grpc-js');
    const json = clientOf(service, 'JSON route');
    const { result, ms } = await timed(
      Promise.all([
        grpc.send({ messages: [draftTo(channel, '1')] }),
        json.send({ messages: [draftTo(channel, '2')] }),
        ...Array.from({ length: 20 }, async () => {
          const read = await fetch(`${service.url}/v1/channels/2/${channel}/messages`);
          return [read.status, read.headers.get('retry-after'), await read.json()] as const;
        }),
      ]),
    );
    const [byGrpc, byJson, ...reads] = result;
    assertBusy(byGrpc);
    assertBusy(byJson);
    for (const [status, retryAfter, body] of reads)
      assert.deepEqual([status, retryAfter], [503, '1'], JSON.stringify(body));
    assert.ok(ms < requestTimeoutMs, `${ms} ms`);
    grpc.close();
  }

  async function untilTaken(channel: string): Promise<void> {
    const client = clientOf(service, 'JSON route');
    await until(`${channel} is made`, async () =>
      /^(ok|again)$/.test(said(await client.send({ messages: [draftTo(channel, '0')] }))),
    );
  }

  async function assertWellAgain(channel: string): Promise<void> {
    const client = clientOf(service, 'Connect, binary');
    const messages = [draftTo(channel, '1'), draftTo(channel, '2')];
    await until(`${channel} is taken`, async () =>
      /^(ok|again) (ok|again)$/.test(said(await client.send({ messages }))),
    );
    await watching.assertWell();
    await assertSound(url);
  }

  test('when other sessions use up max_connections, calls get STORE_BUSY in time', async () => {
    const hogs: pg.Client[] = [];
    const ours = `pid <> pg_backend_pid() and application_name = 'sendbatch'`;
    const hasNone = async () => (await admin.query(`select from pg_stat_activity where ${ours}`)).rows.length === 0;
    try {
      for (let round = 1; ; round++) {
        // Takes every connection: ends those of the service, and takes the freed slots before it
        // reconnects.
        await until('the service has no connection left', async () => {
          await admin.query(`select pg_terminate_backend(pid) from pg_stat_activity where ${ours}`);
          for (let full = false; !full; ) {
            const hog = await connected(url).catch((error: { code?: string }) => error);
            if (hog instanceof pg.Client) hogs.push(hog);
            else full = true;
          }
          return await hasNone();
        });
        const fault: unknown = await assertAllBusy('no-connections').catch((error: unknown) => error);
        if (fault === undefined) break;
        // Another session may have ended, and the service may have taken the free slot first.
        if (round === 5 || (await hasNone())) throw fault;
      }
    } finally {
      await Promise.all(hogs.map((hog) => hog.end()));
    }
    await assertWellAgain('no-connections');
  });

  test('when another session locks a table and waiting calls fill the pool, calls get STORE_BUSY in time', async () => {
    await untilTaken('locked');
    await admin.query('begin');
    await admin.query('lock table sendbatch.message in access exclusive mode');
    await assertAllBusy('locked');
    await admin.query('rollback');
    await assertWellAgain('locked');
  });

  test('statements that exceed the statement timeout are STORE_BUSY in time', async () => {
    await untilTaken('slow');
    await admin.query(
      `create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(60); return new; end'`,
    );
    await admin.query(`create trigger slow before insert on sendbatch.message for each row execute function slow()`);
    const client = clientOf(service, 'gRPC, connect-node');
    const { result, ms } = await timed(client.send({ messages: [draftTo('slow', '1')] }));
    assertBusy(result);
    assert.ok(ms < requestTimeoutMs, `${ms} ms`);
    // Reads do not wait for writers.
    const read = async () => (await fetch(`${service.url}/v1/channels/2/slow/messages`)).status;
    await until('reading goes on', async () => (await read()) === 200);
    await admin.query('drop trigger slow on sendbatch.message');
    await assertWellAgain('slow');
  });

  test('when more calls wait for a connection than can be served in time, the next call is refused at once', async () => {
    const db = openDatabase({
      connection: { url },
      poolSize: 1,
      lockTimeoutMs: 0,
      statementTimeoutMs: 0,
      connectTimeoutMs: 120_000,
      onConnectionError: () => {},
    });
    const { promise: held, resolve: release } = Promise.withResolvers<void>();
    const holding = db.connection().execute(() => held);
    const waiting = Array.from({ length: limits.poolWaiting }, () => sql`select`.execute(db));
    await until('all wait or are served', async () => {
      const error: unknown = await Promise.race([
        sql`select`.execute(db).then(
          () => undefined,
          (refused: unknown) => refused,
        ),
        new Promise((resolve) => setTimeout(resolve, 100)),
      ]);
      return (
        error instanceof Error && classifyPgError(error) === 'lost' && error.message.startsWith('no connection is free')
      );
    });
    release();
    await holding;
    await Promise.all(waiting);
    await db.destroy();
  });
});

async function connected(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  return client;
}
