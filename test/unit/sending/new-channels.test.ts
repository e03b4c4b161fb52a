import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import pg from 'pg';
import type { Batch, Outcome } from '../../../src/messages/append-plan.ts';
import { ChannelKeys, type CreatedChannel } from '../../../src/messages/channel-keys.sql.ts';
import type { Draft, PreparedMessage } from '../../../src/messages/message.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { createAppend } from '../../../src/sending/append.ts';
import { createLanes } from '../../../src/sending/lanes.ts';
import { createDatabase, openStore, shards, type TestDatabase } from '../../support/database.ts';
import { prepared } from '../../support/prepared.ts';
import { assertSound } from '../../support/verify.ts';
import { untilOneWaitsFor } from '../../support/watch.ts';

/** Groups of type 6 take messages from any sender. */
const toGroup = (channelId: string, key = channelId) => prepared(key, { channelId });
const toPerson = (channelId: string, more: Partial<Draft> = {}) =>
  prepared(`to ${channelId}`, { channelId, channelType: 1, ...more });
const command = { header: { noPersist: 0, redDot: 0, syncOnce: 1 } };
/** Flagged messages are never stored optimistically. */
const flagged = (each: PreparedMessage): PreparedMessage => ({ ...each, flaggedBy: [0] });
const batchOf = (messages: readonly PreparedMessage[], atomic = false): Batch => ({
  messages,
  atomic,
  expectedLastSeqs: new Map(),
});
const rules = { systemUids: new Set<string>(), systemReaders: new Set<string>(), enforcePersonAllowlist: false };

