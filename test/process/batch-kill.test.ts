import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { randomOf } from '../../bench/workload.ts';
import { type Batch, BatchService, BatchState } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { killAll, quietLog, startCluster, type TestCluster } from '../support/cluster.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { seedOf } from '../support/seed.ts';
import { assertSound, query, readAll } from '../support/verify.ts';

const messages = 30_000;
const channels = 40;
/** A killed worker holds the batch for about 4 s; no wait here is longer than a few of those. */
const patienceMs = 90_000;

describe('kill -9 in the middle of a submitted batch', () => {
  let cluster: TestCluster;
  const services: ServiceProcess[] = [];
  const spawn = () => spawnService({ DATABASE_URL: cluster.url('sendbatch'), BATCH_CONCURRENCY: '1' });
  before(async () => {
    cluster = await startCluster({ durable: true });
    services.push(...(await Promise.all([spawn(), spawn()])));
  });
  after(async () => {
    await Promise.all(services.map((service) => service.end('SIGKILL')));
    await cluster.stop();
  });

  const clientOf = ({ url }: ServiceProcess) =>
    createClient(BatchService, createConnectTransport({ baseUrl: url, httpVersion: '1.1' }));

  /**
   * Lets 10 s pass, after which a slot without a heartbeat goes to another worker.
   * A slot that is alive may be taken over too.
   */
  const endHeartbeats = () =>
    query(
      cluster.url('sendbatch'),
      `update sendbatch_jobs.job set heartbeat_on = heartbeat_on - heartbeat_seconds * interval '1 second'
       where state = 'active' and heartbeat_seconds is not null`,
    );

  /** Asks whichever instance answers. */
  async function batchNow(batchId: string): Promise<Batch> {
    const deadline = Date.now() + patienceMs;
    for (let attempt = 0; Date.now() < deadline; attempt++) {
      const service = services[attempt % services.length] as ServiceProcess;
      const answer = await clientOf(service)
        .getBatch({ batchId }, { timeoutMs: 5000 })
        .catch(() => undefined);
      if (answer?.batch !== undefined) return answer.batch;
      await delay(20);
    }
    throw new Error('no instance answered');
  }

  test('a submitted batch survives kill -9 of workers and of PostgreSQL: each message once and in order, the results complete', async (context) => {
    const random = randomOf(seedOf(context));
    const [first] = services as [ServiceProcess, ServiceProcess];
    const drafts = Array.from({ length: messages }, (_, index) => ({
      channelId: `c${Math.floor(random() * channels)}`,
      channelType: ChannelType.GROUP,
      fromUid: 'u1',
      payload: Buffer.from(String(index)),
    }));
    const { batch } = await clientOf(first).submitBatch({ messages: drafts, requestId: 'killed' });
    assert.ok(batch);
    const { batchId } = batch;
    // Five kills, one of PostgreSQL, each after a number of further messages.
    const kills = Array.from({ length: 5 }, (_, index) => ({
      after: Math.floor(messages * ((index + random() * 0.8) / 6)),
      victim: index === 2 ? ('postgres' as const) : Math.floor(random() * services.length),
    }));
    let { pid } = cluster;
    let moved = { count: -1, at: 0 };
    /** The batch's current state; fails when it has not progressed for too long. */
    const poll = async (): Promise<Batch> => {
      const now = await batchNow(batchId);
      if (now.acceptedCount > moved.count) moved = { count: now.acceptedCount, at: Date.now() };
      assert.ok(Date.now() < moved.at + patienceMs, 'the batch stands still');
      return now;
    };
    for (const { after: count, victim } of kills) {
      while ((await poll()).acceptedCount < count) await delay(5);
      if (victim === 'postgres') {
        killAll(pid);
        ({ pid } = await startEmbedded({ dataDir: cluster.dataDir, explicit: true, log: quietLog }));
      } else {
        await services[victim]?.end('SIGKILL');
        services[victim] = await spawn();
      }
      await endHeartbeats();
    }
    let now = await poll();
    while (now.endedAt === undefined) {
      await delay(20);
      now = await poll();
    }
    context.diagnostic(`kills after ${kills.map((each) => `${each.after} of ${each.victim}`).join(', ')}`);
    assert.equal(now.state, BatchState.COMPLETED);
    assert.deepEqual([now.acceptedCount, now.duplicateCount, now.refusedCount], [messages, 0, 0]);

    const client = clientOf(services[0] as ServiceProcess);
    const results = [];
    let pageToken = '';
    do {
      const page = await client.listBatchResults({ batchId, pageToken });
      results.push(...page.results);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    const rows = await readAll(cluster.url('sendbatch'));
    assert.equal(rows.length, messages);
    const stored = new Map(rows.map((row) => [row.key, row]));
    assert.equal(results.length, messages);
    for (const [index, result] of results.entries()) {
      const row = stored.get(`killed:${index}`);
      assert.deepEqual([result.index, Number(result.messageId), Number(result.messageSeq)], [index, row?.id, row?.seq]);
      assert.equal(row?.payload, String(index));
    }
    for (let channel = 0; channel < channels; channel++) {
      const order = rows.filter((row) => row.channel === `c${channel}`).map((row) => Number(row.payload));
      assert.deepEqual(
        order,
        [...order].sort((a, b) => a - b),
      );
    }

    // The recall of the batch survives a kill too.
    await client.recallBatch({ batchId });
    const isRecalling = async (count: number) => {
      now = await batchNow(batchId);
      return now.recallEndedAt === undefined && (now.recalledCount ?? 0) < count;
    };
    while (await isRecalling(messages / 3)) await delay(5);
    await services[1]?.end('SIGKILL');
    await endHeartbeats();
    const deadline = Date.now() + patienceMs;
    while (await isRecalling(messages)) {
      assert.ok(Date.now() < deadline, 'the recall stands still');
      await delay(20);
    }
    assert.deepEqual([now.recalledCount, now.recallMissingCount], [messages, 0]);
    const erased = await query(
      cluster.url('sendbatch'),
      `select count(*) filter (where payload = '') as erased, (select count(*) from sendbatch.message_change) as changes
       from sendbatch.message`,
    );
    assert.deepEqual(erased, [{ erased: String(messages), changes: String(messages) }]);
    await assertSound(cluster.url('sendbatch'));
  });
});
