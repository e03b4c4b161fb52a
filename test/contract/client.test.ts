import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createRouterTransport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import fc from 'fast-check';
import { randomOf } from '../../bench/workload.ts';
import { channelKeyOf } from '../../src/client/channel-key.ts';
import {
  type Batch,
  BatchService,
  BatchState,
  ChannelType,
  createSendbatch,
  MessageService,
  reasonOf,
  type Sendbatch,
} from '../../src/client/index.ts';
import { pairId, peerOf } from '../../src/messages/channel.ts';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { killAll, quietLog, startCluster, type TestCluster } from '../support/cluster.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

const draft = (channelId: string, index: number, bytes = 10) => ({
  channelType: ChannelType.GROUP,
  channelId,
  fromUid: 'u1',
  payload: new Uint8Array(bytes).fill(index % 256),
});

describe('the client', () => {
  let service: TestService;
  let sendbatch: Sendbatch;
  before(async () => {
    service = await startService();
    sendbatch = createSendbatch({ transport: createGrpcTransport({ baseUrl: service.url }) });
  });
  after(async () => {
    await assertSound(service.databaseUrl);
    await service.stop();
  });

  test('the client splits a send above the limits of count and bytes and keeps the order per channel', async () => {
    const channels = ['c0', 'c1', 'c2', 'c3', 'c4'];
    const messages = Array.from({ length: 4321 }, (_, index) => draft(channels[index % 5] ?? '', index));
    const progress: number[] = [];
    const results = await sendbatch.send(messages, { onProgress: (done) => progress.push(done) });
    for (const channel of channels) {
      const seqs = results
        .filter((_, index) => messages[index]?.channelId === channel)
        .map((each) => Number(each.messageSeq));
      assert.deepEqual(
        seqs,
        seqs.map((_, index) => index + 1),
      );
    }
    assert.equal(progress.at(-1), messages.length);
    const large = await sendbatch.send(Array.from({ length: 500 }, (_, index) => draft('large', index, 60_000)));
    assert.deepEqual(
      large.map((each) => Number(each.messageSeq)),
      large.map((_, index) => index + 1),
    );
    assert.deepEqual(await sendbatch.send([]), []);
  });

  test('the client keeps the order of a person channel whichever way its two users name it', async () => {
    const names = [
      { fromUid: 'ann', channelId: 'bob' },
      { fromUid: 'bob', channelId: 'ann' },
      { fromUid: 'ann', channelId: 'ann@bob' },
      { fromUid: 'bob', channelId: 'ann@bob' },
      { fromUid: 'bob', channelId: 'bob@ann' },
    ];
    const messages = Array.from({ length: 4500 }, (_, index) => ({
      ...draft('', index),
      channelType: ChannelType.PERSON,
      ...names[index % names.length],
    }));
    const results = await sendbatch.send(messages);
    assert.deepEqual(
      results.map((each) => Number(each.messageSeq)),
      results.map((_, index) => index + 1),
    );
  });

  test('the client assigns the same channel key to two drafts if and only if the service has one channel for them', () => {
    const uid = fc.constantFrom('a', 'b', 'ab', 'u1', 'é');
    const person = fc.tuple(uid, uid, fc.constantFrom('peer', 'ahead', 'behind')).map(([fromUid, peer, how]) => {
      const channelId = how === 'peer' ? peer : how === 'ahead' ? `${fromUid}@${peer}` : `${peer}@${fromUid}`;
      return { channelType: ChannelType.PERSON, fromUid, channelId };
    });
    const group = fc.record({ channelType: fc.constant(ChannelType.GROUP), fromUid: uid, channelId: uid });
    const canonical = ({
      channelType,
      fromUid,
      channelId,
    }: {
      channelType: number;
      fromUid: string;
      channelId: string;
    }) => (channelType === ChannelType.PERSON ? pairId(fromUid, peerOf(fromUid, channelId)) : `group ${channelId}`);
    const either = fc.oneof(person, group);
    fc.assert(
      fc.property(either, either, (one, other) => {
        assert.equal(channelKeyOf(one) === channelKeyOf(other), canonical(one) === canonical(other));
      }),
    );
  });

  test('each call of the client has a timeout, and its generated keys are UUIDs without crypto.randomUUID', async () => {
    const timeouts: (number | undefined)[] = [];
    const transport = createRouterTransport(({ service }) => {
      service(MessageService, {
        sendBatch: ({ messages }, context) => {
          timeouts.push(context.timeoutMs());
          return { results: messages.map(({ clientMsgNo }) => ({ clientMsgNo })) };
        },
      });
    });
    const local = createSendbatch({ transport });
    const [result] = await local.send([draft('timed', 1)]);
    assert.match(result?.clientMsgNo ?? '', /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    await local.send([draft('timed', 1)], { timeoutMs: 5000 });
    await local.send([draft('timed', 1)], { timeoutMs: 0 });
    const [first = 0, second = 0, third] = timeouts;
    assert.ok(first > 50_000 && first <= 60_000, String(first));
    assert.ok(second <= 5000, String(second));
    assert.equal(third, undefined);
  });

  test('the client passes templates with every call of a send, and validateOnly stores nothing', async () => {
    const templates = [{ name: 'own', body: 'Hi {{ name }}' }];
    const messages = Array.from({ length: 1500 }, (_, index) => ({
      channelType: ChannelType.GROUP,
      channelId: 'templated',
      fromUid: 'u1',
      template: { name: 'own', variables: { name: `n${index}` } },
    }));
    const checked = await sendbatch.send(messages, { templates, validateOnly: true });
    assert.ok(checked.every((each) => each.error === undefined && each.messageSeq === 0n));
    await sendbatch.send(messages, { templates });
    const rows = (await readAll(service.databaseUrl)).filter((row) => row.channel === 'templated');
    assert.deepEqual(
      rows.map((row) => row.payload),
      messages.map((_, index) => `Hi n${index}`),
    );
    const [without] = await sendbatch.send(messages.slice(0, 1));
    assert.equal(reasonOf(without?.error), 'TEMPLATE_NOT_FOUND');
  });

  test('the client returns or throws errors that a retry cannot fix', async () => {
    const strict = await startService({ systemUids: [], databaseUrl: service.databaseUrl });
    const client = createSendbatch({ transport: createConnectTransport({ baseUrl: strict.url, httpVersion: '1.1' }) });
    const [result] = await client.send([draft('nowhere', 1)]);
    assert.equal(reasonOf(result?.error), 'CHANNEL_NOT_EXIST');
    await assert.rejects(client.send([draft('', 1)]), (error) => reasonOf(error) === 'INVALID_FIELD');
    await assert.rejects(
      client.send(
        Array.from({ length: 1001 }, (_, index) => draft('a', index)),
        { atomic: true },
      ),
      (error) => ConnectError.from(error).code === Code.InvalidArgument,
    );
    await strict.stop();
  });

  test('the client waits as long as a rate limit asks and then sends the rest', async () => {
    const limited = await startService({
      databaseUrl: service.databaseUrl,
      rates: { caller: [], sender: [{ points: 5, seconds: 1 }], channel: [], store: 'memory' },
    });
    const client = createSendbatch({ transport: createGrpcTransport({ baseUrl: limited.url }) });
    const results = await client.send(Array.from({ length: 12 }, (_, index) => draft('limited', index)));
    assert.ok(results.every((each) => each.error === undefined));
    await limited.stop();
  });

  for (const [name, transport] of [
    ['gRPC', (baseUrl: string) => createGrpcTransport({ baseUrl })],
    ['Connect', (baseUrl: string) => createConnectTransport({ baseUrl, httpVersion: '1.1' })],
  ] as const)
    test(`the client submits a list of any size as one batch, over ${name}`, async () => {
      const client = createSendbatch({ transport: transport(service.url) });
      const channel = `submitted-${name}`;
      for (const [count, bytes] of [
        [3, 10],
        [300, 60_000],
      ] as const) {
        const messages = Array.from({ length: count }, (_, index) => draft(channel, index, bytes));
        const { batch, duplicate } = await client.submit(messages, {
          name: 'of the client',
          requestId: `${name}${count}`,
        });
        assert.equal(duplicate, false);
        let last: Batch | undefined;
        for await (const each of client.watch(batch.batchId)) last = each;
        assert.deepEqual([last?.state, last?.acceptedCount], [BatchState.COMPLETED, count]);
        assert.equal(
          (await client.submit(messages, { name: 'of the client', requestId: `${name}${count}` })).duplicate,
          true,
        );
      }
      await assert.rejects(client.submit([]), (error) => reasonOf(error) === 'EMPTY_BATCH');
    });

  test('the client retries for patienceMs once it has had an answer, and only for its attempts before', async () => {
    let away = await startService({ databaseUrl: service.databaseUrl });
    const transport = createConnectTransport({ baseUrl: away.url, httpVersion: '1.1' });
    const retry = { attempts: 2, firstPauseMs: 10, longestPauseMs: 50, patienceMs: 60_000 };
    const patient = createSendbatch({ transport, retry });
    await patient.send([draft('patient', 1)]);
    const seen: bigint[] = [];
    const attempts = { send: 0, tail: 0 };
    const many = Promise.withResolvers<void>();
    const count = (what: keyof typeof attempts) => {
      attempts[what]++;
      if (Math.min(attempts.send, attempts.tail) > 5) many.resolve();
    };
    const { promise: first, resolve: came } = Promise.withResolvers<void>();
    const following = (async () => {
      const request = { channels: [{ channelType: ChannelType.GROUP, channelId: 'patient' }] };
      for await (const { messageSeq } of patient.tail(request, { onResume: () => count('tail') })) {
        seen.push(messageSeq);
        came();
        if (messageSeq === 2n) return;
      }
    })();
    await first;
    await away.stop();
    const sending = patient.send([draft('patient', 2)], { onRetry: () => count('send') });
    await Promise.race([many.promise, sending, following]);
    await assert.rejects(createSendbatch({ transport, retry }).send([draft('patient', 3)]));
    away = await startService({ databaseUrl: service.databaseUrl, port: Number(new URL(away.url).port) });
    assert.equal((await sending)[0]?.messageSeq, 2n);
    await following;
    assert.deepEqual(seen, [1n, 2n]);
    await away.stop();
  });

  test('the client reopens streams that end early, up to its number of attempts', async () => {
    let opened = 0;
    let onOpen = () => {};
    // Behaves like a gateway that ends streams without an error.
    const nothing = async function* () {
      opened++;
      onOpen();
      yield* [];
    };
    const transport = createRouterTransport(({ service }) => {
      service(MessageService, { subscribe: nothing });
      service(BatchService, { watchBatch: nothing });
    });
    const hasty = createSendbatch({ transport, retry: { attempts: 3, firstPauseMs: 1 } });
    // The random pause of up to an hour is below the signal's 20 ms once in 180,000 runs.
    const hour = 3_600_000;
    const never = createSendbatch({ transport, retry: { firstPauseMs: hour, longestPauseMs: hour } });
    for (const open of [
      (client: Sendbatch, signal?: AbortSignal) => client.tail({ uid: 'u1', allOfUid: true }, signal && { signal }),
      (client: Sendbatch, signal?: AbortSignal) => client.watch('1', signal && { signal }),
    ]) {
      opened = 0;
      const drain = async () => {
        for await (const _ of open(hasty)) assert.fail('nothing comes');
      };
      await assert.rejects(drain, { code: Code.Unavailable, rawMessage: 'the stream ended early' });
      assert.equal(opened, 3);
      // An abort during the pause before the second attempt is not an error.
      const gone = new AbortController();
      onOpen = () => setTimeout(() => gone.abort(), 20);
      for await (const _ of open(never, gone.signal)) assert.fail('nothing comes');
      assert.equal(opened, 4);
      onOpen = () => {};
    }
  });

  test('a shared tail follows many channels in one stream, and a refused channel ends only its follower', async () => {
    // The streams that nobody has aborted and that the service has not refused.
    const open = new Set<AbortSignal>();
    let most = 0;
    const counted = createSendbatch({
      transport: createConnectTransport({
        baseUrl: service.url,
        httpVersion: '1.1',
        interceptors: [
          (next) => async (request) => {
            const { signal } = request;
            open.add(signal);
            signal.addEventListener('abort', () => open.delete(signal));
            most = Math.max(most, open.size);
            const response = await next(request);
            if (!response.stream) return response;
            const messages = async function* () {
              try {
                yield* response.message;
              } finally {
                open.delete(signal);
              }
            };
            return { ...response, message: messages() };
          },
        ],
      }),
    });
    const shared = counted.shareTail();
    const group = (channelId: string) => ({ channelType: ChannelType.GROUP, channelId });
    await sendbatch.send(Array.from({ length: 2500 }, (_, index) => draft('shared-0', index)));
    const collect = async (channelId: string, count: number, cursor: object = {}) => {
      const seqs: number[] = [];
      for await (const { messageSeq, channelId: of } of shared.follow({ ...group(channelId), ...cursor })) {
        assert.equal(of, channelId);
        seqs.push(Number(messageSeq));
        if (seqs.length === count) return seqs;
      }
      return seqs;
    };
    const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
    const first = collect('shared-0', 2501);
    const late = collect('shared-0', 501, { afterSeq: 2000n });
    const others = Promise.all(range(1, 20).map((index) => collect(`shared-${index}`, 2)));
    await assert.rejects(
      collect('x', 1, { afterSeq: 99n }),
      (error) => ConnectError.from(error).code === Code.OutOfRange,
    );
    for (let round = 0; round < 2; round++)
      await sendbatch.send(range(1, 20).map((index) => draft(`shared-${index}`, round)));
    await sendbatch.send([draft('shared-0', 0)]);
    assert.deepEqual(await first, range(1, 2501));
    assert.deepEqual(await late, range(2001, 2501));
    assert.deepEqual(
      await others,
      range(1, 20).map(() => [1, 2]),
    );
    assert.equal(most, 1);
  });

  test('a tail of all channels of a user misses no message of channels joined while it was disconnected', async () => {
    const cut = Promise.withResolvers<never>();
    const meanwhile = Promise.withResolvers<void>();
    cut.promise.catch(() => {});
    let calls = 0;
    async function* untilCut<T>(frames: AsyncIterable<T>): AsyncGenerator<T> {
      const iterator = frames[Symbol.asyncIterator]();
      for (;;) {
        const { done, value } = await Promise.race([iterator.next(), cut.promise]);
        if (done === true) return;
        yield value;
      }
    }
    const transport = createGrpcTransport({
      baseUrl: service.url,
      interceptors: [
        (next) => async (request) => {
          const isFirst = ++calls === 1;
          if (!isFirst) await meanwhile.promise;
          const response = await next(request);
          return response.stream && isFirst ? { ...response, message: untilCut(response.message) } : response;
        },
      ],
    });
    const put = async (channel_id: string) => {
      const body = JSON.stringify({ channel_id, channel_type: 2, subscribers: ['cut'] });
      assert.equal((await fetch(`${service.url}/channel`, { method: 'POST', body })).status, 200);
    };
    await put('cut before');
    await sendbatch.send([draft('cut before', 0)]);
    const caughtUp = Promise.withResolvers<void>();
    const stop = new AbortController();
    const seen: string[] = [];
    const reading = (async () => {
      const follower = createSendbatch({ transport });
      const watching = { signal: stop.signal, onCaughtUp: () => caughtUp.resolve() };
      for await (const { channelId, messageSeq } of follower.tail({ uid: 'cut', allOfUid: true }, watching)) {
        seen.push(`${channelId} ${messageSeq}`);
        if (seen.length === 5) return;
      }
    })();
    await caughtUp.promise;
    await sendbatch.send([draft('cut before', 1)]);
    while (seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
    cut.reject(new ConnectError('cut', Code.Unavailable));
    await put('cut joined');
    const person = { channelType: ChannelType.PERSON, channelId: 'cut' };
    await sendbatch.send([
      draft('cut joined', 0),
      draft('cut joined', 1),
      { ...draft('', 2), ...person },
      { ...draft('', 3), ...person },
    ]);
    meanwhile.resolve();
    await reading;
    const pair = pairId('cut', 'u1');
    assert.deepEqual(seen.sort(), ['cut before 2', 'cut joined 1', 'cut joined 2', `${pair} 1`, `${pair} 2`].sort());
    stop.abort();
  });

  test('an abort signal ends a tail and a send of the client', async () => {
    const controller = new AbortController();
    const seen: bigint[] = [];
    await sendbatch.send([draft('ending', 1)]);
    for await (const message of sendbatch.tail(
      { channels: [{ channelType: 2, channelId: 'ending' }] },
      { signal: controller.signal },
    )) {
      seen.push(message.messageSeq);
      controller.abort();
    }
    assert.deepEqual(seen, [1n]);
    await assert.rejects(sendbatch.send([draft('ending', 2)], { signal: controller.signal }));
  });
});

describe('the client across database kills and service restarts', () => {
  let cluster: TestCluster;
  before(async () => {
    cluster = await startCluster({ durable: true });
  });
  after(() => cluster.stop());

  test('the client stores and tails every message once in order across a database kill and a service restart', async (context) => {
    const random = randomOf(seedOf(context));
    const url = cluster.url('sendbatch');
    let service = await startService({ databaseUrl: url });
    const { port } = new URL(service.url);
    const transport = createGrpcTransport({ baseUrl: service.url });
    const retry = { attempts: 600, longestPauseMs: 500 };
    const writer = createSendbatch({ transport, retry });
    const reader = createSendbatch({
      transport: createConnectTransport({ baseUrl: service.url, httpVersion: '1.1' }),
      retry,
    });
    const total = 3000;
    const seen: number[] = [];
    let resumed = 0;
    const reading = (async () => {
      const request = { channels: [{ channelType: ChannelType.GROUP, channelId: 'storm' }] };
      for await (const message of reader.tail(request, { onResume: () => resumed++ })) {
        seen.push(Number(message.messageSeq));
        if (seen.length === total) return;
      }
    })();
    const sending = (async () => {
      for (let sent = 0; sent < total; sent += 100)
        for (const result of await writer.send(Array.from({ length: 100 }, (_, index) => draft('storm', sent + index))))
          assert.equal(result.error, undefined);
    })();
    for (let round = 0; round < 2; round++) {
      const until = seen.length + 200 + Math.floor(random() * 400);
      while (seen.length < Math.min(until, total - 200)) await new Promise((resolve) => setImmediate(resolve));
      if (round === 0) {
        killAll(cluster.pid);
        await startEmbedded({ dataDir: cluster.dataDir, explicit: true, log: quietLog });
      } else {
        await service.stop();
        service = await startService({ databaseUrl: url, port: Number(port) });
      }
    }
    await sending;
    await reading;
    // A watch continues after a restart, on a batch scheduled before it.
    const sendAt = timestampFromMs(Date.now() + 2000);
    const { batch } = await writer.submit([draft('storm', 0), draft('storm', 1)], { sendAt });
    let last: Batch | undefined;
    const watching = (async () => {
      for await (const each of reader.watch(batch.batchId)) last = each;
    })();
    await service.stop();
    service = await startService({ databaseUrl: url, port: Number(port) });
    await watching;
    assert.equal(last?.acceptedCount, 2);
    assert.deepEqual(
      seen,
      Array.from({ length: total }, (_, index) => index + 1),
    );
    assert.equal((await readAll(url)).length, total + 2);
    assert.ok(resumed > 0);
    await service.stop();
  });
});
