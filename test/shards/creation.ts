import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import pg from 'pg';
import type { Batch, Outcome } from '../../src/messages/append-plan.ts';
import { pairId } from '../../src/messages/channel.ts';
import { ChannelKeys } from '../../src/messages/channel-keys.sql.ts';
import { type Draft, prepareMessage } from '../../src/messages/message.ts';
import type { Db } from '../../src/postgres/schema.ts';
import { createAppend } from '../../src/sending/append.ts';
import type { Store } from '../../src/sending/group-context.ts';
import { createDirect, createLanes } from '../../src/sending/lanes.ts';
import { createShardRoute } from '../../src/sending/shard-route.ts';
import { createDatabase, lockHeadsOf, openStore, shards, type TestDatabase } from '../support/database.ts';
import { assertSound, query } from '../support/verify.ts';

const plain: Draft = {
  clientMsgNo: '',
  fromUid: 'sender',
  channelId: '',
  channelType: 6,
  expire: 0,
  payload: Buffer.from('content'),
  subscribers: [],
  streamNo: '',
  tagKey: '',
};
const message = (more: Partial<Draft>) => prepareMessage({ ...plain, ...more }, more.clientMsgNo ?? 'k');
const toGroup = (channelId: string, clientMsgNo = 'k') => message({ channelId, clientMsgNo });
const command = { header: { noPersist: 0, redDot: 0, syncOnce: 1 } };
const batchOf = (messages: Batch['messages'], atomic = false): Batch => ({
  messages,
  atomic,
  expectedLastSeqs: new Map(),
});
const saidOf = (outcomes: readonly Outcome[]) =>
  outcomes.map((each) => (each.kind === 'refused' ? each.refusal.reason : `${each.kind} ${each.messageSeq}`));

