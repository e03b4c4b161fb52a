import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * Runs with CITUS_URL only: the URL of a database on the coordinator of a Citus cluster with
 * workers, whose user may create databases on all nodes.
 */
const skip = process.env.CITUS_URL === undefined ? 'needs CITUS_URL' : false;

/** Loaded with SHARDS set; no module of the service is loaded when the tests are skipped. */
async function modules() {
  process.env.SHARDS = '8';
  const [{ startService }, citus, { assertSound, readAll }] = await Promise.all([
    import('../support/service.ts'),
    import('../support/citus.ts'),
    import('../support/verify.ts'),
  ]);
  return { startService, citus, assertSound, readAll };
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

/** Writes batches over 20 channels until told to stop, and retries under the same keys. */
function writeTo(url: string) {
  const acknowledged = new Map<string, Answer>();
  let longest = 0;
  let failures = 0;
  let isOver = false;
  const post = async (messages: readonly object[]): Promise<readonly Answer[]> => {
    const response = await fetch(`${url}/message/sendbatch`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(messages),
    });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    return (await response.json()) as Answer[];
  };
  const writer = async (number: number): Promise<void> => {
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
  const load = writeTo(service.url);
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
  const load = writeTo(service.url);
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

test('a start on a worker is refused with the coordinator named, and leaves nothing there', {
  skip,
}, async (context) => {
  const { startService, citus } = await modules();
  const service = await startService();
  context.after(() => service.stop());
  const [, worker] = await citus.citusNodes();
  assert.ok(worker, 'the cluster needs a worker');
  const url = citus.urlOn(worker, new URL(service.databaseUrl).pathname.slice(1));
  await assert.rejects(startService({ databaseUrl: url }), /is on a worker of Citus.*name .+:\d+ in DATABASE_URL/u);
  const { rows } = await citus.on(url, (client) => client.query("select to_regclass('sendbatch.batch') as batch"));
  assert.equal(rows[0]?.batch, null);
});