describe('channels that a send creates', () => {
  let database: TestDatabase;
  let db: Db;
  let other: pg.Client;
  before(async () => {
    database = await createDatabase();
    db = openStore(database.url, { poolSize: 3 });
    other = new pg.Client({ connectionString: database.url });
    await other.connect();
  });
  after(async () => {
    await assertSound(database.url);
    await other.end();
    await db.destroy();
    await database.drop();
  });

  /** An appender with an empty cache of keys, and what it reports. */
  function open({ announces = false } = {}) {
    const created: CreatedChannel[] = [];
    const stored: number[] = [];
    const repeated: string[] = [];
    const modes: string[] = [];
    const channelKeys = new ChannelKeys(db, { shards, onCreated: (all) => created.push(...all) });
    const store = {
      db,
      shards,
      channelKeys,
      rules,
      onStored: (keys: Iterable<number>) => stored.push(...keys),
      announces: () => announces,
    };
    const watch = {
      ended: ({ mode }: { mode: string }) => modes.push(mode),
      repeated: (why: string) => repeated.push(why),
      locked() {},
    };
    const append = createAppend(store, { watch });
    const one = async (batch: Batch): Promise<readonly Outcome[]> => {
      const [appended] = await append([batch]);
      if (appended?.status !== 'fulfilled') throw appended?.reason;
      return appended.value;
    };
    return { append: one, appendGroup: append, channelKeys, created, stored, repeated, modes };
  }
  const saidOf = (outcomes: readonly Outcome[]) =>
    outcomes.map((each) => (each.kind === 'refused' ? each.refusal.reason : `${each.kind} ${each.messageSeq}`));
  /** Channels, heads and members whose id matches, without keys and times. */
  const rowsLike = async (pattern: string) =>
    (
      await sql<Record<string, unknown>>`
        select c.channel_id, c.channel_type, c.sequence, h.last_seq, h.last_at > 0 as has_time,
          (select count(*) from sendbatch.message m where m.channel_key = c.channel_key) as messages,
          (select array_agg(u.uid || ' ' || u.member || ' ' || u.joined_seq || ' ' || u.joined_command_seq || ' ' || (u.created_at > 0) order by u.uid)
            from sendbatch.channel_uid u where u.channel_key = c.channel_key) as members
        from sendbatch.channel c left join sendbatch.channel_head h using (channel_key)
        where c.channel_id like ${pattern}
        order by c.channel_id, c.channel_type, c.sequence`.execute(db)
    ).rows;

  test('the statement that stores a group creates its channels, which are published with their keys', async () => {
    const { append, channelKeys, created, stored, modes } = open();
    await append(batchOf([toGroup('known')]));
    created.length = 0;
    stored.length = 0;
    const messages = [toGroup('new-b'), toGroup('known', 'k2'), toGroup('new-a'), toGroup('new-b', 'second')];
    assert.deepEqual(saidOf(await append(batchOf(messages))), ['accepted 1', 'accepted 2', 'accepted 1', 'accepted 2']);
    assert.deepEqual(modes, ['optimistic', 'optimistic']);
    assert.deepEqual(
      created.map(({ type, id }) => [type, id]),
      [
        [6, 'new-b'],
        [6, 'new-a'],
      ],
    );
    const keys = await new ChannelKeys(db, { shards }).find(messages.map((each) => each.channel));
    assert.deepEqual(
      created.map(({ channelKey }) => channelKey),
      ['6/0/new-b', '6/0/new-a'].map((text) => keys.get(text)),
    );
    assert.deepEqual(new Set(stored), new Set(keys.values()));
    assert.deepEqual(await channelKeys.find(messages.map((each) => each.channel)), keys);
  });

  test('the optimistic and the pessimistic mode create the same rows, for channels of every kind', async () => {
    const kinds = (run: string) => [
      toGroup(`${run}-group`),
      toPerson(`${run}-peer`),
      toPerson(`${run}-commanded`, command),
      toPerson(`${run}-both`),
      toPerson(`${run}-both`, { ...command, clientMsgNo: 'command' }),
      prepared('to agent', { channelId: `sender@${run}-agent`, channelType: 11 }),
      prepared('to uids', { ...command, channelId: '', channelType: 0, subscribers: [`${run}-r1`, `${run}-r2`] }),
    ];
    const optimistic = open();
    const pessimistic = open();
    const expected = [1, 1, 1, 1, 1, 1, 1].map((seq) => `accepted ${seq}`);
    assert.deepEqual(saidOf(await optimistic.append(batchOf(kinds('mode1')))), expected);
    assert.deepEqual(saidOf(await pessimistic.append(batchOf(kinds('mode2').map(flagged)))), expected);
    assert.deepEqual([optimistic.modes, pessimistic.modes], [['optimistic'], ['pessimistic']]);
    const rowsOf = async (run: string) => {
      const [temporary] = kinds(run).slice(-1);
      const rows = [...(await rowsLike(`%${run}%`)), ...(await rowsLike(temporary?.channel.id ?? ''))];
      // The order of the two sides of an id depends on their names.
      return rows
        .map((row) => JSON.stringify({ ...row, channel_id: String(row.channel_id).split('@').sort().join('@') }))
        .map((text) => text.replaceAll(run, '').replaceAll(temporary?.channel.id ?? '', 'temporary'))
        .sort();
    };
    const rows = await rowsOf('mode1');
    assert.equal(rows.length, 9, 'seven channels, and the bases of two that only commands were sent to');
    assert.deepEqual(rows, await rowsOf('mode2'));
    const publishedIds = (created: readonly CreatedChannel[]) => created.map(({ type }) => type).sort();
    assert.deepEqual(publishedIds(optimistic.created), publishedIds(pessimistic.created));
  });

  test('of a group with a denied sender only the channels of permitted messages are created, and none for ATOMIC', async () => {
    await sql`insert into sendbatch.person (uid, created_at, updated_at, send_ban) values ('banned', 0, 0, true)`.execute(
      db,
    );
    const { append, repeated, created } = open();
    const mixed = (run: string) => [
      toGroup(`${run}-permitted`),
      prepared('denied', { channelId: `${run}-denied`, fromUid: 'banned' }),
      prepared('no member', { channelId: `${run}-members only`, channelType: 2 }),
    ];
    const [permitted, denied, missing] = await append(batchOf(mixed('denied1')));
    assert.deepEqual(saidOf([permitted, denied, missing] as Outcome[]), [
      'accepted 1',
      'SENDER_BANNED',
      'CHANNEL_NOT_EXIST',
    ]);
    const ids = async (run: string) => (await rowsLike(`${run}%`)).map((row) => row.channel_id);
    assert.deepEqual(await ids('denied1'), ['denied1-permitted']);
    assert.deepEqual(
      created.map(({ id }) => id),
      ['denied1-permitted'],
    );
    await append(batchOf([prepared('denied', { channelId: 'denied2', fromUid: 'banned' })], true));
    assert.deepEqual(await ids('denied2'), []);
    assert.ok(repeated.every((why) => why === 'sender_denied'));
  });

  for (const [end, expected, retries] of [
    ['commit', ['accepted 1', 'accepted 1'], ['channel_created']],
    ['rollback', ['accepted 1', 'accepted 1'], []],
  ] as const)
    test(`a group whose new channel another session is creating is stored once that session ends with ${end}`, async () => {
      const { append, repeated } = open();
      await other.query('begin');
      await other.query(
        `with made as (insert into sendbatch.channel (channel_type, sequence, channel_id) values (6, 0, 'raced by ${end}') returning channel_key)
         insert into sendbatch.channel_head (channel_key) select channel_key from made`,
      );
      const appending = append(batchOf([toGroup(`raced by ${end}`), toGroup(`beside ${end}`)]));
      await untilOneWaitsFor(other);
      await other.query(end);
      assert.deepEqual(saidOf(await appending), expected);
      assert.deepEqual(repeated, retries);
      assert.equal((await rowsLike(`% ${end}`)).length, 2);
    });

  test('concurrent groups of one process wait for each other where they create the same channels', async () => {
    const { append, created, repeated } = open();
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        append(batchOf([toGroup('shared-a', `a${index}`), toGroup('shared-b', `b${index}`)])),
      ),
    );
    assert.ok(outcomes.flatMap(saidOf).every((each) => each.startsWith('accepted')));
    assert.deepEqual(repeated, []);
    assert.equal(created.length, 2);
  });

  test('a group sent behind the one that creates its channels finds them', async () => {
    const { appendGroup, created, repeated, modes } = open();
    const lanes = createLanes(appendGroup, { lanes: 1, maxWaitMs: 60_000 });
    const batches = Array.from({ length: 30 }, (_, batch) =>
      batchOf(Array.from({ length: 300 }, (_, index) => toGroup(`piped-${index % 7}`, `${batch}-${index}`))),
    );
    await Promise.all(batches.map((batch) => lanes.append(batch)));
    await lanes.close();
    assert.deepEqual(repeated, []);
    assert.equal(created.length, 7);
    assert.ok(modes.length > 1 && modes.every((mode) => mode === 'optimistic'));
  });

  test('groups with new channels and locked heads in opposite orders never wait for each other in a circle', async () => {
    const appenders = [open(), open(), open()];
    await appenders[0]?.append(batchOf([toGroup('head-1'), toGroup('head-2')]));
    for (let round = 0; round < 30; round++)
      await Promise.all(
        appenders.map(async ({ append }, index) => {
          const messages = ['head-1', `circle-${round}-a`, 'head-2', `circle-${round}-b`, `circle-${round}-c`].map(
            (id) => toGroup(id, `${round}-${index}`),
          );
          if (index % 2 === 1) messages.reverse();
          for (const each of saidOf(await append(batchOf(messages)))) assert.match(each, /^accepted/);
        }),
      );
    const repeated = appenders.flatMap((each) => each.repeated);
    assert.ok(!repeated.includes('conflict'), 'no deadlock');
  });

  test('new channels are announced to webhooks with their ranges, channels of commands are not', async () => {
    const { append, modes } = open({ announces: true });
    await append(batchOf([toGroup('announced-known')]));
    await append(
      batchOf([
        toPerson('announced-command', command),
        toGroup('announced-new'),
        toGroup('announced-known', 'second'),
        toGroup('announced-new', 'second'),
      ]),
    );
    assert.deepEqual(modes, ['optimistic', 'optimistic']);
    const { rows } = await sql<Record<string, unknown>>`
      select c.channel_id, c.sequence, o.first_seq, o.last_seq
      from sendbatch.webhook_outbox o join sendbatch.channel c using (channel_key) order by o.outbox_id`.execute(db);
    assert.deepEqual(
      rows.map((row) => Object.values(row)),
      [
        ['announced-known', 0, 1, 1],
        ['announced-known', 0, 2, 2],
        ['announced-new', 0, 1, 2],
      ],
    );
  });
});