describe('channels and messages in several shards', () => {
  let database: TestDatabase;
  let db: Db;
  before(async () => {
    database = await createDatabase();
    db = openStore(database.url, { poolSize: 4 });
  });
  after(async () => {
    await assertSound(database.url);
    await db.destroy();
    await database.drop();
  });

  /** An appender with an empty cache of keys, lanes over it, and what it reports. */
  function open() {
    const repeated: string[] = [];
    const modes: string[] = [];
    const store: Store = {
      db,
      shards,
      channelKeys: new ChannelKeys(db, { shards }),
      rules: { systemUids: new Set(), systemReaders: new Set(), enforcePersonAllowlist: false },
    };
    const watch = {
      ended: ({ mode }: { mode: string }) => modes.push(mode),
      repeated: (why: string) => repeated.push(why),
      locked() {},
    };
    const append = createAppend(store, { watch });
    const route = createShardRoute(store);
    const direct = createDirect(append, { route });
    const openLanes = () => createLanes(append, { lanes: shards.count + 1, maxWaitMs: 60_000, route });
    return { append: direct, openLanes, store, repeated, modes };
  }
  const rowsOf = async (pattern: string) =>
    await query(
      database.url,
      `select c.channel_key, c.channel_id, c.sequence, h.last_seq, (
         select string_agg(u.uid || ' ' || u.joined_seq, ',' order by u.uid) from sendbatch.channel_uid u where u.channel_key = c.channel_key
       ) as members
       from sendbatch.channel c left join sendbatch.channel_head h using (channel_key)
       where c.channel_id like '${pattern}' order by c.channel_id, c.sequence`,
    );

  test('the first send creates its channels in the shards of their keys, and a group of one shard is one statement', async () => {
    const { append, modes, repeated } = open();
    const ids = Array.from({ length: 20 }, (_, index) => `first-${index}`);
    const outcomes = await append(batchOf(ids.map((id) => toGroup(id))));
    assert.deepEqual(
      saidOf(outcomes),
      ids.map(() => 'accepted 1'),
    );
    const concerned = new Set((await rowsOf('first-%')).map((row) => Number(row.channel_key) % shards.count));
    assert.ok(concerned.size > 1);
    assert.deepEqual(
      modes,
      [...concerned].map(() => 'optimistic'),
    );
    assert.deepEqual(repeated, []);
  });

  test('a group whose messages are not stored is one statement, too', async () => {
    const { append, modes, repeated } = open();
    await append(batchOf([toGroup('live')]));
    const live = message({ channelId: 'live', clientMsgNo: 'live', header: { noPersist: 1, redDot: 0, syncOnce: 0 } });
    const [outcome] = await append(batchOf([live]));
    assert.ok(outcome?.kind === 'accepted' && outcome.messageSeq === 0 && outcome.messageId >= 4096);
    assert.deepEqual([modes, repeated], [['optimistic', 'optimistic'], []]);
  });

  test('an ATOMIC batch over all shards is one transaction: all of it is stored, or nothing', async () => {
    const { append, modes } = open();
    const ids = Array.from({ length: 40 }, (_, index) => `atomic-${index}`);
    assert.deepEqual(
      saidOf(
        await append(
          batchOf(
            ids.map((id) => toGroup(id)),
            true,
          ),
        ),
      ),
      ids.map(() => 'accepted 1'),
    );
    assert.deepEqual(modes, ['pessimistic']);
    const mixed = [...ids.map((id) => toGroup(id, 'second')), message({ channelId: 'members only', channelType: 2 })];
    const refused = await append(batchOf(mixed, true));
    assert.equal(saidOf(refused).at(-1), 'CHANNEL_NOT_EXIST');
    const rows = await rowsOf('atomic-%');
    assert.deepEqual(new Set(rows.map((row) => Number(row.last_seq))), new Set([1]));
    assert.deepEqual(await rowsOf('members only'), []);
  });

  test('a name without head and members, left by a killed creation, gets them with the next send', async () => {
    const { append } = open();
    const torn = pairId('torn', 'other');
    await sql`
      insert into sendbatch.channel (channel_id, channel_type, sequence)
      values ('torn-group', 6, 0), (${torn}, 1, 0), (${torn}, 1, 1)`.execute(db);
    assert.deepEqual(saidOf(await append(batchOf([toGroup('torn-group'), toGroup('torn-group', 'k2')]))), [
      'accepted 1',
      'accepted 2',
    ]);
    const toOther = message({ ...command, channelId: 'torn', channelType: 1, fromUid: 'other' });
    assert.deepEqual(saidOf(await append(batchOf([toOther]))), ['accepted 1']);
    assert.deepEqual(
      (await rowsOf('%torn%'))
        .map((row) => [row.channel_id, row.sequence, row.last_seq, row.members])
        .sort(([a], [b]) => String(a).localeCompare(String(b))),
      [
        [torn, 0, '0', 'other 0,torn 0'],
        [torn, 1, '1', null],
        ['torn-group', 0, '2', null],
      ].sort(([a], [b]) => String(a).localeCompare(String(b))),
    );
  });

  test('permission is asked of the shard of the channel that commands belong to, and of the tables of users', async () => {
    const { append } = open();
    const commandTo = (channelId: string, more: Partial<Draft> = {}) =>
      message({ ...command, channelId, channelType: 2, ...more });
    const keys = await new ChannelKeys(db, { shards }).findOrCreate(
      Array.from({ length: 12 }, (_, index) => message({ channelId: `members-${index}`, channelType: 2 }).channel),
    );
    for (const [, channelKey] of keys) {
      const { schema } = shards.of(channelKey);
      const key = sql.lit(channelKey);
      await sql`insert into ${sql.id(schema, 'channel_info')} (channel_key, created_at, updated_at) values (${key}, 0, 0)`.execute(
        db,
      );
      await sql`
        insert into ${sql.id(schema, 'channel_uid')} (channel_key, uid, created_at, updated_at, member) values (${key}, 'sender', 0, 0, true)`.execute(
        db,
      );
    }
    const ids = Array.from({ length: 12 }, (_, index) => `members-${index}`);
    const accepted = await append(
      batchOf(ids.flatMap((id) => [commandTo(id), message({ channelId: id, channelType: 2 })])),
    );
    assert.deepEqual(new Set(saidOf(accepted)), new Set(['accepted 1']));
    const denied = await append(batchOf(ids.map((id) => commandTo(id, { fromUid: 'stranger' }))));
    assert.deepEqual(new Set(saidOf(denied)), new Set(['NOT_SUBSCRIBER']));
    await sql`insert into sendbatch.person (uid, created_at, updated_at, send_ban) values ('sender', 0, 0, true)`.execute(
      db,
    );
    const banned = await append(batchOf(ids.map((id) => commandTo(id, { clientMsgNo: 'later' }))));
    await sql`delete from sendbatch.person`.execute(db);
    assert.deepEqual(new Set(saidOf(banned)), new Set(['SENDER_BANNED']));
  });

  test('appends over shards in opposite orders, ATOMIC and not, never wait for each other in a circle', async () => {
    const appenders = [open(), open(), open()];
    const lanes = appenders.map((each) => each.openLanes());
    const ids = Array.from({ length: 12 }, (_, index) => `circle-${index}`);
    for (let round = 0; round < 15; round++)
      await Promise.all(
        lanes.map(async ({ append }, index) => {
          const messages = [...ids, `circle-${round}-new`].map((id) => toGroup(id, `${round}-${index}`));
          if (index % 2 === 1) messages.reverse();
          for (const each of saidOf(await append(batchOf(messages, index > 0)))) assert.match(each, /^accepted/);
        }),
      );
    await Promise.all(lanes.map((each) => each.close()));
    assert.ok(!appenders.flatMap((each) => each.repeated).includes('conflict'), 'no deadlock');
  });

  test('a send is stored in the end when the names of its channels cannot be read at first', async (context) => {
    const { openLanes, store } = open();
    let refusals = 3;
    context.mock.method(
      store.channelKeys,
      'find',
      function find(this: ChannelKeys, ...call: Parameters<ChannelKeys['find']>) {
        if (refusals-- > 0) throw Object.assign(new Error('terminating connection'), { code: '57P01' });
        return ChannelKeys.prototype.find.apply(this, call);
      },
    );
    const lanes = openLanes();
    const outcomes = await lanes.append(batchOf([toGroup('late-a'), toGroup('late-b')]));
    await lanes.close();
    assert.deepEqual(saidOf(outcomes), ['accepted 1', 'accepted 1']);
    assert.ok(refusals < 0);
  });

  test('a locked head of one shard delays no other shard', async () => {
    const { openLanes } = open();
    const lanes = openLanes();
    const ids = Array.from({ length: 16 }, (_, index) => `beside-${index}`);
    await lanes.append(batchOf(ids.map((id) => toGroup(id))));
    const rows = await rowsOf('beside-%');
    const shardOf = (id: string) => Number(rows.find((row) => row.channel_id === id)?.channel_key) % shards.count;
    const held = ids[0] as string;
    const others = ids.filter((id) => shardOf(id) !== shardOf(held));
    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('begin');
    await lockHeadsOf(holder, [held]);
    const waiting = lanes.append(batchOf([toGroup(held, 'held')]));
    const outcomes = await lanes.append(batchOf(others.map((id) => toGroup(id, 'second'))));
    assert.deepEqual(new Set(saidOf(outcomes)), new Set(['accepted 2']));
    await holder.query('rollback');
    assert.deepEqual(saidOf(await waiting), ['accepted 2']);
    await lanes.close();
    await holder.end();
  });

  test('what is stored is announced in the shard, one row per channel, without channels of commands', async () => {
    const { append, store } = open();
    Object.assign(store, { announces: () => true });
    const ids = Array.from({ length: 10 }, (_, index) => `announced-${index}`);
    await append(
      batchOf([...ids.map((id) => toGroup(id)), message({ ...command, channelId: 'announced-peer', channelType: 1 })]),
    );
    await append(
      batchOf(
        ids.map((id) => toGroup(id, 'second')),
        true,
      ),
    );
    const rows = await query(
      database.url,
      `select c.channel_id, count(*) as ranges, max(o.last_seq) as last from sendbatch.webhook_outbox o
       join sendbatch.channel c using (channel_key) group by 1`,
    );
    assert.deepEqual(
      rows.map((row) => [row.channel_id, row.ranges, row.last]).sort(),
      ids.map((id) => [id, '2', '2']),
    );
  });
});
