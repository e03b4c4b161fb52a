import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService, SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { jsonCaller } from '../support/json.ts';

/**
 * Runs with CITUS_URL only: the URL of a database on the coordinator of a Citus cluster with
 * workers, whose user may create databases on all nodes.
 */
const skip = process.env.CITUS_URL === undefined ? 'needs CITUS_URL' : false;

/** Loaded with SHARDS set; no module of the service is loaded when the tests are skipped. */
async function modules() {
  process.env.SHARDS = '8';
  const [{ startService }, citus, { assertSound, readAll }, { messagesOf, startReceiver }, { until }] =
    await Promise.all([
      import('../support/service.ts'),
      import('../support/citus.ts'),
      import('../support/verify.ts'),
      import('../support/receiver.ts'),
      import('../support/watch.ts'),
    ]);
  /** A service on the coordinator, and one on a worker of the same database. */
  const startBoth = async (settings: Parameters<typeof startService>[0] = {}) => {
    const onCoordinator = await startService(settings);
    const [, worker] = await citus.citusNodes();
    assert.ok(worker, 'the cluster needs a worker');
    const workerUrl = citus.urlOn(worker, new URL(onCoordinator.databaseUrl).pathname.slice(1));
    const onWorker = await startService({ ...settings, databaseUrl: workerUrl }).catch(async (error: unknown) => {
      await onCoordinator.stop();
      throw error;
    });
    const stop = async () => {
      await onWorker.stop();
      await onCoordinator.stop();
    };
    return { onCoordinator, onWorker, worker, workerUrl, stop };
  };
  return { startService, startBoth, citus, assertSound, readAll, messagesOf, startReceiver, until };
}

/** The longest time until an answer that a caller who retries may see. */
const longestMs = 15_000;
const writers = 8;

interface Answer {
  readonly message_id: number;
  readonly message_seq: number;
  readonly client_msg_no: string;
  readonly error?: unknown;
}

/** A message that a writer sends, named as in JSON. */
interface Written {
  readonly from_uid: string;
  readonly channel_id: string;
  readonly channel_type: number;
  readonly client_msg_no: string;
  readonly payload: string;
}

type Post = (messages: readonly Written[]) => Promise<readonly Answer[]>;

const overJson =
  (url: string): Post =>
  async (messages) => {
    const response = await fetch(`${url}/message/sendbatch`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(messages),
    });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    return (await response.json()) as Answer[];
  };

function overGrpc(url: string): Post {
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  return async (messages) => {
    const { results } = await client.sendBatch({
      messages: messages.map((each) => ({
        fromUid: each.from_uid,
        channelId: each.channel_id,
        channelType: each.channel_type as ChannelType,
        clientMsgNo: each.client_msg_no,
        payload: new Uint8Array(Buffer.from(each.payload, 'base64')),
      })),
    });
    return results.map((result) => ({
      message_id: Number(result.messageId),
      message_seq: Number(result.messageSeq),
      client_msg_no: result.clientMsgNo,
      error: result.error,
    }));
  };
}

/**
 * Writes batches over 20 channels until told to stop, and retries under the same keys. With several
 * instances the writers take turns among them, and a retry goes to the next one.
 */
function writeTo(...posts: readonly Post[]) {
  const acknowledged = new Map<string, Answer>();
  let longest = 0;
  let failures = 0;
  let isOver = false;
  const writer = async (number: number): Promise<void> => {
    let instance = number;
    const post: Post = (messages) => posts[instance % posts.length]?.(messages) ?? Promise.reject(new Error('no post'));
    for (let round = 0; !isOver; round++) {
      let open = Array.from({ length: 20 }, (_, channel) => ({
        from_uid: `writer-${number}`,
        channel_id: `channel-${channel}`,
        channel_type: 6,
        client_msg_no: `${number}-${round}-${channel}`,
        payload: 'cGF5bG9hZA==',
      }));
      const since = performance.now();
      while (open.length > 0) {
        const answers = await post(open).catch(() => undefined);
        if (answers === undefined) instance++;
        for (const answer of answers ?? [])
          if (answer.error === undefined) acknowledged.set(answer.client_msg_no, answer);
        open = open.filter((message) => !acknowledged.has(message.client_msg_no));
        if (open.length === 0) break;
        failures++;
        assert.ok(performance.now() - since < 60_000, 'a batch was not stored within a minute');
        await delay(100);
      }
      longest = Math.max(longest, performance.now() - since);
    }
  };
  const running = Array.from({ length: writers }, (_, number) => writer(number));
  const count = () => acknowledged.size;
  return {
    /** Resolves when this many more messages are acknowledged. */
    async reach(more: number): Promise<void> {
      for (const goal = count() + more; count() < goal; ) await delay(50);
    },
    async end() {
      isOver = true;
      await Promise.all(running);
      return { acknowledged, longest, failures };
    },
  };
}

