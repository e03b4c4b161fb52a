import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sql } from 'kysely';
import { randomOf } from '../../../bench/workload.ts';
import { trustedCaller } from '../../../src/messages/caller.ts';
import { channel, messageSequence, pairId } from '../../../src/messages/channel.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import type { Store } from '../../../src/sending/group-context.ts';
import { createTails, type Frame } from '../../../src/tailing/tails.ts';
import { openOwnStore, shards } from '../../support/database.ts';
import { seedOf } from '../../support/seed.ts';

const allUids = { has: () => true };
const rules = { systemUids: allUids, systemReaders: allUids, enforcePersonAllowlist: false };

test('a late report that a channel was created does not move back the cursor of a stream that resumes it', async (context) => {
  const own = await openOwnStore();
  const keys = new ChannelKeys(own.db, { shards });
  const tails = createTails({ db: own.db, shards, channelKeys: keys, rules });
  context.after(async () => {
    tails.close();
    await own.close();
  });
  const pair = channel(1, pairId('me', 'peer'), messageSequence);
  const [channelKey = 0] = (await keys.findOrCreate([pair])).values();
  await sql`update sendbatch.channel_head set last_seq = 2`.execute(own.db);
  for (const seq of [1, 2]) await own.db.insertInto('sendbatch.message').values(rowOf(channelKey, seq)).execute();
  const call = { caller: trustedCaller, uid: 'me', allOfUid: true, signal: new AbortController().signal };
  const cursors = [{ channelType: 1, channelId: pair.id, afterSeq: 1, fromNow: false }];
  for (const [channels, resume, expected] of [
    [cursors, true, [2, 'caught-up', 'all-caught-up']],
    [cursors, false, [2, 'caught-up', 'all-caught-up']],
    [[], true, [1, 2, 'caught-up', 'all-caught-up']],
    [[], false, ['caught-up', 'all-caught-up']],
  ] as const) {
    const frames = tails.subscribe({ ...call, channels, resume })[Symbol.asyncIterator]();
    const first = frames.next();
    // It arrives while the stream reads the channels of its user.
    tails.channelsCreated([{ ...pair, channelKey }]);
    const said: unknown[] = [];
    for (let next = await first; ; next = await frames.next()) {
      const frame: Frame = next.value;
      said.push(frame.kind === 'message' ? frame.message.messageSeq : frame.kind);
      if (frame.kind === 'all-caught-up') break;
    }
    assert.deepEqual(said, expected);
    await frames.return?.();
  }
});

test('readers of channels that do not exist cost nothing when others are created, and wake by their own key', async (context) => {
  const own = await openOwnStore();
  let asked = 0;
  class CountedKeys extends ChannelKeys {
    override find(...call: Parameters<ChannelKeys['find']>) {
      asked++;
      return super.find(...call);
    }
  }
  const keys = new CountedKeys(own.db, { shards, onCreated: (made) => tails.channelsCreated(made) });
  const store: Store = { db: own.db, shards, channelKeys: keys, rules };
  const tails = createTails(store);
  const signal = new AbortController().signal;
  const readers = Array.from({ length: 200 }, (_, index) => {
    const channels = [{ channelType: 2, channelId: `unmade${index}`, afterSeq: 0, fromNow: false }];
    return tails
      .subscribe({ caller: trustedCaller, uid: '', channels, allOfUid: false, signal })
      [Symbol.asyncIterator]();
  });
  context.after(async () => {
    tails.close();
    await own.close();
  });
  for (const reader of readers) assert.equal((await reader.next()).value?.kind, 'caught-up');
  const waiting = readers.map((reader) => reader.next());
  for (const each of waiting) each.catch(() => {});

  asked = 0;
  const create = (id: string) => keys.findOrCreate([channel(2, id, messageSequence)]);
  for (let index = 0; index < 60; index++) await create(`other${index}`);
  // Creating a channel takes two lookups.
  assert.equal(asked, 120);
  await tails.poll();
  assert.equal(asked, 121, 'a poll asks for all of them at once');

  const [key] = (await create('unmade7')).values();
  await own.db
    .insertInto('sendbatch.message')
    .values(rowOf(key ?? 0, 1))
    .execute();
  tails.wake([key ?? 0]);
  const frame = (await waiting[7])?.value as Frame;
  assert.deepEqual([frame.kind, frame.kind === 'message' && frame.message.messageSeq], ['message', 1]);
  assert.equal(asked, 123);
  assert.deepEqual(tails.counts(), { readers: 200, channels: 1 });
});

test('readers that are woken together read by few statements, and each gets every message once in order', async (context) => {
  const random = randomOf(seedOf(context));
  const own = await openOwnStore();
  let statements = 0;
  const db = own.db.withPlugin({
    transformQuery: ({ node }) => node,
    transformResult: async ({ result }) => {
      statements++;
      return result;
    },
  });
  const keys = new ChannelKeys(own.db, { shards });
  const tails = createTails({ db, shards, channelKeys: keys, rules });
  context.after(async () => {
    tails.close();
    await own.close();
  });
  const channels = Array.from({ length: 100 }, (_, index) => channel(2, `busy${index}`, messageSequence));
  const made = await keys.findOrCreate(channels);
  const channelKeys = channels.map(({ key }) => made.get(key) ?? 0);
  const signal = new AbortController().signal;
  const readers = channels.map(({ type, id }) => {
    const cursors = [{ channelType: type, channelId: id, afterSeq: 0, fromNow: false }];
    return tails
      .subscribe({ caller: trustedCaller, uid: '', channels: cursors, allOfUid: false, signal })
      [Symbol.asyncIterator]();
  });
  for (const reader of readers) assert.equal((await reader.next()).value?.kind, 'caught-up');

  // Most channels get few messages; some more than one page, by number or by bytes.
  const received = channelKeys.map(() => 0);
  for (const most of [1, 3, 400]) {
    const counts = channelKeys.map(() => 1 + Math.floor(most * random() ** 5));
    for (const [index, channelKey] of channelKeys.entries()) {
      const largeBytes = random() < 0.1 ? 60_000 : 1;
      await sql`
        insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
        select ${channelKey}::bigint, n, n, 0, gen_random_uuid(), 0, '', 'u', '', convert_to(repeat('x', ${largeBytes}::integer), 'UTF8')
        from generate_series(${received[index]}::integer + 1, ${received[index]}::integer + ${counts[index]}::integer) n`.execute(
        own.db,
      );
    }
    const first = readers.map((reader) => reader.next());
    statements = 0;
    tails.wake(channelKeys);
    for (const [index, reader] of readers.entries())
      for (let count = 0; count < (counts[index] ?? 0); count++) {
        const { value } = (await (count === 0 ? first[index] : reader.next())) ?? {};
        const seq = (received[index] ?? 0) + 1;
        assert.deepEqual(value?.kind === 'message' && value.message.messageSeq, seq);
        received[index] = seq;
      }
    if (most === 1) assert.equal(statements, 7);
  }
});

const rowOf = (channelKey: number, seq: number) => ({
  channel_key: channelKey,
  message_seq: seq,
  message_id: seq,
  accepted_at: Date.now(),
  dedupe_key: `00000000-0000-0000-0000-00000000000${seq}`,
  flags: 0,
  content_hash: Buffer.of(),
  from_uid: 'u',
  client_msg_no: `k${seq}`,
  payload: Buffer.from('x'),
  expire: null,
  stream_no: null,
  tag_key: null,
  subscribers: null,
});
