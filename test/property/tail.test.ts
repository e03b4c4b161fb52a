import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { randomOf } from '../../bench/workload.ts';
import type { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService, type SubscribeResponse } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { query } from '../support/verify.ts';

const payload = Buffer.from('x').toString('base64');
const uids = ['u0', 'u1', 'u2', 'u3'];
const groups = ['g0', 'g1', 'g2', 'g3', 'g4', 'g5'];
const steps = 40;

describe('subscriptions during sends and membership changes, two instances', () => {
  let services: TestService[];
  before(async () => {
    const first = await startService();
    services = [first, await startService({ databaseUrl: first.databaseUrl })];
  });
  after(async () => {
    for (const each of services.toReversed()) await each.stop();
  });

  test('no subscription moves backwards: sequences rise per channel, and caught_up is never below a delivered message', async (context) => {
    const random = randomOf(seedOf(context));
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
    const url = services[0]?.databaseUrl ?? '';
    const post = async (path: string, body: unknown) => {
      const answer = await jsonCaller(pick(services).url).post(path, body);
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
    };
    let acting = true;
    let caughtUp = 0;
    let resumed = 0;

    /**
     * Follows until `isDone`, and hangs up and resumes now and then. Returns its cursor per channel
     * and the messages it received.
     */
    async function read(
      service: TestService,
      request: { readonly uid: string; readonly allOfUid: boolean; readonly named: readonly string[] },
      isDone: (reached: ReadonlyMap<string, bigint>) => boolean,
      onReady: () => void = () => {},
    ) {
      const client = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
      const reached = new Map<string, bigint>(request.named.map((id) => [`2 ${id}`, 0n]));
      const got = new Map<string, bigint[]>();
      let resume = false;
      while (!isDone(reached)) {
        const abort = new AbortController();
        const channels = [...reached].map(([channel, afterSeq]) => {
          const [type, channelId] = channel.split(' ') as [string, string];
          return { channelType: Number(type) as ChannelType, channelId, afterSeq };
        });
        const { uid, allOfUid } = request;
        const stream = client.subscribe({ uid, allOfUid, channels, resume }, { signal: abort.signal });
        const frames = stream[Symbol.asyncIterator]() as AsyncIterator<SubscribeResponse>;
        for (let left = 5 + Math.floor(random() * 60); left > 0 || (allOfUid && !resume); left--) {
          const { frame } = (await frames.next()).value as SubscribeResponse;
          if (frame.case === 'allCaughtUp') {
            resume = true;
            onReady();
          } else if (frame.case === 'message') {
            const { channelType, channelId, messageSeq } = frame.value;
            const channel = `${channelType} ${channelId}`;
            const last = reached.get(channel) ?? 0n;
            assert.ok(messageSeq > last, `${uid}: ${channel} ${messageSeq} after ${last}`);
            reached.set(channel, messageSeq);
            got.set(channel, [...(got.get(channel) ?? []), messageSeq]);
          } else if (frame.case === 'caughtUp') {
            const { channelType, channelId, lastSeq } = frame.value;
            const channel = `${channelType} ${channelId}`;
            const last = reached.get(channel) ?? 0n;
            assert.ok(lastSeq >= last, `${uid}: ${channel} caught up at ${lastSeq} after ${last}`);
            reached.set(channel, lastSeq);
            caughtUp++;
          }
          if (isDone(reached)) break;
        }
        abort.abort();
        resumed++;
      }
      return got;
    }

    for (const id of groups.slice(0, 3))
      await post('/channel', { channel_id: id, channel_type: 2, subscribers: uids.slice(0, 2) });
    let heads = new Map<string, bigint>();
    let members = new Map<string, Set<string>>();
    const isAtHead = (channels: Iterable<string>, reached: ReadonlyMap<string, bigint>) =>
      !acting && [...channels].every((channel) => (reached.get(channel) ?? 0n) >= (heads.get(channel) ?? 0n));
    const opened: Promise<void>[] = [];
    const all = services.flatMap((service) =>
      uids.map(async (uid) => {
        const ready = Promise.withResolvers<void>();
        opened.push(ready.promise);
        const isDone = (reached: ReadonlyMap<string, bigint>) => isAtHead(members.get(uid) ?? [], reached);
        return { uid, got: await read(service, { uid, allOfUid: true, named: [] }, isDone, ready.resolve) };
      }),
    );
    const named = services.map((service) =>
      read(service, { uid: '', allOfUid: false, named: groups }, (reached) =>
        isAtHead(
          groups.map((id) => `2 ${id}`),
          reached,
        ),
      ),
    );

    let sent = 0;
    const act = async () => {
      for (let step = 0; step < steps; step++) {
        const id = pick(groups);
        const uid = pick(uids);
        const what = random();
        if (what < 0.55)
          await post(
            '/message/sendbatch',
            Array.from({ length: 1 + Math.floor(random() * 3) }, () => ({
              ...(random() < 0.5
                ? { channel_id: pick(groups), channel_type: 2, from_uid: 'ops' }
                : { channel_id: uid, channel_type: 1, from_uid: `stranger${Math.floor(random() * 12)}` }),
              client_msg_no: `k${sent++}`,
              payload,
            })),
          );
        else if (what < 0.7) await post('/channel', { channel_id: id, channel_type: 2, subscribers: [uid] });
        else
          await post(`/channel/${what < 0.85 ? 'subscriber_add' : 'subscriber_remove'}`, {
            channel_id: id,
            channel_type: 2,
            subscribers: [uid],
          });
      }
    };
    // From here on every message of a new channel reaches them.
    await Promise.all(opened);
    await Promise.all(Array.from({ length: 4 }, act));
    // A last message in each channel ends the readers that still wait.
    const rows = async () =>
      (await query(
        url,
        `select c.channel_type || ' ' || c.channel_id as channel, h.last_seq, array(
           select u.uid from sendbatch.channel_uid u where u.channel_key = c.channel_key and u.member) as uids
         from sendbatch.channel c join sendbatch.channel_head h using (channel_key)`,
      )) as unknown as { readonly channel: string; readonly last_seq: string; readonly uids: readonly string[] }[];
    for (const uid of uids) {
      const last = [{ channel_id: uid, channel_type: 1, from_uid: 'last', client_msg_no: 'last', payload }];
      await post('/message/sendbatch', last);
    }
    const known = await rows();
    heads = new Map(known.map((row) => [row.channel, BigInt(row.last_seq)]));
    members = new Map(
      uids.map((uid) => [uid, new Set(known.filter((row) => row.uids.includes(uid)).map((row) => row.channel))]),
    );
    acting = false;
    for (const uid of uids)
      await post('/message/sendbatch', [
        { channel_id: uid, channel_type: 1, from_uid: 'last', client_msg_no: 'end', payload },
        ...groups.map((id) => ({
          channel_id: id,
          channel_type: 2,
          from_uid: 'ops',
          client_msg_no: `end ${uid}`,
          payload,
        })),
      ]);

    const upTo = (head: bigint | undefined) =>
      Array.from({ length: Number(head ?? 0n) }, (_, index) => BigInt(index + 1));
    for (const got of await Promise.all(named))
      for (const id of groups) {
        const head = heads.get(`2 ${id}`);
        assert.deepEqual((got.get(`2 ${id}`) ?? []).slice(0, Number(head)), upTo(head), id);
      }
    for (const { uid, got } of await Promise.all(all))
      for (const channel of members.get(uid) ?? [])
        if (channel.startsWith('1 ')) {
          const head = heads.get(channel);
          assert.deepEqual((got.get(channel) ?? []).slice(0, Number(head)), upTo(head), `${uid} ${channel}`);
        }
    context.diagnostic(`${sent} messages, ${caughtUp} times caught up, ${resumed} streams`);
    assert.ok(caughtUp > 20 && resumed > 12);
  });
});