/** Every acknowledged message is stored once, with the numbers of its answer. */
function assertStored(
  acknowledged: ReadonlyMap<string, Answer>,
  rows: readonly { key: string; seq: number; id: number }[],
) {
  assert.equal(rows.length, acknowledged.size);
  for (const { key, seq, id } of rows) {
    const answer = acknowledged.get(key);
    assert.deepEqual([answer?.message_seq, answer?.message_id], [seq, id], key);
  }
}

test('a shard moves to another node under load: nothing is lost or stored twice', { skip }, async (context) => {
  const { startService, citus, assertSound, readAll } = await modules();
  const service = await startService({ lockTimeoutMs: 5000 });
  context.after(() => service.stop());
  const load = writeTo(overJson(service.url));
  await load.reach(2000);
  await citus.on(service.databaseUrl, async (client) => {
    const { rows } = await client.query<{ schema: string; host: string; port: number }>(
      `select distinct split_part(table_name::text, '.', 1) as schema, nodename as host, nodeport as port
       from citus_shards where citus_table_type = 'schema' order by 1`,
    );
    const workers = (await citus.citusNodes()).slice(1);
    for (const { schema, host, port } of rows.slice(0, 3)) {
      const other = workers.find((node) => node.host !== host || node.port !== port);
      assert.ok(other, 'the cluster needs two workers');
      await client.query(`select citus_schema_move($1, $2, $3, 'block_writes')`, [schema, other.host, other.port]);
      await load.reach(500);
    }
  });
  const { acknowledged, longest, failures } = await load.end();
  context.diagnostic(
    `${acknowledged.size} messages, ${failures} retries, the longest batch took ${Math.round(longest)} ms`,
  );
  assertStored(acknowledged, await readAll(service.databaseUrl));
  await assertSound(service.databaseUrl);
  assert.ok(longest < longestMs, `a batch took ${Math.round(longest)} ms`);
});

test('a worker goes away under load and comes back: nothing is lost or stored twice', { skip }, async (context) => {
  const { startService, citus, assertSound, readAll } = await modules();
  const service = await startService({ lockTimeoutMs: 5000 });
  context.after(() => service.stop());
  const load = writeTo(overJson(service.url));
  await load.reach(2000);
  const [, worker] = await citus.citusNodes();
  assert.ok(worker, 'the cluster needs a worker');
  const database = new URL(service.databaseUrl).pathname.slice(1);
  await citus.on(citus.urlOn(worker, 'postgres'), async (client) => {
    for (let outage = 0; outage < 2; outage++) {
      await client.query(`alter database ${database} with allow_connections false`);
      const until = performance.now() + 3000;
      while (performance.now() < until) {
        await client.query(
          'select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and backend_type = $2',
          [database, 'client backend'],
        );
        await delay(50);
      }
      await client.query(`alter database ${database} with allow_connections true`);
      await load.reach(1000);
    }
  });
  const { acknowledged, longest, failures } = await load.end();
  context.diagnostic(
    `${acknowledged.size} messages, ${failures} retries, the longest batch took ${Math.round(longest)} ms`,
  );
  assert.ok(failures > 0, 'the outage reached nobody');
  assertStored(acknowledged, await readAll(service.databaseUrl));
  await assertSound(service.databaseUrl);
  assert.ok(longest < longestMs, `a batch took ${Math.round(longest)} ms`);
});

