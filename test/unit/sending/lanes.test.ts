import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import type { Batch, Outcome } from '../../../src/messages/append-plan.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import { type Draft, prepareMessage } from '../../../src/messages/message.ts';
import { ServiceError } from '../../../src/messages/service-error.ts';
import { openDatabase } from '../../../src/postgres/pool.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { createAppend } from '../../../src/sending/append.ts';
import type { Append } from '../../../src/sending/append-types.ts';
import { createLanes, type Lanes } from '../../../src/sending/lanes.ts';
import { createDatabase, type TestDatabase } from '../../support/database.ts';
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
    db = openDatabase({
      connection: { url: database.url },
      poolSize: 2,
      lockTimeoutMs: 60_000,
      statementTimeoutMs: 60_000,
      connectTimeoutMs: 60_000,
      onConnectionError: () => {},
    });
    const append = createAppend({ db, channelKeys: new ChannelKeys(db), rules: allSystem });
    const counted: Append = (batches) => {
      groups.push(batches.length);
      return append(batches);
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
    const stopping = createLanes(createAppend({ db, channelKeys: new ChannelKeys(db), rules: allSystem }), {
      lanes: 2,
      maxWaitMs: 60_000,
    });
    const answers = Array.from({ length: 100 }, (_, index) => stopping.append(batchOf([draft('stop', `s${index}`)])));
    await stopping.close();
    const late = stopping.append(batchOf([draft('stop', 'late')]));
    await assert.rejects(late, (error) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY');
    for (const outcomes of await Promise.all(answers)) assert.deepEqual(kinds(outcomes), ['accepted']);
    assert.equal((await keysIn('stop')).length, 100);
  });
});
