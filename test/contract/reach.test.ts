import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { SignJWT } from 'jose';
import pg from 'pg';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { BatchService, type ReachCounts } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelService } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import { ChannelType, type MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys, type Keys } from '../../src/auth/api-keys.ts';
import { createSendbatch } from '../../src/client/index.ts';
import type { Scope } from '../../src/messages/caller.ts';
import type { Db } from '../../src/postgres/schema.ts';
import { openStore, shards } from '../support/database.ts';
import { openEvents } from '../support/events.ts';
import { jsonCaller } from '../support/json.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { query } from '../support/verify.ts';
import { until, untilOneWaitsFor } from '../support/watch.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;

const secret = new TextEncoder().encode('a secret of at least thirty-two bytes');
const tokens = {
  key: { secrets: { current: [secret] } },
  algorithms: ['HS256'],
  issuer: 'https://issuer.test',
  audience: 'sendbatch',
  scopes: ['send', 'read'] as const,
};
const asking = { requiresCredential: true, open: false, identity: { tokens, certificateScopes: undefined } };

const group = (channelId: string, fromUid: string, more: Draft = {}): Draft => ({
  channelType: ChannelType.GROUP,
  channelId,
  fromUid,
  payload: Buffer.from('x'),
  ...more,
});
const person = (channelId: string, fromUid: string): Draft => ({
  channelType: ChannelType.PERSON,
  channelId,
  fromUid,
  payload: Buffer.from('x'),
});

/** The reason of a failed call. */
async function reasonOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'ok';
  } catch (error) {
    const failure = ConnectError.from(error);
    return failure.findDetails(ErrorInfoSchema)[0]?.reason ?? `${Code[failure.code]} ${failure.rawMessage}`;
  }
}

/** Counts as `messages/recalled/removed receivers/delivered/read`. */
function shown(counts: ReachCounts | undefined): string {
  if (counts === undefined) return 'none';
  const { messageCount, recalledCount, removedCount, receiverCount, deliveredCount = '-', readCount } = counts;
  return `${messageCount}/${recalledCount}/${removedCount} ${receiverCount}/${deliveredCount}/${readCount}`;
}