test('instances on a worker and on the coordinator share channels, once-only keys, tails, webhooks and batches', {
  skip,
}, async (context) => {
  const { startBoth, assertSound, readAll, messagesOf, startReceiver, until } = await modules();
  const webhooks = { settings: undefined, allowPrivate: true, timeoutMs: 60_000 };
  const { onCoordinator, onWorker, stop } = await startBoth({ lockTimeoutMs: 5000, webhooks });
  context.after(stop);
  assert.match(onWorker.database, /a worker of the coordinator at /u);
  const receiver = await startReceiver();
  context.after(() => receiver.close());
  const created = await jsonCaller(onWorker.url).post('/v1/webhooks', { name: 'all', url: receiver.url });
  assert.equal(created.status, 200, JSON.stringify(created.body));
  const instances = [onCoordinator, onWorker];
  const delivered = (prefix: string) => {
    const messages = receiver.received.flatMap((each) => messagesOf(each));
    const names = messages.map(({ channel_id, message_seq }) => `${channel_id} ${message_seq}`);
    return new Set(names.filter((name) => name.startsWith(prefix)));
  };
  // An instance learns of a webhook that another one created a moment later.
  for (const [index, { url }] of instances.entries())
    await until('the instance knows the webhook', async () => {
      const probe = { from_uid: 'probe', channel_id: `probe-${index}`, channel_type: 6, payload: 'cGF5bG9hZA==' };
      await jsonCaller(url).post('/message/sendbatch', [probe]);
      return delivered(`probe-${index}`).size > 0;
    });
  const abort = new AbortController();
  context.after(() => abort.abort());
  const tailed = instances.map(({ url }) => {
    const keys: string[] = [];
    const channels = Array.from({ length: 20 }, (_, channel) => ({
      channelId: `channel-${channel}`,
      channelType: ChannelType.INFO,
    }));
    const read = async () => {
      const frames = createClient(MessageService, createGrpcTransport({ baseUrl: url })).subscribe(
        { channels },
        { signal: abort.signal },
      );
      for await (const { frame } of frames) if (frame.case === 'message') keys.push(frame.value.clientMsgNo);
    };
    read().catch(() => {});
    return keys;
  });

  const posts = instances.map(({ url }) => overGrpc(url));
  const load = writeTo(...posts);
  await load.reach(2000);
  const { acknowledged, failures } = await load.end();
  assert.equal(failures, 0);
  const rows = await readAll(onCoordinator.databaseUrl, { channel: /^channel-/ });
  assertStored(acknowledged, rows);

  // Each key once more through the other instance: the numbers of the first time.
  const [, throughWorker] = posts as [Post, Post];
  const again = rows.slice(0, 500).map(({ key, channel, fromUid }) => ({
    from_uid: fromUid,
    channel_id: channel,
    channel_type: 6,
    client_msg_no: key,
    payload: 'cGF5bG9hZA==',
  }));
  for (const answer of await throughWorker(again)) {
    const first = acknowledged.get(answer.client_msg_no);
    assert.deepEqual([answer.message_id, answer.message_seq], [first?.message_id, first?.message_seq]);
  }

  const client = createClient(MessageService, createGrpcTransport({ baseUrl: onWorker.url }));
  const messages = Array.from({ length: 40 }, (_, index) => ({
    fromUid: 'atomic',
    channelId: `atomic-${index}`,
    channelType: ChannelType.INFO,
    clientMsgNo: `atomic-${index}`,
    payload: new Uint8Array([1]),
  }));
  const { results } = await client.sendBatch({ messages, mode: SendMode.ATOMIC });
  assert.deepEqual(
    results.map((result) => [result.error, Number(result.messageSeq)]),
    messages.map(() => [undefined, 1]),
  );
  const batches = createClient(BatchService, createGrpcTransport({ baseUrl: onWorker.url }));
  const submitted = await batches.submitBatch({
    messages: messages.map((message, index) => ({ ...message, clientMsgNo: `submitted-${index}` })),
  });
  assert.ok(submitted.batch);
  const batchId = submitted.batch.batchId;
  await until('the batch is over', async () => {
    const { batch } = await batches.getBatch({ batchId });
    return Number(batch?.acceptedCount) === messages.length;
  });

  const total = acknowledged.size + 2 * messages.length;
  await until('every tail has every message', () => tailed.every((keys) => keys.length >= acknowledged.size));
  for (const keys of tailed) assert.deepEqual([...keys].sort(), [...acknowledged.keys()].sort());
  const sent = /^(channel|atomic)-/;
  const stored = await readAll(onCoordinator.databaseUrl, { channel: sent });
  assert.equal(stored.length, total);
  const names = stored.map(({ channel, seq }) => `${channel} ${seq}`);
  await until('the webhook has every message', () => {
    const received = delivered('');
    return names.every((name) => received.has(name));
  });
  await assertSound(onCoordinator.databaseUrl);
});

test('a ban applies to sends through a worker that start after it', { skip }, async (context) => {
  const { startBoth, assertSound } = await modules();
  const { onCoordinator, onWorker, stop } = await startBoth({ systemUids: [] });
  context.after(stop);
  const [here, there] = [jsonCaller(onCoordinator.url), jsonCaller(onWorker.url)];
  const send = async (from_uid: string, key: string) => {
    const message = { from_uid, channel_id: 'bans', channel_type: 6, client_msg_no: key, payload: 'cGF5bG9hZA==' };
    const { body } = await there.post('/message/sendbatch', [message]);
    return body[0]?.error?.reason ?? 'stored';
  };
  for (let round = 0; round < 20; round++) {
    const uid = `user-${round}`;
    assert.equal(await send(uid, 'before'), 'stored');
    const banned = await here.post('/channel', { channel_id: uid, channel_type: 1, send_ban: 1 });
    assert.equal(banned.status, 200, JSON.stringify(banned.body));
    assert.notEqual(await send(uid, 'after'), 'stored');
  }
  await assertSound(onCoordinator.databaseUrl);
});

