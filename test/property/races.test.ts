import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { openClients, type ProtocolClient } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

/** Two instances with group commit, or one with and one without, which share only the database. */
for (const lanes of [4, 0]) {
  describe(`concurrent calls over two instances, ${lanes} and 4 lanes`, () => {
    let first: TestService;
    let second: TestService;
    let clients: ProtocolClient[];

    before(async () => {
      first = await startService({ lanes });
      second = await startService({ databaseUrl: first.databaseUrl });
      clients = [...openClients(first.url), ...openClients(second.url)];
    });
    after(async () => {
      for (const client of clients) client.close();
      await second.stop();
      await first.stop();
    });

    const message = (channel: string, key: string) => ({
      channelId: channel,
      channelType: ChannelType.GROUP,
      fromUid: 'u1',
      clientMsgNo: key,
      payload: Buffer.from(key),
    });
    const clientOf = (index: number): ProtocolClient => {
      const client = clients[index % clients.length];
      assert.ok(client);
      return client;
    };

    test(`20 clients that send the same batch concurrently get the same numbers, ${lanes} and 4 lanes`, async () => {
      const messages = ['a', 'b', 'c'].flatMap((channel) =>
        ['1', '2', '3'].map((key) => message(`same-${channel}`, key)),
      );
      const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => clientOf(index).send({ messages })));
      const numbers = answers.map((answer) => {
        assert.ok('results' in answer, JSON.stringify(answer));
        return answer.results.map((result) => [result.messageId, result.messageSeq]);
      });
      for (const each of numbers) assert.deepEqual(each, numbers[0]);
      const fresh = answers.map((answer) =>
        'results' in answer ? answer.results.filter((each) => !each.duplicate).length : 0,
      );
      assert.equal(
        fresh.reduce((sum, each) => sum + each, 0),
        messages.length,
      );
      await assertSound(first.databaseUrl);
    });

    test(`concurrent batches over the same new channels in opposite orders all succeed, ${lanes} and 4 lanes`, async () => {
      const channels = Array.from({ length: 30 }, (_, index) => `opposite-${index}`);
      const answers = await Promise.all(
        Array.from({ length: 60 }, (_, index) => {
          const order = index % 2 === 0 ? channels : [...channels].reverse();
          return clientOf(index).send({ messages: order.map((channel) => message(channel, `k${index}`)) });
        }),
      );
      for (const answer of answers) {
        assert.ok('results' in answer, JSON.stringify(answer));
        assert.deepEqual(
          answer.results.filter((each) => each.refused !== undefined),
          [],
        );
      }
      const rows = (await readAll(first.databaseUrl)).filter((row) => row.channel.startsWith('opposite-'));
      assert.equal(rows.length, 60 * 30);
      await assertSound(first.databaseUrl);
    });

    test(`of concurrent conditional sends to one channel exactly one succeeds, ${lanes} and 4 lanes`, async () => {
      const rpc = clients.filter((client) => client.name !== 'JSON route');
      const answers = await Promise.all(
        Array.from({ length: 12 }, (_, index) => {
          const client = rpc[index % rpc.length];
          assert.ok(client);
          return client.send({
            messages: [message('conditional', `k${index}`)],
            expectedLastSeqs: [{ channelId: 'conditional', channelType: ChannelType.GROUP, lastSeq: 0n }],
          });
        }),
      );
      const results = answers.flatMap((answer) => ('results' in answer ? answer.results : []));
      assert.equal(results.length, 12, JSON.stringify(answers));
      assert.deepEqual(
        results.filter((each) => each.refused === undefined).map((each) => each.messageSeq),
        [1],
      );
      for (const { refused } of results) if (refused !== undefined) assert.equal(refused.reason, 'SEQ_MISMATCH');
    });
  });
}
