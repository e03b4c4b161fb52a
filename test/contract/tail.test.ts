import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { randomOf } from '../../bench/workload.ts';
import { BadRequestSchema, ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService, type SubscribeResponse } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { perShard, shards } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { query } from '../support/verify.ts';

const payload = Buffer.from('x').toString('base64');
type Frames = AsyncIterator<SubscribeResponse>;

/** Formats a frame: `5` a message, `|5` caught up, `~` a heartbeat, `!` a no_persist message. */
const formatFrame = ({ frame }: SubscribeResponse) =>
  frame.case === 'message'
    ? frame.value.messageSeq === 0n
      ? '!'
      : String(frame.value.messageSeq)
    : frame.case === 'caughtUp'
      ? `|${frame.value.lastSeq}`
      : '~';

/** Returns the next `count` frames, without heartbeats. */
async function take(frames: Frames, count: number): Promise<string> {
  const taken: string[] = [];
  while (taken.length < count) {
    const { done, value } = await frames.next();
    if (done === true) return [...taken, 'end'].join(' ');
    const formatted = formatFrame(value);
    if (formatted !== '~') taken.push(formatted);
  }
  return taken.join(' ');
}

const transports: [string, (url: string) => Transport][] = [
  ['gRPC', (baseUrl) => createGrpcTransport({ baseUrl })],
  ['gRPC-Web', (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: '1.1' })],
  ['Connect', (baseUrl) => createConnectTransport({ baseUrl, httpVersion: '1.1' })],
  ['Connect, HTTP/2', (baseUrl) => createConnectTransport({ baseUrl, httpVersion: '2' })],
];

/** Deadline headers, set by hand because the timers of the clients are limited too. */
function deadlineOf(name: string, seconds: number): Record<string, string> {
  return name.startsWith('gRPC') ? { 'grpc-timeout': `${seconds}S` } : { 'connect-timeout-ms': `${seconds * 1000}` };
}

