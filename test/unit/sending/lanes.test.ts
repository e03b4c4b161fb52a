import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import type { Batch, Outcome } from '../../../src/messages/append-plan.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import { type Draft, prepareMessage } from '../../../src/messages/message.ts';
import { ServiceError } from '../../../src/messages/service-error.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { createAppend } from '../../../src/sending/append.ts';
import type { Append } from '../../../src/sending/append-types.ts';
import { createLanes, type Lanes } from '../../../src/sending/lanes.ts';
import { createDatabase, openStore, shards, type TestDatabase } from '../../support/database.ts';
import { openFaultProxy } from '../../support/fault-proxy.ts';
import { assertSound, readAll } from '../../support/verify.ts';

const draft = (channelId: string, clientMsgNo: string, more: Partial<Draft> = {}): Draft => ({
  clientMsgNo,
  fromUid: 'u1',
  channelId,
  channelType: 2,
  expire: 0,
  payload: Buffer.from(clientMsgNo),
  subscribers: [],
  streamNo: '',
  tagKey: '',
  ...more,
});
const batchOf = (drafts: readonly Draft[], more: Partial<Batch> = {}): Batch => ({
  messages: drafts.map((each) => prepareMessage(each, each.clientMsgNo)),
  atomic: false,
  expectedLastSeqs: new Map(),
  ...more,
});
/** Every sender is a system uid. */
const allSystem = { systemUids: { has: () => true }, systemReaders: new Set<string>(), enforcePersonAllowlist: false };
const kinds = (outcomes: readonly Outcome[]) => outcomes.map((outcome) => outcome.kind);

