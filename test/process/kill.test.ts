import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { randomOf } from '../../bench/workload.ts';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { quietLog, startCluster, type TestCluster } from '../support/cluster.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { seedOf } from '../support/seed.ts';
import { assertSound, readAll } from '../support/verify.ts';

const clients = 8;
const runMs = 9000;
/** For both kinds of kills, on a machine where a start is slow. */
const longestRunMs = 120_000;
/** A batch that is not accepted within this time is a failure. */
const patienceMs = 60_000;

interface Batch {
  readonly messages: {
    from_uid: string;
    channel_id: string;
    channel_type: number;
    client_msg_no: string;
    payload: string;
  }[];
  acked: { message_id: number; message_seq: number }[] | undefined;
}

interface Answer {
  readonly message_id: number;
  readonly message_seq: number;
  readonly error?: { readonly reason: string };
}

describe('kill -9 under load', () => {
  let cluster: TestCluster;
  const services: (ServiceProcess | undefined)[] = [];
  let url: string;

  before(async () => {
    cluster = await startCluster({ durable: true });
    url = cluster.url('sendbatch');
    services.push(...(await Promise.all([spawnService({ DATABASE_URL: url }), spawnService({ DATABASE_URL: url })])));
  });
  after(async () => {
    await Promise.all(services.map((service) => service?.end('SIGKILL')));
    await cluster.stop();
  });

  test('after kill -9 of services and of PostgreSQL under load, every acknowledged message is stored once, and retries are exact', async (context) => {
    const random = randomOf(seedOf(context));
    const pick = (count: number) => Math.floor(random() * count);
    const sent: Batch[] = [];
    const taken: { message: Batch['messages'][number] | undefined; message_id: number; message_seq: number }[] = [];
    const start = Date.now();
    const kills = { service: 0, postgres: 0 };
    const isOver = (beforeMs = 0) => {
      const ms = Date.now() - start + beforeMs;
      return ms > longestRunMs || (ms > runMs && kills.service > 0 && kills.postgres > 0);
    };

    async function client(number: number): Promise<void> {
      for (let round = 0; !isOver(); round++) {
        const messages = Array.from({ length: 1 + pick(20) }, (_, index) => ({
          from_uid: `client${number}`,
          channel_id: `channel${pick(10)}`,
          channel_type: 2,
          client_msg_no: `${round}-${index}`,
          payload: Buffer.from(`${number}-${round}-${index}`).toString('base64'),
        }));
        const batch: Batch = { messages, acked: undefined };
        sent.push(batch);
        batch.acked = await sendUntilTaken(messages, pick(2));
        // A retry of the acknowledged messages at the other instance returns the same numbers.
        if (pick(5) === 0) assert.deepEqual(await sendUntilTaken(messages, pick(2)), batch.acked);
      }
    }

    async function sendUntilTaken(messages: Batch['messages'], start: number) {
      const deadline = Date.now() + patienceMs;
      for (let attempt = start; Date.now() < deadline; attempt++) {
        const service = services[attempt % services.length];
        const answer = service === undefined ? undefined : await post(service.url, messages);
        if (answer !== undefined) return answer;
        await delay(20);
      }
      throw new Error('no instance took a batch for a minute');
    }

    async function post(base: string, messages: Batch['messages']) {
      try {
        const response = await fetch(`${base}/message/sendbatch`, {
          method: 'POST',
          body: JSON.stringify(messages),
          signal: AbortSignal.timeout(5000),
        });
        // 503 means that the store was away; any other error would be a defect.
        if (response.status === 503 || response.status === 504) {
          await response.arrayBuffer();
          return undefined;
        }
        const body = (await response.json()) as Answer[];
        // 207: the database went away between the commits of two lanes. The accepted messages are
        // acknowledged all the same.
        if (response.status === 207) {
          for (const [index, { message_id, message_seq, error }] of body.entries()) {
            if (error === undefined) taken.push({ message: messages[index], message_id, message_seq });
            else assert.equal(error.reason, 'STORE_BUSY');
          }
          return undefined;
        }
        assert.equal(response.status, 200, JSON.stringify(body));
        return body.map(({ message_id, message_seq }) => ({ message_id, message_seq }));
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        return undefined;
      }
    }

    async function killer(): Promise<void> {
      let { pid } = cluster;
      while (!isOver(1500)) {
        await delay(400 + pick(900));
        // Mostly services; the second kill is of the kind that the first was not.
        if (kills.service + kills.postgres === 1 ? kills.service === 0 : pick(3) > 0) {
          const index = pick(services.length);
          const victim = services[index];
          services[index] = undefined;
          await victim?.end('SIGKILL');
          kills.service++;
          services[index] = await spawnService({ DATABASE_URL: url });
        } else {
          process.kill(pid, 'SIGKILL');
          kills.postgres++;
          ({ pid } = await startEmbedded({ dataDir: cluster.dataDir, explicit: true, log: quietLog }));
        }
      }
    }

    await Promise.all([killer(), ...Array.from({ length: clients }, (_, number) => client(number))]);
    assert.ok(kills.service > 0 && kills.postgres > 0, JSON.stringify(kills));

    const rows = await readAll(url);
    const stored = new Map(rows.map((row) => [`${row.channel} ${row.fromUid} ${row.key}`, row]));
    const count = sent.reduce((sum, batch) => sum + batch.messages.length, 0);
    context.diagnostic(
      `${count} messages in ${sent.length} batches, ${kills.service} services and ${kills.postgres} servers killed`,
    );
    assert.equal(rows.length, count);
    for (const { messages, acked } of sent) {
      assert.ok(acked);
      for (const [index, message] of messages.entries()) {
        const row = stored.get(`${message.channel_id} ${message.from_uid} ${message.client_msg_no}`);
        assert.deepEqual({ message_id: row?.id, message_seq: row?.seq }, acked[index]);
      }
    }
    for (const { message, ...numbers } of taken) {
      const row = stored.get(`${message?.channel_id} ${message?.from_uid} ${message?.client_msg_no}`);
      assert.deepEqual({ message_id: row?.id, message_seq: row?.seq }, numbers);
    }
    await assertSound(url);
  });
});
