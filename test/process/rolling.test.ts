import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Interceptor, Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType, createSendbatch } from '../../src/client/index.ts';
import { type Balancer, openBalancer } from '../support/balancer.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { assertSound, readAll } from '../support/verify.ts';

const instances = 2;
const restartsEach = 3;
const batchMessages = 5;
const tries = 8;
/** Between the batches of a sender, which would otherwise use the CPU that the restarts need. */
const pauseMs = 10;

/** Sends batch after batch until stopped, and gives up when retries do not help. */
type Sender = (key: string, channelId: string) => Promise<number[]>;

describe('a rolling restart', () => {
  let database: TestDatabase;
  let balancer: Balancer;
  const services: ServiceProcess[] = [];
  const launch = () => spawnService({ DATABASE_URL: database.url });
  before(async () => {
    database = await createDatabase();
    balancer = await openBalancer();
    for (let place = 0; place < instances; place++) {
      const service = await launch();
      services.push(service);
      balancer.set(place, service.url);
    }
  });
  after(async () => {
    await Promise.all(services.map((service) => service.end('SIGKILL')));
    await balancer.close();
    await database.drop();
  });

  test('rolling restarts of both instances under load: no retrying caller fails, every message is stored once, and a tail goes on', async (context) => {
    const failedTries = new Map<string, number>();
    const count = (what: string) => failedTries.set(what, (failedTries.get(what) ?? 0) + 1);
    const counting =
      (name: string): Interceptor =>
      (next) =>
      async (request) => {
        try {
          return await next(request);
        } catch (error) {
          count(`${name}: ${error instanceof Error ? error.message : String(error)}`);
          throw error;
        }
      };
    const options = (name: string) => ({ baseUrl: balancer.url, interceptors: [counting(name)] });
    const clientOf = (transport: Transport) =>
      createSendbatch({ transport, retry: { attempts: tries, firstPauseMs: 50 } });
    const byClient =
      (transport: Transport): Sender =>
      async (key, channelId) => {
        const results = await clientOf(transport).send(
          Array.from({ length: batchMessages }, (_, index) => ({
            channelType: ChannelType.GROUP,
            channelId,
            fromUid: 'u',
            clientMsgNo: `${key}-${index}`,
            payload: Buffer.from(`${key}-${index}`),
          })),
        );
        return results.map((result) => {
          assert.equal(result.error, undefined);
          return Number(result.messageSeq);
        });
      };
    // As a script would: fetch keeps its connections, and attempts follow one another.
    const byFetch: Sender = async (key, channel_id) => {
      const body = JSON.stringify(
        Array.from({ length: batchMessages }, (_, index) => ({
          from_uid: 'u',
          channel_id,
          channel_type: 2,
          client_msg_no: `${key}-${index}`,
          payload: Buffer.from(`${key}-${index}`).toString('base64'),
        })),
      );
      for (let attempt = 1; ; attempt++) {
        try {
          const response = await fetch(`${balancer.url}/message/sendbatch`, { method: 'POST', body });
          const text = await response.text();
          if (response.status === 200)
            return (JSON.parse(text) as { message_seq: number }[]).map((each) => each.message_seq);
          count(`fetch: ${response.status}`);
          assert.equal(response.status, 503, text);
        } catch (error) {
          if (error instanceof assert.AssertionError || attempt === tries) throw error;
          const { cause } = error as { cause?: { code?: string } };
          count(`fetch: ${cause?.code}`);
        }
        await delay(Math.random() * 50 * 2 ** attempt);
      }
    };
    const senders: Record<string, Sender> = {
      grpc: byClient(createGrpcTransport(options('grpc'))),
      'connect over HTTP/1.1': byClient(createConnectTransport({ ...options('connect'), httpVersion: '1.1' })),
      'connect over HTTP/2': byClient(createConnectTransport({ ...options('connect h2'), httpVersion: '2' })),
      fetch: byFetch,
    };

    let rolling = true;
    const sent: string[] = [];
    const work = Object.entries(senders).flatMap(([name, send]) =>
      [0, 1].map(async (number) => {
        for (let round = 0; rolling; round++) {
          const key = `${name}-${number}-${round}`;
          const seqs = await send(key, `channel${round % 3}`);
          sent.push(...seqs.map((_, index) => `${key}-${index}`));
          const first = seqs[0] ?? 0;
          assert.ok(first > 0 && seqs.every((seq, index) => seq >= first + index), `${key}: in order`);
          await delay(pauseMs);
        }
      }),
    );
    const stopped = new AbortController();
    const heard: number[] = [];
    const tailing = (async () => {
      const tail = clientOf(createGrpcTransport({ baseUrl: balancer.url })).tail(
        { channels: [{ channelType: ChannelType.GROUP, channelId: 'channel0' }] },
        { signal: stopped.signal },
      );
      try {
        for await (const message of tail) heard.push(Number(message.messageSeq));
      } catch (error) {
        if (!stopped.signal.aborted) throw error;
      }
    })();

    const restarting = (async () => {
      try {
        for (let round = 0; round < restartsEach; round++)
          for (let place = 0; place < instances; place++) {
            const before = sent.length;
            const old = services[place];
            assert.equal(await old?.end('SIGTERM'), 0, old?.output());
            // Starts the replacement only now: new calls go to the other instance meanwhile.
            const service = await launch();
            services[place] = service;
            balancer.set(place, service.url);
            assert.ok(sent.length > before, 'others were served meanwhile');
          }
      } finally {
        rolling = false;
      }
    })();
    await Promise.all([restarting, ...work]);

    const rows = await readAll(database.url);
    const last = rows.filter((row) => row.channel === 'channel0').length;
    for (const until = Date.now() + 60_000; heard.length < last && Date.now() < until; ) await delay(20);
    stopped.abort();
    await tailing;
    context.diagnostic(
      `${sent.length} messages; tries that failed: ${JSON.stringify(Object.fromEntries(failedTries))}`,
    );
    assert.deepEqual(rows.map((row) => row.key).sort(), sent.sort());
    assert.deepEqual(
      heard,
      Array.from({ length: last }, (_, index) => index + 1),
    );
    await assertSound(database.url);
  });
});
