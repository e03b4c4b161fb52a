import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { killAll, quietLog, startCluster, type TestCluster } from '../support/cluster.ts';
import { lockHeadsOf } from '../support/database.ts';
import { type FaultProxy, openFaultProxy } from '../support/fault-proxy.ts';
import { openClients, type ProtocolClient } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query } from '../support/verify.ts';
import { untilOneWaitsFor } from '../support/watch.ts';

const draft = (channelId: string, clientMsgNo: string) => ({
  channelId,
  channelType: ChannelType.GROUP,
  fromUid: 'u1',
  clientMsgNo,
  payload: Buffer.from(clientMsgNo),
});
const clientOf = (service: TestService, name: string): ProtocolClient => {
  const client = openClients(service.url).find((each) => each.name === name);
  assert.ok(client);
  return client;
};

describe('a commit whose answer is lost', () => {
  let service: TestService;
  let direct: TestService;
  let proxy: FaultProxy;
  before(async () => {
    direct = await startService();
    proxy = await openFaultProxy(direct.databaseUrl);
    service = await startService({ databaseUrl: proxy.url });
  });
  after(async () => {
    await service.stop();
    await proxy.close();
    await direct.stop();
  });

  for (const when of ['before', 'after'] as const) {
    for (const [manner, expectedLastSeqs] of [
      ['by itself', []],
      ['with a condition', [{ channelType: ChannelType.GROUP, channelId: `${when} with a condition`, lastSeq: 1n }]],
    ] as const) {
      test(`a connection lost ${when} the commit of a batch sent ${manner} is resolved inside the service, and the caller gets a plain success`, async () => {
        const client = clientOf(service, 'Connect, binary');
        const channelId = `${when} ${manner}`;
        // Creates the channel first: its own insert is an autocommit statement.
        await client.send({ messages: [draft(channelId, '0')] });
        const { cuts } = proxy;
        proxy.cutNextCommit(when);
        const answer = await client.send({
          messages: [draft(channelId, '1'), draft(channelId, '2')],
          expectedLastSeqs: [...expectedLastSeqs],
        });
        assert.equal(proxy.cuts, cuts + 1);
        assert.ok('results' in answer, JSON.stringify(answer));
        assert.deepEqual(
          answer.results.map((each) => [each.messageSeq, each.duplicate]),
          [
            [2, false],
            [3, false],
          ],
        );
        await assertSound(direct.databaseUrl);
      });
    }

    test(`a connection lost ${when} the commit that creates channels is resolved inside the service, and nothing is created twice`, async () => {
      const client = clientOf(service, 'Connect, binary');
      const persons = ['p1', 'p2'].map((uid) => ({ ...draft(`${when} ${uid}`, uid), channelType: ChannelType.PERSON }));
      const { cuts } = proxy;
      proxy.cutNextCommit(when);
      const answer = await client.send({ messages: [draft(`${when} new`, '1'), ...persons] });
      assert.equal(proxy.cuts, cuts + 1);
      assert.ok('results' in answer, JSON.stringify(answer));
      assert.deepEqual(
        answer.results.map((each) => [each.messageSeq, each.duplicate]),
        [
          [1, false],
          [1, false],
          [1, false],
        ],
      );
      const members = await query(
        direct.databaseUrl,
        `select uid from sendbatch.channel join sendbatch.channel_uid using (channel_key) where channel_id like '%${when} p_%' order by 1`,
      );
      assert.deepEqual(
        members.map(({ uid }) => uid),
        [`${when} p1`, `${when} p2`, 'u1', 'u1'],
      );
      await assertSound(direct.databaseUrl);
    });
  }
});

