import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { killAll, quietLog, startCluster, type TestCluster } from '../support/cluster.ts';
import { said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { assertBusy, clientOf, draftTo, until, type Watch, watch } from '../support/watch.ts';

const clients = 4;
const channels = 5;

describe('a database that restarts under load', () => {
  let cluster: TestCluster;
  let url: string;
  let pid: number;
  let services: readonly [TestService, TestService];
  let watching: Watch;
  before(async () => {
    cluster = await startCluster({ durable: true });
    ({ pid } = cluster);
    url = cluster.url('sendbatch');
    const settings = { databaseUrl: url, sweepIntervalMs: 200, requestTimeoutMs: 10_000 };
    services = [await startService(settings), await startService(settings)];
    watching = watch(...services, url);
    await watching.assertWell();
  });
  after(async () => {
    watching.stop();
    for (const service of services) await service.stop();
    await cluster.stop();
  });

  const ways: [string, () => void][] = [
    ['in order (fast shutdown)', () => process.kill(pid, 'SIGINT')],
    ['at once (immediate shutdown)', () => process.kill(pid, 'SIGQUIT')],
    ['by kill -9 of all its processes', () => killAll(pid)],
  ];
  for (const [number, [way, end]] of ways.entries()) {
    test(`when the database stops ${way}, callers get STORE_BUSY or success, and nothing is lost or stored twice`, async () => {
      let running = true;
      let taken = 0;
      let busy = 0;
      const acked = new Map<string, { id: number; seq: number }>();
      const client = async (own: number) => {
        const senders = services.map((service) =>
          clientOf(service, own % 2 === 0 ? 'gRPC, connect-node' : 'JSON route'),
        );
        for (let round = 0; running; round++) {
          const channel = `restart-${number}-${round % channels}`;
          const messages = [1, 2, 3].map((each) => draftTo(channel, `${own}-${round}-${each}`));
          // Retries with the same keys until accepted, alternating between the instances.
          for (let attempt = 0; ; attempt++) {
            const answer = await senders[attempt % 2]?.send({ messages });
            assert.ok(answer);
            if ('refused' in answer) {
              assertBusy(answer, ['STORE_BUSY', 'OVERLOADED']);
              busy++;
              assert.ok(attempt < 3000, 'never taken');
              await delay(20);
              continue;
            }
            for (const { clientMsgNo, messageId, messageSeq, refused } of answer.results)
              if (refused === undefined) acked.set(`${channel} ${clientMsgNo}`, { id: messageId, seq: messageSeq });
              else assert.equal(refused.reason, 'STORE_BUSY');
            if (answer.results.some((result) => result.refused !== undefined)) continue;
            taken++;
            break;
          }
        }
      };
      const load = Promise.all(Array.from({ length: clients }, (_, own) => client(own)));
      const grow = async (count: number) => {
        const from = taken;
        await until(`${count} more batches are taken`, () => taken >= from + count);
      };
      await grow(20);
      end();
      await until('the server is gone', () => !existsSync(`/proc/${pid}`));
      const heard = busy;
      await until('callers hear of it', () => busy > heard);
      ({ pid } = await startEmbedded({ dataDir: cluster.dataDir, explicit: true, log: quietLog }));
      await grow(20);
      running = false;
      await load;
      await watching.assertWell();
      const rows = (await readAll(url)).filter((row) => row.channel.startsWith(`restart-${number}-`));
      assert.deepEqual(new Map(rows.map(({ channel, key, id, seq }) => [`${channel} ${key}`, { id, seq }])), acked);
      assert.equal(said(await clientOf(services[0], 'JSON route').send({ messages: [draftTo('after', way)] })), 'ok');
      await assertSound(url);
    });
  }
});