test('the worker that DATABASE_URL names goes away under load: readiness reports it, nothing is lost', {
  skip,
}, async (context) => {
  const { startBoth, citus, assertSound, readAll, until } = await modules();
  const { onCoordinator, onWorker, worker, stop } = await startBoth({ lockTimeoutMs: 5000, probeMs: 2000 });
  context.after(stop);
  const load = writeTo(...[onCoordinator, onWorker].map(({ url }) => overGrpc(url)));
  await load.reach(2000);
  const database = new URL(onCoordinator.databaseUrl).pathname.slice(1);
  const readiness = async () => {
    const response = await fetch(`${onWorker.url}/readyz?verbose`);
    return { isReady: response.ok, text: await response.text() };
  };
  assert.equal((await readiness()).isReady, true);
  await citus.on(citus.urlOn(worker, 'postgres'), async (client) => {
    await client.query(`alter database ${database} with allow_connections false`);
    let reported = '';
    const until3s = performance.now() + 3000;
    await until('readiness reports the worker', async () => {
      await client.query(
        'select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and backend_type = $2',
        [database, 'client backend'],
      );
      const { isReady, text } = await readiness();
      if (!isReady) reported = text;
      return reported !== '' && performance.now() > until3s;
    });
    assert.match(reported, /the worker that DATABASE_URL names/u);
    await client.query(`alter database ${database} with allow_connections true`);
  });
  await load.reach(1000);
  await until('the instance is ready again', async () => (await readiness()).isReady);
  const { acknowledged, longest, failures } = await load.end();
  context.diagnostic(
    `${acknowledged.size} messages, ${failures} retries, the longest batch took ${Math.round(longest)} ms`,
  );
  assert.ok(failures > 0, 'the outage reached nobody');
  assertStored(acknowledged, await readAll(onCoordinator.databaseUrl));
  await assertSound(onCoordinator.databaseUrl);
  assert.ok(longest < longestMs, `a batch took ${Math.round(longest)} ms`);
});

test('a start on a worker whose coordinator is not reached is refused with the way out, and leaves nothing there', {
  skip,
}, async (context) => {
  const { startService, citus } = await modules();
  const service = await startService();
  context.after(() => service.stop());
  const [coordinator, worker] = await citus.citusNodes();
  assert.ok(coordinator && worker, 'the cluster needs a worker');
  const database = new URL(service.databaseUrl).pathname.slice(1);
  const databaseUrl = citus.urlOn(worker, database);
  const start = (listenUrl: string) => startService({ databaseUrl, databaseWaitMs: 0, listenUrl });
  await assert.rejects(
    start(citus.urlOn({ host: '127.0.0.1', port: 1 }, database)),
    /its coordinator at 127\.0\.0\.1:1, .+ECONNREFUSED.+set LISTEN_DATABASE_URL to the coordinator/u,
  );
  // Another node, and another database of the coordinator.
  for (const url of [databaseUrl, citus.urlOn(coordinator, 'postgres')])
    await assert.rejects(start(url), /is another server: .+set LISTEN_DATABASE_URL to the coordinator/u);
  const { rows } = await citus.on(databaseUrl, (client) =>
    client.query("select to_regclass('sendbatch.batch') as batch"),
  );
  assert.equal(rows[0]?.batch, null);
});

test('with one shard an instance whose DATABASE_URL names a worker stores on the coordinator, also after a restart', {
  skip,
}, async (context) => {
  const { startService, citus } = await modules();
  const { createDatabase } = await import('../support/database.ts');
  const database = await createDatabase('undivided');
  context.after(() => database.drop());
  const [, worker] = await citus.citusNodes();
  assert.ok(worker, 'the cluster needs a worker');
  const databaseUrl = citus.urlOn(worker, new URL(database.url).pathname.slice(1));
  const message = { from_uid: 'u', channel_id: 'one', channel_type: 6, payload: 'cGF5bG9hZA==' };
  for (const [index, expected] of [[1], [1, 2]].entries()) {
    const service = await startService({ databaseUrl, shards: 1 });
    const call = jsonCaller(service.url);
    const { body } = await call.post('/message/sendbatch', [
      { ...message, client_msg_no: 'once' },
      ...(index === 0 ? [] : [{ ...message, client_msg_no: 'again' }]),
    ]);
    assert.deepEqual(
      body.map((each: Answer) => each.message_seq),
      expected,
    );
    const history = await call.get('/v1/channels/6/one/messages');
    assert.deepEqual(
      history.body.messages.map((each: Answer) => each.message_seq),
      expected,
    );
    await service.stop();
  }
  for (const [url, table] of [
    [database.url, 'sendbatch.message'],
    [databaseUrl, null],
  ] as const) {
    const { rows } = await citus.on(url, (client) =>
      client.query("select to_regclass('sendbatch.message')::text as name"),
    );
    assert.equal(rows[0]?.name, table);
  }
});