describe('live tails', () => {
  let first: TestService;
  let second: TestService;
  let call: ReturnType<typeof jsonCaller>;
  let other: ReturnType<typeof jsonCaller>;
  before(async () => {
    first = await startService();
    second = await startService({ databaseUrl: first.databaseUrl });
    call = jsonCaller(first.url);
    other = jsonCaller(second.url);
  });
  after(async () => {
    await second.stop();
    await first.stop();
  });
  let sent = 0;
  const send = async (by: typeof call, channel_id: string, count = 1, more: object = {}) => {
    const messages = Array.from({ length: count }, () => ({
      channel_id,
      channel_type: 2,
      from_uid: 'u1',
      client_msg_no: `k${sent++}`,
      payload,
      ...more,
    }));
    assert.equal((await by.post('/message/sendbatch', messages)).status, 200);
  };
  const clientOf = (service: TestService, transport = transports[0]?.[1]): Client<typeof MessageService> => {
    assert.ok(transport);
    return createClient(MessageService, transport(service.url));
  };
  const follow = (client: Client<typeof MessageService>, channelId: string, more: object = {}, uid = '') => {
    const abort = new AbortController();
    const stream = client.subscribe(
      { uid, channels: [{ channelId, channelType: 2, ...more }] },
      { signal: abort.signal },
    );
    return { frames: stream[Symbol.asyncIterator]() as Frames, abort };
  };

  for (const [name, transport] of transports) {
    test(`a deadline of thirty days, longer than a Node timer, does not end a stream at once: ${name}`, async () => {
      const id = `deadline ${name}`;
      const abort = new AbortController();
      const options = { signal: abort.signal, headers: deadlineOf(name, 30 * 24 * 3600) };
      const stream = clientOf(first, transport).subscribe({ channels: [{ channelId: id, channelType: 2 }] }, options);
      const frames = stream[Symbol.asyncIterator]() as Frames;
      assert.equal(await take(frames, 1), '|0');
      await send(call, id);
      assert.equal(await take(frames, 1), '1');
      abort.abort();
      await assert.rejects(frames.next());
      const page = await clientOf(first, transport).listMessages(
        { channelId: id, channelType: 2 },
        { headers: options.headers },
      );
      assert.equal(page.messages.length, 1);
    });

    test(`a tail sends history, caught_up and new messages of both instances: ${name}`, async () => {
      const id = `tail ${name}`;
      await send(call, id, 3);
      const here = follow(clientOf(first, transport), id);
      const there = follow(clientOf(second, transport), id, { afterSeq: 2n });
      const now = follow(clientOf(first, transport), id, { fromNow: true });
      assert.equal(await take(here.frames, 4), '1 2 3 |3');
      assert.equal(await take(there.frames, 2), '3 |3');
      assert.equal(await take(now.frames, 1), '|3');
      await send(call, id, 2);
      await send(other, id, 1);
      for (const each of [here, there, now]) {
        assert.equal(await take(each.frames, 3), '4 5 6');
        each.abort.abort();
      }
    });
  }

  test('a tail of a channel without messages gets the first one from another instance', async () => {
    const tail = follow(clientOf(second), 'not yet');
    assert.equal(await take(tail.frames, 1), '|0');
    await send(other, 'not yet');
    assert.equal(await take(tail.frames, 1), '1');
    tail.abort.abort();
  });

  // Heartbeats do not depend on shards.
  if (shards.count === 1)
    test('a tail sends a heartbeat after 15 s without a frame, even while it polls', async () => {
      const rpc = clientOf(first);
      const members = { channel_type: 2, subscribers: ['u1', 'u2'] };
      for (const channel_id of ['quiet', 'hidden']) await call.post('/channel', { ...members, channel_id });
      const follows: [string, ReturnType<typeof follow>][] = [
        ['quiet', follow(rpc, 'quiet')],
        // Every poll checks whether this channel exists.
        ['unmade', follow(rpc, 'unmade')],
        // Every message of this channel is for another user.
        ['hidden', follow(rpc, 'hidden', {}, 'u2')],
      ];
      let beating = true;
      const sending = (async () => {
        for (; beating; await delay(500)) await send(call, 'hidden', 1, { subscribers: ['u1'] });
      })();
      await Promise.all(
        follows.map(async ([channel, { frames, abort }]) => {
          const seen: string[] = [];
          const since = performance.now();
          while (seen.at(-1) !== '~') {
            const { value, done } = await frames.next();
            assert.notEqual(done, true, channel);
            seen.push(formatFrame(value));
          }
          const took = performance.now() - since;
          assert.deepEqual([seen.length, seen[0]?.[0]], [2, '|'], `${channel}: ${seen}`);
          assert.ok(took > 14_900 && took < 40_000, `${channel}: ${took} ms`);
          abort.abort();
        }),
      );
      beating = false;
      await sending;
    });

  test('a no_persist message reaches connected readers on every instance and no later reader', async () => {
    const tails = [follow(clientOf(first), 'flash'), follow(clientOf(second), 'flash')];
    for (const tail of tails) assert.equal(await take(tail.frames, 1), '|0');
    await send(call, 'flash', 1, { header: { no_persist: 1 } });
    for (const tail of tails) assert.equal(await take(tail.frames, 1), '!');
    await send(call, 'flash', 1);
    for (const tail of tails) assert.equal(await take(tail.frames, 1), '1');
    const late = follow(clientOf(first), 'flash');
    assert.equal(await take(late.frames, 2), '1 |1');
    for (const tail of [...tails, late]) tail.abort.abort();
  });

  test('a tail of all channels of a user adds channels it joins and drops channels it leaves', async () => {
    const put = (channel_id: string, subscribers: string[]) =>
      call.post('/channel', { channel_id, channel_type: 2, subscribers });
    await put('mine', ['me']);
    await put('later', []);
    await send(call, 'mine', 2);
    await send(call, 'later', 3);
    const abort = new AbortController();
    const stream = clientOf(second).subscribe({ uid: 'me', allOfUid: true }, { signal: abort.signal });
    const frames = stream[Symbol.asyncIterator]();
    const next = async () => {
      for (;;) {
        const { value } = await frames.next();
        const { frame } = value as SubscribeResponse;
        if (frame.case === 'message') return `${frame.value.channelId} ${frame.value.messageSeq}`;
        if (frame.case === 'caughtUp') return `${frame.value.channelId} |${frame.value.lastSeq}`;
      }
    };
    assert.equal(await next(), 'mine |2');
    await send(call, 'mine');
    assert.equal(await next(), 'mine 3');
    await call.post('/channel/subscriber_add', { channel_id: 'later', subscribers: ['me'] });
    assert.equal(await next(), 'later |3');
    await send(call, 'later');
    assert.equal(await next(), 'later 4');
    await send(call, 'me', 1, { channel_type: 1, from_uid: 'stranger' });
    const person = [await next(), await next()];
    const pair = person[0]?.split(' ')[0];
    // A channel exists before its first message: a reader may be caught up only in between.
    const isEarly = person[0]?.endsWith('|0');
    assert.deepEqual(person, isEarly ? [`${pair} |0`, `${pair} 1`] : [`${pair} 1`, `${pair} |1`]);
    await call.post('/channel/subscriber_remove', { channel_id: 'later', subscribers: ['me'] });
    await send(call, 'me', 1, { channel_type: 1, from_uid: 'stranger' });
    assert.match(await next(), / 2$/);
    await send(call, 'later');
    await send(call, 'mine');
    assert.equal(await next(), 'mine 4');
    abort.abort();
  });

  const infoOf = (error: unknown) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0];
  const failureOf = async (work: Promise<unknown>) =>
    await work.then(
      (value) => assert.fail(`no error, but ${JSON.stringify(value)}`),
      (error: unknown) => ({ code: ConnectError.from(error).code, ...infoOf(error) }),
    );
  const runSql = (statement: string) => query(first.databaseUrl, statement);
  /** Tails all channels of a user: `g 3` a message, `g |3` caught up, `all` all caught up. */
  const followAll = (uid: string, more: object = {}, transport = transports[0]?.[1]) => {
    const abort = new AbortController();
    const stream = clientOf(second, transport).subscribe({ uid, allOfUid: true, ...more }, { signal: abort.signal });
    const frames = stream[Symbol.asyncIterator]();
    const next = async (): Promise<string> => {
      for (;;) {
        const { value } = await frames.next();
        const { frame } = value as SubscribeResponse;
        if (frame.case === 'message') return `${frame.value.channelId} ${frame.value.messageSeq}`;
        if (frame.case === 'caughtUp') return `${frame.value.channelId} |${frame.value.lastSeq}`;
        if (frame.case === 'allCaughtUp') return 'all';
      }
    };
    const until = async (end: string) => {
      const frames = [await next()];
      while (frames.at(-1) !== end) frames.push(await next());
      return frames;
    };
    return { next, until, abort };
  };

  test('a channel created during a tail of its user is caught up at 0 before its first message', async () => {
    const all = followAll('early');
    assert.equal(await all.next(), 'all');
    const holder = new pg.Client({ connectionString: first.databaseUrl });
    await holder.connect();
    // The lock blocks writes but not reads, so the new channel stays without a message.
    await holder.query('begin');
    for (const lock of perShard('lock table sendbatch.message in exclusive mode')) await holder.query(lock);
    const sending = send(call, 'early', 1, { channel_type: 1, from_uid: 'stranger' });
    const created = await all.next();
    assert.match(created, /^(early@stranger|stranger@early) \|0$/);
    await holder.query('rollback');
    await sending;
    assert.equal(await all.next(), created.replace('|0', '1'));
    await send(call, 'early', 1, { channel_type: 1, from_uid: 'stranger' });
    assert.equal(await all.next(), created.replace('|0', '2'));
    all.abort.abort();
    await holder.end();
  });

  for (const [name, transport] of transports)
    test(`a tail cursor above the head is refused with the true head: ${name}`, async () => {
      const id = `ahead ${name}`;
      await call.post('/channel', { channel_id: id, channel_type: 2, subscribers: ['ahead'] });
      await send(call, id, 3);
      const rpc = clientOf(second, transport);
      const at = { channelId: id, channelType: ChannelType.GROUP };
      const expected = { channel_id: id, channel_type: '2', after_seq: '4', last_seq: '3' };
      const refused: [string, () => AsyncIterable<unknown>, object][] = [
        ['one channel', () => rpc.subscribe({ channels: [{ ...at, afterSeq: 4n }] }), expected],
        [
          'a channel without messages',
          () => rpc.subscribe({ channels: [at, { channelId: `no ${id}`, channelType: 2, afterSeq: 1n }] }),
          { channel_id: `no ${id}`, channel_type: '2', after_seq: '1', last_seq: '0' },
        ],
        [
          'one of all channels of a user',
          () => rpc.subscribe({ uid: 'ahead', allOfUid: true, channels: [{ ...at, afterSeq: 4n }] }),
          expected,
        ],
      ];
      // Opened in turn: a stream that fails before it is read is an unhandled rejection.
      for (const [what, open, metadata] of refused) {
        const failure = await failureOf(open()[Symbol.asyncIterator]().next());
        assert.deepEqual([failure.code, failure.reason], [Code.OutOfRange, 'SEQ_AHEAD'], what);
        assert.deepEqual(failure.metadata, metadata, what);
      }
      const page = await failureOf(rpc.listMessages({ ...at, afterSeq: 4n }));
      assert.deepEqual([page.reason, page.metadata], ['SEQ_AHEAD', { after_seq: '4', last_seq: '3' }]);
      const atHead = follow(rpc, id, { afterSeq: 3n });
      assert.equal(await take(atHead.frames, 1), '|3');
      atHead.abort.abort();
    });

  test('a cursor above the head is refused with the true head: Server-Sent Events and JSON', async () => {
    await send(call, 'ahead json', 2);
    const path = '/v1/channels/2/ahead%20json';
    const rows: [string, Record<string, string>][] = [
      [`${path}/events?after_seq=3`, {}],
      [`${path}/events`, { 'last-event-id': '3' }],
      [`${path}/messages?after_seq=3`, {}],
    ];
    for (const [url, headers] of rows) {
      const response = await fetch(`${first.url}${url}`, { headers });
      const { error } = (await response.json()) as { error: { status: string; details: { metadata: object }[] } };
      assert.deepEqual([response.status, error.status], [400, 'OUT_OF_RANGE'], url);
      const metadata = { ...(error.details[0]?.metadata as Record<string, string> | undefined) };
      assert.deepEqual([metadata.last_seq, metadata.after_seq], ['2', '3'], url);
    }
    const legacy = { channel_id: 'ahead json', channel_type: 6, login_uid: 'x', pull_mode: 1, start_message_seq: 2 };
    const answer = await call.post('/channel/messagesync', legacy);
    assert.deepEqual(answer.body.error.details[0].metadata, { start_message_seq: '2', last_seq: '0' });
  });

  test('an open tail ends with the true head when its database is restored to an earlier state', async () => {
    await send(call, 'put back', 5);
    const tails = [follow(clientOf(first), 'put back'), follow(clientOf(second), 'put back')];
    for (const { frames } of tails) assert.equal(await take(frames, 6), '1 2 3 4 5 |5');
    await runSql(`
      with c as (select channel_key from sendbatch.channel where channel_id = 'put back'),
        gone as (delete from sendbatch.message m using c where m.channel_key = c.channel_key and message_seq > 2)
      update sendbatch.channel_head h set last_seq = 2 from c where h.channel_key = c.channel_key`);
    for (const { frames } of tails) {
      const failure = await failureOf(take(frames, 1));
      assert.deepEqual([failure.reason, failure.metadata?.last_seq], ['SEQ_AHEAD', '2']);
    }
  });

  for (const [name, transport] of transports)
    test(`a resumed tail of all channels of a user includes messages of channels joined meanwhile: ${name}`, async () => {
      const me = `resumer ${name}`.replaceAll(/\W/g, '');
      const put = (channel_id: string, subscribers: string[]) =>
        call.post('/channel', { channel_id, channel_type: 2, subscribers });
      const [old, joined, made, left] = ['old', 'joined', 'made', 'left'].map((each) => `${each}${me}`) as [
        string,
        string,
        string,
        string,
      ];
      await put(joined, []);
      await send(call, joined, 3);
      // A user without channels is caught up at once.
      const none = followAll(me, {}, transport);
      assert.equal(await none.next(), 'all');
      none.abort.abort();
      await put(old, [me]);
      await put(left, [me]);
      await send(call, old, 2);
      const begun = followAll(me, { resume: true }, transport);
      assert.deepEqual(
        (await begun.until('all')).sort(),
        ['all', `${left} |0`, `${old} 1`, `${old} 2`, `${old} |2`].sort(),
      );
      begun.abort.abort();
      await call.post('/channel/subscriber_add', { channel_id: joined, subscribers: [me] });
      await call.post('/channel/subscriber_remove', { channel_id: left, subscribers: [me] });
      await put(made, [me]);
      for (const id of [old, joined, made]) await send(call, id, 2);
      await send(call, me, 2, { channel_type: 1, from_uid: 'stranger' });
      const channels = [
        { channelId: old, channelType: 2, afterSeq: 2n },
        { channelId: left, channelType: 2, afterSeq: 0n },
      ];
      const resumed = followAll(me, { resume: true, channels }, transport);
      const resumedFrames = await resumed.until('all');
      const person = resumedFrames.find((each) => each.includes('@'))?.split(' ')[0];
      const wanted = [
        [old, 3, 4],
        [joined, 4, 5],
        [made, 1, 2],
        [person, 1, 2],
      ].flatMap(([id, one, two]) => [`${id} ${one}`, `${id} ${two}`, `${id} |${two}`]);
      assert.deepEqual(resumedFrames.sort(), ['all', ...wanted].sort());
      // A channel created later is sent from its first message on.
      await send(call, me, 1, { channel_type: 1, from_uid: 'later' });
      const created = await resumed.next();
      // With several shards a channel exists before its first message is stored.
      assert.match(shards.count > 1 && created.endsWith('|0') ? await resumed.next() : created, /@.* 1$/);
      resumed.abort.abort();
    });

  test('a tail of a user with more than 10,000 channels is refused with TOO_MANY_CHANNELS', async () => {
    await runSql(
      `insert into sendbatch.channel (channel_type, sequence, channel_id)
       select 2, 0, 'crowd' || n from generate_series(1, 10001) n`,
    );
    for (const [index, statement] of perShard(
      `with made as (select channel_key from sendbatch.channel where channel_id like 'crowd%'
         and channel_key % ${shards.count} = $1),
       heads as (insert into sendbatch.channel_head (channel_key) select channel_key from made)
       insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq)
       select channel_key, 'crowd', 0, 0, true, 0 from made`,
    ).entries())
      await runSql(statement.replace('$1', String(index)));
    const failure = await failureOf(followAll('crowd').next());
    assert.deepEqual(
      [failure.code, failure.reason, failure.metadata?.limit],
      [Code.FailedPrecondition, 'TOO_MANY_CHANNELS', '10000'],
    );
  });

  test('a tail is refused for a non-member, and ends for a member that is removed', async () => {
    await call.post('/channel', { channel_id: 'club', channel_type: 2, subscribers: ['a'] });
    const as = (uid: string) =>
      clientOf(second)
        .subscribe({ uid, channels: [{ channelId: 'club', channelType: 2 }] })
        [Symbol.asyncIterator]();
    const reasonOf = async (work: Promise<unknown>) =>
      await work.then(
        () => 'none',
        (error) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason,
      );
    assert.equal(await reasonOf(as('b').next()), 'NOT_SUBSCRIBER');
    const mine = as('a');
    assert.equal(await take(mine, 1), '|0');
    await send(call, 'club', 1, { subscribers: ['z'] });
    await send(call, 'club', 1);
    assert.equal(await take(mine, 1), '2', 'what names others is not for it');
    await call.post('/channel/subscriber_remove', { channel_id: 'club', subscribers: ['a'] });
    assert.equal(await reasonOf(take(mine, 1)), 'NOT_SUBSCRIBER');
  });

  test('an invalid tail request is refused with the field named', async () => {
    const twice = { channelId: 'twice', channelType: ChannelType.GROUP };
    const { frames, abort } = follow(clientOf(first), 'twice');
    const same = clientOf(first).subscribe({ channels: [twice, twice] }, { signal: abort.signal });
    for (const each of [frames, same[Symbol.asyncIterator]() as Frames]) assert.equal(await take(each, 1), '|0');
    abort.abort();
    const bad: [object, string][] = [
      [{ channels: [{ channelId: '', channelType: 2 }] }, 'channels[0].channel_id'],
      [
        { channels: Array.from({ length: 101 }, (_, index) => ({ channelId: `c${index}`, channelType: 2 })) },
        'channels',
      ],
      [{ channels: [twice, { ...twice, afterSeq: 1n }] }, 'channels[1]'],
      [{ channels: [twice, { ...twice, fromNow: true }] }, 'channels[1]'],
      [{ channels: [{ ...twice, afterChange: 0n }, twice] }, 'channels[1]'],
      [{ uid: 'u1', allOfUid: true, channels: [twice, { ...twice, afterSeq: 1n }] }, 'channels[1]'],
      // These would never receive a message.
      [{}, 'channels'],
      [{ allOfUid: true }, 'uid'],
    ];
    for (const [request, field] of bad) {
      const error = await clientOf(first)
        .subscribe(request)
        [Symbol.asyncIterator]()
        .next()
        .then(
          () => undefined,
          (thrown) => ConnectError.from(thrown),
        );
      assert.equal(error?.code, Code.InvalidArgument);
      assert.equal(error.findDetails(BadRequestSchema)[0]?.fieldViolations[0]?.field, field);
    }
  });

  test('tails get each message once in order under random sends, reconnects and a killed listener', async (context) => {
    const random = randomOf(seedOf(context));
    const id = 'storm';
    const total = 600;
    const killer = new pg.Client({ connectionString: first.databaseUrl });
    await killer.connect();
    let stored = 0;
    const sending = (async () => {
      while (stored < total) {
        const count = 1 + Math.floor(random() * 10);
        stored += count;
        await send(random() < 0.5 ? call : other, id, count);
        if (random() < 0.1)
          await killer.query(
            `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sendbatch listener' and datname = current_database()`,
          );
      }
    })();
    const reading = Array.from({ length: 6 }, async (_, index) => {
      const seen: number[] = [];
      while (stored < total || seen.length < stored) {
        const [, transport] = transports[index % transports.length] ?? [];
        const client = clientOf(index % 2 === 0 ? first : second, transport);
        const tail = follow(client, id, { afterSeq: BigInt(seen.at(-1) ?? 0) });
        const until = seen.length + 1 + Math.floor(random() * 200);
        while (seen.length < until && !(stored >= total && seen.length >= stored)) {
          const { value } = await tail.frames.next();
          const { frame } = value as SubscribeResponse;
          if (frame.case === 'message') seen.push(Number(frame.value.messageSeq));
        }
        tail.abort.abort();
      }
      return seen;
    });
    await sending;
    const expected = Array.from({ length: stored }, (_, index) => index + 1);
    for (const seen of await Promise.all(reading)) assert.deepEqual(seen, expected);
    await killer.end();
  });
});

test('a stop ends tails with STOPPING at once', async () => {
  const service = await startService({ shutdownGraceMs: 120_000 });
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
  const frames = client.subscribe({ channels: [{ channelId: 'a', channelType: 2 }] })[Symbol.asyncIterator]() as Frames;
  assert.equal(await take(frames, 1), '|0');
  const start = performance.now();
  const ended = take(frames, 1).catch((error) => ConnectError.from(error));
  await service.stop();
  const error = await ended;
  assert.ok(error instanceof ConnectError);
  assert.equal(error.findDetails(ErrorInfoSchema)[0]?.reason, 'STOPPING');
  assert.ok(performance.now() - start < 60_000);
});