describe('reach', () => {
  let service: TestService;
  /** Another instance, which records no deliveries. */
  let other: TestService;
  let store: Db;
  let keys: Keys;
  let key: string;
  let clients: ReturnType<typeof clientsOf>;
  let json: ReturnType<typeof jsonCaller>;

  const authorized = (credential: string) => ({ authorization: `Bearer ${credential}` });
  const withCredential = (
    credential: string,
  ): NonNullable<Parameters<typeof createGrpcTransport>[0]['interceptors']> => [
    (next) => (request) => {
      request.header.set('authorization', `Bearer ${credential}`);
      return next(request);
    },
  ];
  const grpc = (baseUrl: string, credential: string) =>
    createGrpcTransport({ baseUrl, interceptors: withCredential(credential) });
  const clientsOf = (transport: Transport) => ({
    messages: createClient(MessageService, transport),
    batches: createClient(BatchService, transport),
    channels: createClient(ChannelService, transport),
  });
  const keyFor = async (scopes: Scope[]) => (await keys.create({ name: 'test', scopes })).key;
  const tokenFor = async (uid: string) =>
    await new SignJWT({ sub: uid, iss: tokens.issuer, aud: tokens.audience, exp: Math.floor(Date.now() / 1000) + 300 })
      .setProtectedHeader({ alg: 'HS256' })
      .sign(secret);

  before(async () => {
    service = await startService({ ...asking, deliveryCursors: true });
    other = await startService({ ...asking, databaseUrl: service.databaseUrl });
    store = openStore(service.databaseUrl);
    keys = createKeys(store);
    key = await keyFor(['send', 'read', 'admin']);
    clients = clientsOf(grpc(service.url, key));
    json = jsonCaller(service.url, authorized(key));
  });
  after(async () => {
    await store.destroy();
    await other.stop();
    await service.stop();
  });

  /** Submits a batch and waits for its end. */
  const submit = async (messages: Draft[], by = clients) => {
    const { batch } = await by.batches.submitBatch({ messages });
    const batchId = batch?.batchId ?? '';
    for await (const { batch: now } of by.batches.watchBatch({ batchId }))
      assert.equal(now?.lastError, undefined, JSON.stringify(now?.lastError?.message));
    return batchId;
  };
  const putGroup = (channelId: string, subscribers: string[]) =>
    clients.channels.putChannel({ channelType: ChannelType.GROUP, channelId, subscribers });
  const markRead = (uid: string, channelType: ChannelType, channelId: string, readSeq = 0n) =>
    clients.messages.markRead({ uid, channelType, channelId, readSeq });
  const reachOf = async (batchId: string, by = clients) => {
    const { reach } = await by.batches.getBatchReach({ batchId });
    assert.ok(reach);
    return {
      total: shown(reach.total),
      types: reach.channelTypes.map(({ channelType, counts }) => `${channelType} ${shown(counts)}`),
      uncounted: reach.uncountedCount,
    };
  };

  const transports: [string, () => Transport][] = [
    ['gRPC', () => grpc(other.url, key)],
    [
      'gRPC-Web',
      () => createGrpcWebTransport({ baseUrl: other.url, httpVersion: '1.1', interceptors: withCredential(key) }),
    ],
    [
      'Connect, binary',
      () => createConnectTransport({ baseUrl: other.url, httpVersion: '1.1', interceptors: withCredential(key) }),
    ],
    [
      'Connect, JSON',
      () =>
        createConnectTransport({
          baseUrl: other.url,
          httpVersion: '2',
          useBinaryFormat: false,
          interceptors: withCredential(key),
        }),
    ],
  ];

  test('the reach of a batch counts messages, receivers and readers by channel type, over every protocol', async () => {
    await putGroup('team', ['ann', 'bob', 'cat', 'sys']);
    const batchId = await submit([
      person('p1', 'sys'),
      person('p2', 'sys'),
      person('p3', 'sys'),
      person('sys', 'sys'),
      group('team', 'sys'),
      group('team', 'ann'),
      group('team', 'sys', { subscribers: ['bob', 'dan', 'sys'] }),
      // Two messages with one key are stored once.
      group('team', 'sys', { clientMsgNo: 'twin' }),
      group('team', 'sys', { clientMsgNo: 'twin' }),
      group('team', 'sys', { header: { syncOnce: 1 } }),
      group('team', 'sys', { header: { noPersist: 1 } }),
      group('team', 'sys', { clientMsgNo: 'recalled' }),
    ]);
    await markRead('p1', ChannelType.PERSON, 'sys', 1n);
    // A sender's own cursor does not count.
    await markRead('sys', ChannelType.PERSON, 'p2', 1n);
    await markRead('bob', ChannelType.GROUP, 'team', 3n);
    await markRead('cat', ChannelType.GROUP, 'team', 1n);
    await markRead('ann', ChannelType.GROUP, 'team');
    await clients.messages.recallMessages({
      channelType: ChannelType.GROUP,
      channelId: 'team',
      clientMsgNos: ['recalled'],
    });
    // Group: 1 and 4 from sys to 3 members each, 2 from ann to 3, 3 to bob and dan; 5 recalled.
    const expected = {
      total: '9/1/0 14/-/7',
      types: ['1 4/0/0 3/-/1', '2 5/1/0 11/-/6'],
      uncounted: 2,
    };
    for (const [name, open] of transports) assert.deepEqual(await reachOf(batchId, clientsOf(open())), expected, name);
    const { body, status } = await json.get(`/v1/batches/${batchId}/reach`);
    assert.equal(status, 200);
    assert.match(body.counted_at, /^20\d\d-.*Z$/);
    assert.deepEqual(
      { ...body, counted_at: '' },
      {
        batch_id: batchId,
        counted_at: '',
        total: {
          message_count: 9,
          recalled_count: 1,
          removed_count: 0,
          receiver_count: 14,
          read_count: 7,
          delivered_count: 7,
        },
        channel_types: [
          {
            channel_type: 1,
            counts: {
              message_count: 4,
              recalled_count: 0,
              removed_count: 0,
              receiver_count: 3,
              read_count: 1,
              delivered_count: 1,
            },
          },
          {
            channel_type: 2,
            counts: {
              message_count: 5,
              recalled_count: 1,
              removed_count: 0,
              receiver_count: 11,
              read_count: 6,
              delivered_count: 6,
            },
          },
        ],
        uncounted_count: 2,
      },
    );
    const client = createSendbatch({ transport: grpc(other.url, key) });
    assert.equal(shown((await client.batchReach(batchId)).total), expected.total);
    for (const { schema } of shards.all)
      await query(service.databaseUrl, `delete from ${schema}.message where client_msg_no = 'twin'`);
    assert.equal((await reachOf(batchId)).total, '9/1/1 11/6/6');
  });

  test('random members, senders, receivers and readers are counted as a model counts them', async (context) => {
    const seed = seedOf(context);
    let state = seed;
    const below = (limit: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * limit);
    };
    const uids = Array.from({ length: 6 }, (_, index) => `m${index}`);
    const groups = ['random-a', 'random-b'];
    const one = <T>(from: readonly T[]) => from[below(from.length)] as T;
    const joined = new Map<string, number>();
    const denied = new Set<string>();
    const cursors = new Map<string, number>();
    const heads = new Map<string, number>();
    const at = (channelId: string, uid: string) => `${channelId} ${uid}`;
    for (const channelId of groups) await putGroup(channelId, []);
    const batches: string[] = [];
    const messages: { batch: number; channelId: string; seq: number; from: string; subscribers: string[] }[] = [];
    for (let round = 0; round < 3; round++) {
      for (let step = 0; step < 12; step++) {
        const [channelId, uid] = [one(groups), one(uids)];
        const named = { channelType: ChannelType.GROUP, channelId };
        const head = heads.get(channelId) ?? 0;
        const each = at(channelId, uid);
        if (below(5) < 2) {
          await clients.channels.addMembers({ ...named, subscribers: [uid] });
          if (!joined.has(each)) joined.set(each, head);
          if (!cursors.has(each)) cursors.set(each, head);
        } else if (below(4) === 0) {
          await clients.channels.removeMembers({ ...named, subscribers: [uid] });
          joined.delete(each);
        } else if (below(8) === 0) {
          await clients.channels.addToDenylist({ ...named, uids: [uid] });
          denied.add(each);
        } else if (joined.has(each) && !denied.has(each) && head > 0) {
          const seq = 1 + below(head);
          await markRead(uid, ChannelType.GROUP, channelId, BigInt(seq));
          cursors.set(each, Math.max(seq, cursors.get(each) ?? 0));
        }
      }
      const drafts = Array.from({ length: 15 }, () =>
        group(one(groups), one(uids), below(4) === 0 ? { subscribers: [one(uids), one(uids)] } : {}),
      );
      const batchId = await submit(drafts);
      const { results } = await clients.batches.listBatchResults({ batchId });
      for (const { index, messageSeq } of results) {
        const { channelId = '', fromUid: from = '', subscribers = [] } = drafts[index] ?? {};
        messages.push({ batch: round, channelId, seq: Number(messageSeq), from, subscribers: [...subscribers] });
        heads.set(channelId, Math.max(heads.get(channelId) ?? 0, Number(messageSeq)));
      }
      batches.push(batchId);
    }
    for (const [round, batchId] of batches.entries()) {
      let [receivers, read] = [0, 0];
      const readersOf = new Map<string, string[]>();
      for (const { batch, channelId, seq, from, subscribers } of messages) {
        if (batch !== round) continue;
        const members = uids.filter(
          (uid) => (joined.get(at(channelId, uid)) ?? seq) < seq && !denied.has(at(channelId, uid)),
        );
        const all = [...new Set(subscribers.length > 0 ? subscribers : members)].filter((uid) => uid !== from);
        const readers = all.filter((uid) => (cursors.get(at(channelId, uid)) ?? 0) >= seq);
        receivers += all.length;
        read += readers.length;
        readersOf.set(`${channelId} ${seq}`, readers.sort());
      }
      assert.equal((await reachOf(batchId)).total, `15/0/0 ${receivers}/${read}/${read}`, `batch ${round}`);
      for (const [message, readers] of readersOf) {
        const [channelId = '', seq = ''] = message.split(' ');
        const page = await clients.messages.listReaders({
          channelType: ChannelType.GROUP,
          channelId,
          messageSeq: BigInt(seq),
        });
        assert.deepEqual(
          page.readers.map((each) => each.uid),
          readers,
          message,
        );
      }
    }
  });

  test('members of large groups are counted page by page', async () => {
    const many = Array.from({ length: 20_005 }, (_, index) => `big${String(index).padStart(5, '0')}`);
    await putGroup('big', many);
    const batchId = await submit([group('big', 'big00007'), group('big', 'nobody')]);
    await query(
      service.databaseUrl,
      `update sendbatch.read_cursor set read_seq = 2 where uid like 'big%' and right(uid, 1) = '5'`,
    );
    assert.equal((await reachOf(batchId)).total, '2/0/0 40009/4000/4000');
    const client = createSendbatch({ transport: grpc(service.url, key) });
    const readers: string[] = [];
    const at = { channelType: ChannelType.GROUP, channelId: 'big', messageSeq: 1n };
    for await (const uid of client.readers(at)) readers.push(uid);
    assert.deepEqual(
      readers,
      many.filter((uid) => uid.endsWith('5')),
    );
    const first = await clients.messages.listReaders({ ...at, pageSize: 3 });
    assert.deepEqual(
      first.readers.map((each) => each.uid),
      ['big00005', 'big00015', 'big00025'],
    );
    const second = await clients.messages.listReaders({ ...at, pageSize: 3, pageToken: first.nextPageToken });
    assert.equal(second.readers[0]?.uid, 'big00035');
  });

  test('a caller has one question at a time over all instances, and only about its own batches', async () => {
    const owner = await keyFor(['send']);
    const byOwner = clientsOf(grpc(service.url, owner));
    const batchId = await submit([person('lone', 'sys')], byOwner);
    const otherKey = await keyFor(['send', 'read']);
    const ask = (url: string, credential: string) =>
      reasonOf(clientsOf(grpc(url, credential)).batches.getBatchReach({ batchId }));
    assert.equal(await ask(service.url, otherKey), 'BATCH_NOT_FOUND');
    assert.equal(await ask(service.url, await keyFor(['read'])), 'SCOPE_MISSING');
    assert.equal(await ask(service.url, key), 'ok');
    assert.equal(await reasonOf(byOwner.batches.getBatchReach({ batchId: 'none' })), 'BATCH_NOT_FOUND');
    const holder = new pg.Client({ connectionString: service.databaseUrl });
    await holder.connect();
    try {
      await holder.query('begin; lock table sendbatch.read_cursor in access exclusive mode');
      const waiting = ask(service.url, owner);
      await untilOneWaitsFor(holder);
      assert.equal(await ask(service.url, owner), 'REACH_IN_PROGRESS');
      assert.equal(await ask(other.url, owner), 'REACH_IN_PROGRESS');
      const refused = await fetch(`${other.url}/v1/batches/${batchId}/reach`, { headers: authorized(owner) });
      assert.equal(refused.status, 429);
      assert.equal(refused.headers.get('retry-after'), '1');
      const patient = createSendbatch({ transport: grpc(service.url, owner), retry: { attempts: 100 } });
      const later = patient.batchReach(batchId);
      await holder.query('commit');
      assert.equal(await waiting, 'ok');
      assert.equal(shown((await later).total), '1/0/0 1/0/0');
    } finally {
      await holder.end();
    }
  });

  test('the sender, services and admins may list the readers of a message', async () => {
    await putGroup('rights', ['ann', 'bob', 'cat', 'dan']);
    await submit([group('rights', 'ann'), group('rights', 'ann', { subscribers: ['bob'] }), group('rights', 'ann')]);
    for (const uid of ['bob', 'cat', 'ann']) await markRead(uid, ChannelType.GROUP, 'rights');
    await clients.messages.recallMessages({
      channelType: ChannelType.GROUP,
      channelId: 'rights',
      messageSeqs: [3n],
    });
    const [readerKey, senderKey] = [await keyFor(['read']), await keyFor(['send'])];
    const [ann, bob, cat, eve] = await Promise.all(['ann', 'bob', 'cat', 'eve'].map(tokenFor));
    const rows: [string, string | undefined, string, string[]][] = [
      // By message: open, to bob only, recalled, none.
      ['the sender', ann, '', ['bob,cat', 'bob', 'MESSAGE_RECALLED', 'MESSAGE_NOT_FOUND']],
      ['a member', bob, '', ['NOT_THE_SENDER', 'NOT_THE_SENDER', 'NOT_THE_SENDER', 'MESSAGE_NOT_FOUND']],
      [
        'a member who cannot see it',
        cat,
        '',
        ['NOT_THE_SENDER', 'MESSAGE_NOT_FOUND', 'NOT_THE_SENDER', 'MESSAGE_NOT_FOUND'],
      ],
      ['an outsider', eve, '', Array(4).fill('NOT_SUBSCRIBER')],
      ['a user that names the sender', bob, 'ann', Array(4).fill('READER_NOT_YOURS')],
      ['a service', readerKey, '', ['bob,cat', 'bob', 'MESSAGE_RECALLED', 'MESSAGE_NOT_FOUND']],
      ['a service for the sender', readerKey, 'ann', ['bob,cat', 'bob', 'MESSAGE_RECALLED', 'MESSAGE_NOT_FOUND']],
      [
        'a service for a member',
        readerKey,
        'bob',
        ['NOT_THE_SENDER', 'NOT_THE_SENDER', 'NOT_THE_SENDER', 'MESSAGE_NOT_FOUND'],
      ],
      ['an admin for a member', key, 'bob', ['bob,cat', 'bob', 'MESSAGE_RECALLED', 'MESSAGE_NOT_FOUND']],
      ['a service that cannot read', senderKey, '', Array(4).fill('SCOPE_MISSING')],
      ['nobody', undefined, '', Array(4).fill('CREDENTIAL_MISSING')],
    ];
    for (const [who, credential, uid, expected] of rows) {
      const call = jsonCaller(service.url, credential === undefined ? {} : authorized(credential));
      const found: string[] = [];
      for (const seq of [1, 2, 3, 9]) {
        const { status, body } = await call.get(`/v1/channels/2/rights/messages/${seq}/readers?uid=${uid}`);
        found.push(
          status === 200
            ? body.readers.map((each: { uid: string }) => each.uid).join(',')
            : body.error.details[0].reason,
        );
      }
      assert.deepEqual(found, expected, who);
    }
    for (const [name, open] of transports)
      assert.deepEqual(
        (
          await clientsOf(open()).messages.listReaders({
            channelType: ChannelType.GROUP,
            channelId: 'rights',
            messageSeq: 1n,
          })
        ).readers.map((each) => each.uid),
        ['bob', 'cat'],
        name,
      );
  });

  test('tails and syncs record deliveries, for the user alone, and nothing is recorded when it is off', async () => {
    await putGroup('parcels', ['ann', 'bob', 'cat', 'dan', 'eve']);
    const batchId = await submit([group('parcels', 'sys'), group('parcels', 'sys'), person('fay', 'sys')]);
    const deliveredOf = async () => {
      const rows = await query(
        service.databaseUrl,
        `select d.uid, c.channel_id, d.delivered_seq from sendbatch.delivery_cursor d join sendbatch.channel c using (channel_key)
         where c.channel_id = 'parcels' or c.channel_id like '%fay%' order by d.uid collate "C"`,
      );
      return rows.map((row) => `${row.uid} ${row.delivered_seq}`);
    };
    const named = { channelType: ChannelType.GROUP, channelId: 'parcels' };
    const [ann, bob] = await Promise.all(['ann', 'bob'].map(tokenFor));
    // Neither a service that reads for nobody nor an instance without the setting records anything.
    await clients.messages.listMessages(named);
    await clientsOf(grpc(other.url, key)).messages.listMessages({ ...named, uid: 'eve' });
    assert.equal(
      await reasonOf(clientsOf(grpc(service.url, bob ?? '')).messages.listMessages({ ...named, uid: 'eve' })),
      'READER_NOT_YOURS',
    );
    // A tail over gRPC, an event stream, a legacy sync by a service, and a page by the user.
    const stop = new AbortController();
    const received: number[] = [];
    const following = (async () => {
      const tail = clientsOf(grpc(service.url, ann ?? '')).messages.subscribe(
        { channels: [{ ...named, afterSeq: 0n }] },
        { signal: stop.signal },
      );
      for await (const { frame } of tail) if (frame.case === 'message') received.push(Number(frame.value.messageSeq));
    })().catch(() => {});
    const events = await openEvents(`${service.url}/v1/channels/2/parcels/events?after_seq=0`, authorized(bob ?? ''));
    for (let seen = 0; seen < 2; ) if ((await events.next())?.event === 'message') seen++;
    const synced = await json.post('/channel/messagesync', {
      login_uid: 'cat',
      channel_id: 'parcels',
      channel_type: 2,
      start_message_seq: 1,
      end_message_seq: 0,
      limit: 1,
      pull_mode: 1,
    });
    assert.deepEqual(
      synced.body.messages.map((each: { message_seq: number }) => each.message_seq),
      [1],
    );
    await clients.messages.listMessages({ uid: 'fay', channelType: ChannelType.PERSON, channelId: 'sys' });
    const expected = 'ann 2,bob 2,cat 1,fay 1';
    await until('all deliveries are written', async () => (await deliveredOf()).join() === expected);
    assert.deepEqual(received, [1, 2]);
    await markRead('dan', ChannelType.GROUP, 'parcels', 1n);
    // What dan has read is delivered too.
    assert.deepEqual(await reachOf(batchId), {
      total: '3/0/0 11/7/1',
      types: ['1 1/0/0 1/1/0', '2 2/0/0 10/6/1'],
      uncounted: 0,
    });
    stop.abort();
    events.close();
    await following;
    assert.match(await service.metrics(), /^sendbatch_delivery_cursors_total\{outcome="written"\} \d+$/m);
    assert.doesNotMatch(await service.metrics(), /parcels|fay/);
  });
});