describe('batches that share a group', () => {
  let database: TestDatabase;
  let db: Db;
  let lanes: Lanes;
  /** The sizes of the groups so far. */
  const groups: number[] = [];

  before(async () => {
    database = await createDatabase();
    db = openStore(database.url, { poolSize: 2 });
    const append = createAppend({ db, shards, channelKeys: new ChannelKeys(db, { shards }), rules: allSystem });
    const counted: Append = (batches, control) => {
      groups.push(batches.length);
      return append(batches, control);
    };
    lanes = createLanes(counted, { lanes: 2, maxWaitMs: 60_000 });
  });
  after(async () => {
    await lanes.close();
    await assertSound(database.url);
    await db.destroy();
    await database.drop();
  });
  const keysIn = async (prefix: string) =>
    (await readAll(database.url)).filter((row) => row.channel.startsWith(prefix)).map((row) => row.key);

  test('a batch that PostgreSQL rejects does not affect the others in its group', async () => {
    // Validation refuses U+0000 before a batch gets here; PostgreSQL's text cannot store it.
    const poison = batchOf([draft('poison-a', 'fine'), draft('poison-a', 'bad', { streamNo: 'a\0b' })]);
    const others = Array.from({ length: 20 }, (_, index) =>
      batchOf([draft('poison-a', `o${index}`), draft('poison-b', `o${index}`)]),
    );
    groups.length = 0;
    const [bad, ...good] = await Promise.allSettled([poison, ...others].map((batch) => lanes.append(batch)));
    assert.equal(bad?.status, 'rejected');
    assert.ok(bad.status === 'rejected' && !(bad.reason instanceof ServiceError), 'a defect, not a refusal');
    for (const each of good)
      assert.deepEqual(each.status === 'fulfilled' && kinds(each.value), ['accepted', 'accepted']);
    assert.equal((await keysIn('poison-')).length, 40);
    assert.ok(Math.max(...groups) > 1, 'they did share groups');
  });

  test('the batches of a group whose connection is killed are stored once, and none is reported as a duplicate', async () => {
    const killer = new pg.Client({ connectionString: database.url });
    await killer.connect();
    let sending = true;
    const kills = (async () => {
      for (let round = 0; round < 40 && sending; round++)
        await killer.query(
          `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'`,
        );
    })();
    const sent = Array.from({ length: 200 }, (_, index) =>
      batchOf([draft(`kill-${index % 5}`, `k${index}`), draft(`kill-${index % 3}`, `l${index}`)]),
    );
    const first = await Promise.allSettled(sent.map((batch) => lanes.append(batch)));
    sending = false;
    await kills;
    await killer.end();
    for (const [index, each] of first.entries()) {
      if (each.status === 'fulfilled') {
        for (const outcome of each.value) {
          if (outcome.kind === 'refused') assert.equal(outcome.refusal.reason, 'STORE_BUSY');
          else assert.equal(outcome.kind, 'accepted');
        }
      } else
        assert.ok(
          each.reason instanceof ServiceError && each.reason.refusal.reason === 'STORE_BUSY',
          String(each.reason),
        );
      const again = await lanes.append(sent[index] as Batch);
      for (const [position, outcome] of again.entries()) {
        const before = each.status === 'fulfilled' ? each.value[position] : undefined;
        if (before?.kind !== 'accepted') continue;
        assert.ok(outcome.kind === 'duplicate');
        assert.deepEqual([outcome.messageId, outcome.messageSeq], [before.messageId, before.messageSeq]);
      }
    }
    assert.equal(new Set(await keysIn('kill-')).size, 400);
    assert.equal((await keysIn('kill-')).length, 400);
  });

  test('batches whose callers disconnect in a storm are stored completely or not at all', async () => {
    const callers = Array.from({ length: 300 }, (_, index) => ({ index, gone: new AbortController() }));
    const answers = callers.map(({ index, gone }) =>
      lanes.append(
        batchOf([draft('storm', `s${index}-0`), draft('storm', `s${index}-1`)], { atomic: index % 2 === 0 }),
        gone.signal,
      ),
    );
    for (const { index, gone } of callers) if (index % 3 === 0) gone.abort(new Error('hung up'));
    const settled = await Promise.allSettled(answers);
    const keys = new Set(await keysIn('storm'));
    for (const [index, answer] of settled.entries()) {
      const stored = [0, 1].filter((part) => keys.has(`s${index}-${part}`)).length;
      if (answer.status === 'fulfilled') assert.equal(stored, 2);
      else {
        assert.equal(answer.reason.message, 'hung up');
        assert.equal(stored, 0, 'who has left the queue is not stored');
      }
    }
    assert.ok(settled.some((answer) => answer.status === 'rejected'));
  });

  test('refused ATOMIC batches leave no trace for the others of their group', async () => {
    await lanes.append(batchOf([draft('atomic', 'used')]));
    const refused = batchOf([draft('atomic', 'x'), draft('atomic', 'used', { payload: Buffer.from('other') })], {
      atomic: true,
    });
    const [, no, yes] = await Promise.all([
      lanes.append(batchOf([draft('atomic', 'first')])),
      lanes.append(refused),
      lanes.append(batchOf([draft('atomic', 'last')])),
    ]);
    assert.ok(no.some((outcome) => outcome.kind === 'refused'));
    assert.deepEqual(kinds(yes), ['accepted']);
    assert.deepEqual(await keysIn('atomic'), ['used', 'first', 'last']);
  });

  test('every batch in flight is answered when the service stops under load', async () => {
    const stopping = createLanes(
      createAppend({ db, shards, channelKeys: new ChannelKeys(db, { shards }), rules: allSystem }),
      {
        lanes: 2,
        maxWaitMs: 60_000,
      },
    );
    const answers = Array.from({ length: 100 }, (_, index) => stopping.append(batchOf([draft('stop', `s${index}`)])));
    await stopping.close();
    const late = stopping.append(batchOf([draft('stop', 'late')]));
    await assert.rejects(late, (error) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY');
    for (const outcomes of await Promise.all(answers)) assert.deepEqual(kinds(outcomes), ['accepted']);
    assert.equal((await keysIn('stop')).length, 100);
  });
});

describe('the choice of lanes', () => {
  /** Four lanes whose groups end when the test says so. */
  function open(more: { readonly stalledMs?: number } = {}) {
    const groups: { lane: number; keys: string[]; end: () => void }[] = [];
    const append: Append = async (batches, control) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const messages = batches.flatMap((batch) => batch.messages);
      groups.push({ lane: control?.lane ?? -1, keys: messages.map((each) => each.clientMsgNo), end: resolve });
      await promise;
      let messageId = 0;
      return batches.map((batch) => ({
        status: 'fulfilled',
        value: batch.messages.map((message) => ({ kind: 'accepted', message, messageId: ++messageId, messageSeq: 1 })),
      }));
    };
    return {
      groups,
      lanes: createLanes(append, { lanes: 4, maxWaitMs: 60_000, spreadFrom: { items: 30, bytes: 1e6 }, ...more }),
    };
  }
  const eventLoopTurn = () => new Promise((resolve) => setImmediate(resolve));
  const batch = (name: string, more: Partial<Batch> = {}) =>
    batchOf(
      Array.from({ length: 10 }, (_, index) => draft(`channel-${index}`, `${name}-${index}`)),
      more,
    );

  test('the first lane takes everything until it is full, then all lanes share the load, and afterwards the first one takes it again', async () => {
    const { groups, lanes } = open();
    const answers = [lanes.append(batch('a'))];
    await eventLoopTurn();
    answers.push(lanes.append(batch('b')), lanes.append(batch('c', { atomic: true })));
    await eventLoopTurn();
    assert.deepEqual(
      groups.map(({ lane, keys }) => [lane, keys.length]),
      [[0, 10]],
    );
    const split = batch('d');
    answers.push(lanes.append(split), lanes.append(batch('e', { atomic: true })));
    await eventLoopTurn();
    const used = new Set(groups.slice(1).map(({ lane }) => lane));
    assert.ok(used.size > 1, 'the fourth batch is split');
    for (let ended = 0; ended < groups.length; ended++) {
      groups[ended]?.end();
      await eventLoopTurn();
      await eventLoopTurn();
    }
    const [, , , parts = []] = await Promise.all(answers);
    assert.deepEqual(
      parts.map(({ message }) => message),
      split.messages,
      'its results are in its order',
    );
    const { length } = groups;
    const last = lanes.append(batch('f'));
    await eventLoopTurn();
    assert.deepEqual(
      groups.slice(length).map(({ lane, keys }) => [lane, keys.length]),
      [[0, 10]],
    );
    groups.at(-1)?.end();
    await last;
    await lanes.close();
  });

  test('all lanes are used while a group does not end, whatever the load is', async () => {
    const { groups, lanes } = open({ stalledMs: 0 });
    const answers = [lanes.append(batch('a'))];
    await eventLoopTurn();
    answers.push(lanes.append(batch('b')));
    await eventLoopTurn();
    assert.ok(new Set(groups.map(({ lane }) => lane)).size > 1);
    for (let ended = 0; ended < groups.length; ended++) {
      groups[ended]?.end();
      await eventLoopTurn();
      await eventLoopTurn();
    }
    await Promise.all(answers);
    await lanes.close();
  });
});