describe('a database that is unreachable', () => {
  let cluster: TestCluster;
  let service: TestService;
  before(async () => {
    cluster = await startCluster({ durable: true });
    service = await startService({ databaseUrl: cluster.url('sendbatch'), requestTimeoutMs: 8000 });
  });
  after(async () => {
    await service.stop();
    await cluster.stop();
  });

  test('an unreachable database is STORE_BUSY with a retry delay over gRPC and JSON, for sends and reads, until it is back', async () => {
    const grpc = clientOf(service, 'gRPC, grpc-js');
    const json = clientOf(service, 'JSON route');
    assert.ok('results' in (await grpc.send({ messages: [draft('a', '1')] })));
    killAll(cluster.pid);
    for (const client of [grpc, json]) {
      const answer = await client.send({ messages: [draft('a', '2')] });
      assert.ok('refused' in answer, JSON.stringify(answer));
      assert.deepEqual(
        [answer.refused.code, answer.refused.reason, answer.refused.retryMs],
        ['Unavailable', 'STORE_BUSY', 1000],
      );
      assert.doesNotMatch(answer.refused.message, /ECONN|socket|PGSQL/, 'no internals leak');
    }
    const read = await fetch(`${service.url}/v1/channels/2/a/messages`);
    assert.deepEqual([read.status, read.headers.get('retry-after')], [503, '1']);
    const broadcast = await fetch(`${service.url}/message/broadcast`, {
      method: 'POST',
      body: '{"from_uid":"u1","subscribers":["a","b"],"payload":"SGk="}',
    });
    const missed = (await broadcast.json()) as { fail_uids: string[]; reason: string[] };
    assert.deepEqual(missed.fail_uids, ['a', 'b']);
    assert.match(missed.reason[0] ?? '', /^STORE_BUSY: /);

    await startEmbedded({ dataDir: cluster.dataDir, explicit: true, log: quietLog });
    const again = await grpc.send({ messages: [draft('a', '1'), draft('a', '2')] });
    assert.ok('results' in again, JSON.stringify(again));
    assert.deepEqual(
      again.results.map((each) => [each.messageSeq, each.duplicate]),
      [
        [1, true],
        [2, false],
      ],
    );
    grpc.close();
  });
});

describe('locks held by other sessions', () => {
  let service: TestService;
  let client: ProtocolClient;
  let other: pg.Client;
  before(async () => {
    service = await startService({ lockTimeoutMs: 300 });
    client = clientOf(service, 'Connect, JSON');
    other = new pg.Client({ connectionString: service.databaseUrl });
    await other.connect();
  });
  after(async () => {
    await other.end();
    await service.stop();
  });
  const lock = (channelId: string) => lockHeadsOf(other, [channelId]);

  test('locks held longer than the lock timeout are STORE_BUSY, and other channels go on', async () => {
    await client.send({ messages: [draft('held', '1'), draft('free', '1')] });
    await other.query('begin');
    await lock('held');
    const answer = await client.send({ messages: [draft('held', '2'), draft('free', '2')] });
    assert.deepEqual('results' in answer && answer.results.map((each) => each.refused?.reason), [
      'STORE_BUSY',
      undefined,
    ]);
    const free = await client.send({ messages: [draft('free', '2')] });
    assert.equal('results' in free && free.results[0]?.messageSeq, 2);
    await other.query('rollback');
    const held = await client.send({ messages: [draft('held', '2')] });
    assert.equal('results' in held && held.results[0]?.messageSeq, 2);
  });

  test('a deadlock is retried inside the service', async () => {
    const patient = await startService({ databaseUrl: service.databaseUrl, lockTimeoutMs: 25_000 });
    const patientClient = clientOf(patient, 'Connect, JSON');
    await patientClient.send({ messages: [draft('first', '1'), draft('second', '1')] });
    await other.query('begin');
    await lock('second');
    const sending = patientClient.send({ messages: [draft('first', '2'), draft('second', '2')] });
    // Waits until the send holds the first head and waits for the second.
    await untilOneWaitsFor(other);
    // PostgreSQL chooses one of the two to fail; the send must succeed either way.
    await lock('first').catch((error: { code?: string }) => assert.equal(error.code, '40P01'));
    await other.query('rollback');
    const answer = await sending;
    assert.ok('results' in answer, JSON.stringify(answer));
    assert.deepEqual(
      answer.results.map((each) => each.messageSeq),
      [2, 2],
    );
    await patient.stop();
  });
});
