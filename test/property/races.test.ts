import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { randomOf } from '../../bench/workload.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { type Answer, openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query, readAll } from '../support/verify.ts';

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

    test(`concurrent batches that create any mix of the same channels are all stored, ${lanes} and 4 lanes`, async (context) => {
      const random = randomOf(seedOf(context));
      const below = (count: number) => Math.floor(random() * count);
      const rpc = clients.filter((client) => client.name !== 'JSON route');
      let sent = 0;
      for (let round = 0; round < 15; round++) {
        const draft = () => {
          const id = `mix${round}-${below(6)}`;
          const key = `m${sent++}`;
          const header = { noPersist: 0, redDot: 0, syncOnce: below(4) === 0 ? 1 : 0 };
          const channelType = below(2) === 0 ? ChannelType.PERSON : ChannelType.GROUP;
          return { ...message(id, key), header, channelType };
        };
        const answers = await Promise.all(
          Array.from({ length: 8 }, async (_, index) =>
            rpc[index % rpc.length]?.send({
              mode: below(2) === 0 ? SendMode.ATOMIC : SendMode.BEST_EFFORT,
              messages: Array.from({ length: 1 + below(8) }, draft),
            }),
          ),
        );
        for (const answer of answers) assert.match(said(answer as Answer), /^ok( ok)*$/);
      }
      const url = first.databaseUrl;
      assert.equal((await readAll(url)).filter((row) => row.channel.includes('mix')).length, sent);
      const odd = await query(
        url,
        `select c.channel_id from sendbatch.channel c left join sendbatch.channel_head h using (channel_key)
         where c.channel_id like '%mix%' and (
           h.channel_key is null
           or not exists (select from sendbatch.channel b where b.channel_id = c.channel_id and b.channel_type = c.channel_type and b.sequence = 0)
           or (select array_agg(u.uid order by u.uid) from sendbatch.channel_uid u where u.channel_key = c.channel_key)
             is distinct from case when c.channel_type = 1 and c.sequence = 0 then (select array_agg(side collate "C" order by side collate "C") from string_to_table(c.channel_id, '@') as side) end)`,
      );
      assert.deepEqual(odd, [], 'each channel has its head, its base and its members');
      await assertSound(url);
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
