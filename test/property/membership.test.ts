import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { randomOf } from '../../bench/workload.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { openClients, type ProtocolClient } from '../support/protocols.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

/** What a change did to a uid in a channel, and when it was requested and answered. */
interface State {
  readonly says: string;
  readonly asked: number;
  readonly answered: number;
}

const uids = ['u0', 'u1', 'u2', 'u3'];
const channels = ['c0', 'c1', 'c2'];

for (const lanes of [4, 0]) {
  describe(`membership changes between sends, ${lanes} lanes`, () => {
    let first: TestService;
    let second: TestService;
    let clients: ProtocolClient[];
    before(async () => {
      first = await startService({ lanes, systemUids: [] });
      second = await startService({ lanes, systemUids: [], databaseUrl: first.databaseUrl });
      clients = [...openClients(first.url), ...openClients(second.url)];
    });
    after(async () => {
      for (const client of clients) client.close();
      await second.stop();
      await first.stop();
    });

    test(`no send is stored that the committed members forbade, and none is refused that they allowed, with ${lanes} lanes`, async (context) => {
      const random = randomOf(seedOf(context));
      const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
      const calls = [jsonCaller(first.url), jsonCaller(second.url)];
      for (const id of channels) await calls[0]?.post('/channel', { channel_id: id, channel_type: 2 });
      /** One logical clock for all actors: requests and answers are its ticks. */
      let clock = 0;
      const states = new Map<string, State[]>();
      const at = (uid: string, id: string) => `${uid} ${id}`;
      for (const uid of uids)
        for (const id of channels) states.set(at(uid, id), [{ says: 'NOT_SUBSCRIBER', asked: 0, answered: 0 }]);
      let changing = true;
      const judged: { pair: string; says: string; asked: number; answered: number }[] = [];

      // One actor per pair, so that its changes follow each other; all pairs run concurrently.
      const changes = [...states].map(async ([pair, history]) => {
        const [uid, id] = pair.split(' ') as [string, string];
        let member = false;
        let denied = false;
        for (let step = 0; step < 25; step++) {
          const path = pick(['subscriber_add', 'subscriber_remove', 'blacklist_add', 'blacklist_remove']);
          const asked = ++clock;
          const names = path.startsWith('subscriber') ? { subscribers: [uid] } : { uids: [uid] };
          const { status } = await pick(calls).post(`/channel/${path}`, { channel_id: id, channel_type: 2, ...names });
          assert.equal(status, 200);
          if (path.startsWith('subscriber')) member = path.endsWith('add');
          else denied = path.endsWith('add');
          history.push({ says: denied ? 'IN_DENYLIST' : member ? 'ok' : 'NOT_SUBSCRIBER', asked, answered: ++clock });
        }
      });
      const stored = new Set<string>();
      let sends = 0;
      const senders = clients.map(async (client) => {
        // Bounded: each actor makes 25 changes.
        while (changing) {
          const messages = Array.from({ length: 1 + Math.floor(random() * 4) }, () => ({
            channelId: pick(channels),
            channelType: ChannelType.GROUP,
            fromUid: pick(uids),
            clientMsgNo: `k${sends++}`,
            payload: Buffer.from('x'),
          }));
          const asked = ++clock;
          const answer = await client.send({ messages });
          const answered = ++clock;
          assert.ok('results' in answer, JSON.stringify(answer));
          for (const [index, result] of answer.results.entries()) {
            const { fromUid, channelId, clientMsgNo } = messages[index] as (typeof messages)[number];
            const says = result.refused?.reason ?? 'ok';
            if (says === 'ok') stored.add(clientMsgNo);
            const pair = at(fromUid, channelId);
            // An unanswered change may be in force as well, so sends are judged once all answers
            // are known.
            judged.push({ pair, says, asked, answered });
          }
        }
      });
      await Promise.all(changes).finally(() => {
        changing = false;
      });
      await Promise.all(senders);

      const tally = new Map<string, number>();
      for (const { pair, says, asked, answered } of judged) {
        const history = states.get(pair) ?? [];
        const settled = history.filter((state) => state.answered <= asked).at(-1);
        const during = history.filter((state) => state.answered > asked && state.asked < answered);
        const possible = [settled, ...during].map((state) => state?.says);
        assert.ok(
          possible.includes(says),
          `${pair} between ${asked} and ${answered}: ${says}, not ${possible.join(' or ')}`,
        );
        tally.set(says, (tally.get(says) ?? 0) + 1);
      }
      context.diagnostic(JSON.stringify(Object.fromEntries(tally)));
      for (const says of ['ok', 'NOT_SUBSCRIBER', 'IN_DENYLIST']) assert.ok((tally.get(says) ?? 0) > 0, says);
      assert.deepEqual(new Set((await readAll(first.databaseUrl)).map((row) => row.key)), stored);
      await assertSound(first.databaseUrl);
    });
  });
}