describe('groups that are sent behind a running one', () => {
  let database: TestDatabase;
  /** Appends of groups in flight on the connections of the lanes, and the most there were. */
  let inFlight = 0;
  let mostInFlight = 0;

  /** One lane. A group of any size begins behind one that is sent. */
  function open(url: string): { db: Db; lanes: Lanes; close(): Promise<void> } {
    const db = openStore(url, {
      poolSize: 2,
      trace: async ({ name }, run) => {
        if (name !== 'append messages') return await run();
        mostInFlight = Math.max(mostInFlight, ++inFlight);
        try {
          return await run();
        } finally {
          inFlight--;
        }
      },
    });
    const lanes = createLanes(
      createAppend({ db, shards, channelKeys: new ChannelKeys(db, { shards }), rules: allSystem }),
      {
        lanes: 1,
        maxWaitMs: 60_000,
        pipelineFrom: { items: 1, bytes: 1 },
      },
    );
    return {
      db,
      lanes,
      async close() {
        await lanes.close();
        await db.destroy();
      },
    };
  }

  before(async () => {
    database = await createDatabase();
  });
  after(async () => {
    await assertSound(database.url);
    await database.drop();
  });

  /** Batches that arrive one event loop turn after the other: they fall into several groups. */
  async function sendOneByOne(
    lanes: Lanes,
    batches: readonly Batch[],
  ): Promise<PromiseSettledResult<readonly Outcome[]>[]> {
    const answers: Promise<readonly Outcome[]>[] = [];
    for (const batch of batches) {
      answers.push(lanes.append(batch));
      await new Promise((resolve) => setImmediate(resolve));
    }
    return await Promise.allSettled(answers);
  }
  const batchesFor = (name: string, count: number) =>
    Array.from({ length: count }, (_, index) =>
      batchOf(Array.from({ length: 20 }, (_, at) => draft(`${name}-${at % 4}`, `${name}-${index}-${at}`))),
    );
  const keysIn = async (prefix: string) =>
    (await readAll(database.url)).filter((row) => row.channel.startsWith(prefix)).map((row) => row.key);

  test('two groups of a lane are in flight on one connection, and are stored in order', async () => {
    const { lanes, close } = open(database.url);
    // A group waits for the one that creates its channels.
    await lanes.append(batchOf([0, 1, 2, 3].map((at) => draft(`piped-${at}`, `first-${at}`))));
    mostInFlight = 0;
    const answers = await sendOneByOne(lanes, batchesFor('piped', 60));
    await close();
    let last = 0;
    for (const answer of answers) {
      assert.ok(answer.status === 'fulfilled');
      for (const outcome of answer.value) {
        assert.ok(outcome.kind === 'accepted');
        assert.ok(outcome.messageId > last, 'ids increase in the order of the groups');
        last = outcome.messageId;
      }
    }
    assert.equal(mostInFlight, 2);
  });

  test('a group with a duplicate affects neither the groups before it nor those behind it', async () => {
    const { lanes, close } = open(database.url);
    const batches = batchesFor('twice', 60);
    await lanes.append(batches[0] as Batch);
    const again = batches.map((batch, index) => (index % 7 === 3 ? (batches[0] as Batch) : batch)).slice(1);
    const answers = await sendOneByOne(lanes, again);
    await close();
    for (const [index, answer] of answers.entries()) {
      const expected = again[index] === batches[0] ? 'duplicate' : 'accepted';
      assert.ok(answer.status === 'fulfilled');
      assert.deepEqual(new Set(kinds(answer.value)), new Set([expected]));
    }
    const keys = await keysIn('twice-');
    assert.equal(new Set(keys).size, keys.length);
    assert.equal(keys.length, 20 * (1 + again.filter((batch) => batch !== batches[0]).length));
  });

  for (const when of ['before', 'after'] as const) {
    test(`groups whose connection is lost ${when} a commit are stored once, in any place of the pipeline`, async () => {
      const proxy = await openFaultProxy(database.url);
      const { lanes, close } = open(proxy.url);
      const batches = batchesFor(`lost-${when}`, 120);
      const cuts = { left: 5 };
      const cutting = setInterval(() => {
        if (cuts.left-- > 0) proxy.cutNextCommit(when);
      }, 20);
      const answers = await sendOneByOne(lanes, batches);
      clearInterval(cutting);
      await close();
      await proxy.close();
      for (const answer of answers) {
        if (answer.status === 'fulfilled') assert.deepEqual(new Set(kinds(answer.value)), new Set(['accepted']));
        else assert.ok(answer.reason instanceof ServiceError && answer.reason.refusal.reason === 'STORE_BUSY');
      }
      const keys = await keysIn(`lost-${when}-`);
      assert.equal(new Set(keys).size, keys.length);
      const stored = new Set(keys);
      for (const [index, answer] of answers.entries())
        if (answer.status === 'fulfilled')
          for (const message of batches[index]?.messages ?? []) assert.ok(stored.has(message.clientMsgNo));
    });
  }

  test('a batch that PostgreSQL rejects fails alone, and the groups around it are stored', async () => {
    const { lanes, close } = open(database.url);
    const poison = batchOf([draft('bad-0', 'fine'), draft('bad-0', 'bad', { streamNo: 'a\0b' })]);
    const batches = batchesFor('bad', 40);
    batches.splice(20, 0, poison);
    const answers = await sendOneByOne(lanes, batches);
    await close();
    for (const [index, answer] of answers.entries()) {
      if (batches[index] === poison)
        assert.ok(answer.status === 'rejected' && !(answer.reason instanceof ServiceError));
      else assert.ok(answer.status === 'fulfilled' && answer.value.every(({ kind }) => kind === 'accepted'));
    }
    assert.equal((await keysIn('bad-')).length, 40 * 20);
  });
});
