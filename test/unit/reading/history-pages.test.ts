import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import { randomOf } from '../../../bench/workload.ts';
import { trustedCaller } from '../../../src/messages/caller.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import { prepareMessage } from '../../../src/messages/message.ts';
import type { Filter } from '../../../src/messages/messages-read.sql.ts';
import { createReadChannel, type ReadCall } from '../../../src/reading/read-channel.ts';
import { createAppend } from '../../../src/sending/append.ts';
import type { Store } from '../../../src/sending/group-context.ts';
import { openOwnStore, shards } from '../../support/database.ts';
import { seedOf } from '../../support/seed.ts';

const allUids = { has: () => true };
const hour = 3_600_000;

describe('pages of history', () => {
  let own: Awaited<ReturnType<typeof openOwnStore>>;
  let store: Store;
  before(async () => {
    own = await openOwnStore();
    const rules = { systemUids: allUids, systemReaders: allUids, enforcePersonAllowlist: false };
    store = { db: own.db, shards, channelKeys: new ChannelKeys(own.db, { shards }), rules };
  });
  after(() => own.close());

  let sent = 0;
  const draft = (channelId: string, more: object = {}, clientMsgNo = `k${sent++}`) =>
    prepareMessage(
      {
        header: undefined,
        fromUid: 'u',
        channelId,
        channelType: 2,
        expire: 0,
        payload: Buffer.from('x'),
        subscribers: [],
        streamNo: '',
        tagKey: '',
        clientMsgNo,
        ...more,
      },
      clientMsgNo,
    );
  const batch = (messages: ReturnType<typeof draft>[]) => ({ messages, atomic: false, expectedLastSeqs: new Map() });
  const timesOf = async (channelId: string) => {
    const { rows } = await sql<{ accepted_at: number }>`
      select accepted_at from sendbatch.message join sendbatch.channel using (channel_key)
      where channel_id = ${channelId} order by message_seq`.execute(own.db);
    return rows.map((row) => row.accepted_at);
  };

  test('accepted_at never decreases with the sequence, whatever the clocks of the instances say, in both append modes', async () => {
    const start = Date.now();
    const instances = [0, hour, -hour].map((skew, index) => createAppend(store, { now: () => start + skew + index }));
    const first = draft('clocks');
    for (const withDuplicate of [false, true])
      for (const append of instances) {
        // A duplicate makes the append read before it stores.
        const messages = [draft('clocks'), ...(withDuplicate ? [first] : [])];
        const [appended] = await append([batch([...(sent < 3 ? [first] : []), ...messages])]);
        assert.equal(appended?.status, 'fulfilled');
      }
    const times = await timesOf('clocks');
    assert.ok(times.length >= 6);
    assert.deepEqual(
      times,
      times.toSorted((a, b) => a - b),
    );
    assert.equal(times.at(-1), start + hour + 1, 'the latest clock that was ever seen');
  });

  test('pages that continue from next_seq equal a filter over all messages, in both directions', async (context) => {
    const random = randomOf(seedOf(context));
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
    const readers: [string | undefined, ReturnType<typeof createReadChannel>][] = [
      ['never cut', createReadChannel(store)],
      ['cut after each slice', createReadChannel(store, Date.now, -1)],
    ];
    let now = 1_700_000_000_000;
    const append = createAppend(store, { now: () => now });
    const all: { seq: number; at: number; tag: string; stream: string; from: string; to: string[] }[] = [];
    for (let group = 0; group < 12; group++) {
      now += Math.floor(random() * 3) * 1000;
      const messages = Array.from({ length: 20 }, () => {
        const more = {
          fromUid: pick(['a', 'b']),
          tagKey: pick(['', 'news']),
          streamNo: pick(['', '', 's']),
          subscribers: pick([[], [], ['a'], ['c']]),
        };
        all.push({
          seq: all.length + 1,
          at: now,
          tag: more.tagKey,
          stream: more.streamNo,
          from: more.fromUid,
          to: more.subscribers,
        });
        return draft('pages', more);
      });
      await append([batch(messages)]);
    }
    // Sweeping leaves gaps, at the beginning and in the middle.
    await sql`
      delete from sendbatch.message m using sendbatch.channel c
      where c.channel_key = m.channel_key and c.channel_id = 'pages' and (m.message_seq <= 7 or m.message_seq % 11 = 5)`.execute(
      own.db,
    );
    const kept = all.filter(({ seq }) => seq > 7 && seq % 11 !== 5);
    for (let round = 0; round < 60; round++) {
      const time = () => 1_700_000_000_000 + Math.floor(random() * 30) * 1000 - 2000;
      const filter: Filter = {
        ...(random() < 0.4 ? { tagKey: pick(['news', 'none']) } : {}),
        ...(random() < 0.3 ? { streamNo: 's' } : {}),
        ...(random() < 0.5 ? { fromUid: pick(['a', 'b', 'nobody']) } : {}),
        ...(random() < 0.4 ? { since: time() } : {}),
        ...(random() < 0.4 ? { until: time() } : {}),
      };
      const uid = pick(['', 'a', 'c']);
      const expected = kept.filter(
        (each) =>
          (filter.tagKey === undefined || each.tag === filter.tagKey) &&
          (filter.streamNo === undefined || each.stream === filter.streamNo) &&
          (filter.fromUid === undefined || each.from === filter.fromUid) &&
          each.at >= (filter.since ?? 0) &&
          each.at < (filter.until ?? Number.MAX_SAFE_INTEGER) &&
          (uid === '' || each.to.length === 0 || each.from === uid || each.to.includes(uid)),
      );
      for (const descending of [false, true])
        for (const [how, reader] of readers) {
          const base: Omit<ReadCall, 'afterSeq' | 'beforeSeq'> = {
            caller: trustedCaller,
            uid,
            channelType: 2,
            channelId: 'pages',
            limit: 1 + Math.floor(random() * 60),
            descending,
            filter,
          };
          const seqs: number[] = [];
          let at = 0;
          for (let more = true; more; ) {
            const page = await reader.page({ ...base, afterSeq: descending ? 0 : at, beforeSeq: descending ? at : 0 });
            seqs.push(...page.messages.map((message) => message.messageSeq));
            assert.ok(!page.more || page.nextSeq !== at, 'it gets on');
            ({ more, nextSeq: at } = page);
          }
          const wanted = expected.map(({ seq }) => seq);
          assert.deepEqual(
            seqs,
            descending ? wanted.reverse() : wanted,
            `${how}, ${JSON.stringify({ ...filter, uid, descending })}`,
          );
          if (descending) wanted.reverse();
        }
    }
  });

  test('a filter without matches among many messages returns an empty page with the sequence to continue from', async () => {
    const [key] = (await store.channelKeys.findOrCreate([draft('wide').channel])).values();
    await sql`
      insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
      select ${key}, n, n, n, md5(n::text)::uuid, 0, '', case when n = 30000 then 'rare' else 'usual' end, n::text, 'x'
      from generate_series(1, 50000) as n`.execute(own.db);
    await sql`update sendbatch.channel_head set last_seq = 50000 where channel_key = ${key}`.execute(own.db);
    const reader = createReadChannel(store, Date.now, -1);
    const page = async (more: Partial<ReadCall>) => {
      const base = { caller: trustedCaller, uid: '', channelType: 2, channelId: 'wide', limit: 10 };
      const { messages, nextSeq } = await reader.page({
        ...base,
        afterSeq: 0,
        beforeSeq: 0,
        descending: false,
        ...more,
      });
      return [messages.map((message) => message.messageSeq), nextSeq];
    };
    const filter = { fromUid: 'rare' };
    assert.deepEqual(await page({ filter }), [[], 20_000]);
    assert.deepEqual(await page({ filter, afterSeq: 20_000 }), [[30_000], 40_000]);
    assert.deepEqual(await page({ filter, afterSeq: 40_000 }), [[], 0]);
    assert.deepEqual(await page({ filter, descending: true }), [[], 30_001]);
    assert.deepEqual(await page({ filter, descending: true, beforeSeq: 30_001 }), [[30_000], 10_001]);
    assert.deepEqual(await page({ filter, legacy: true }), [[30_000], 0], 'legacy answers cannot say where to go on');
    assert.deepEqual(await page({ filter: { since: 49_999 } }), [[49_999, 50_000], 0]);
    assert.deepEqual(await page({ filter: { until: 3 } }), [[1, 2], 0]);
    assert.deepEqual(await page({ filter: { since: 50_001 } }), [[], 0]);
  });
});
