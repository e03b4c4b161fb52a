import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { randomOf } from '../../../bench/workload.ts';
import { factsOf } from '../../../src/integrity/verify.sql.ts';
import { verify } from '../../../src/integrity/verify.ts';
import { type ChannelViolation, violationsOf } from '../../../src/integrity/violations.ts';
import { sweepExpired, sweepOld } from '../../../src/retention/sweep.sql.ts';
import { createDatabase, openStore, shards, type TestDatabase } from '../../support/database.ts';
import { seedOf } from '../../support/seed.ts';
import { startService } from '../../support/service.ts';
import { assertSound, query } from '../../support/verify.ts';

describe('verify names each violated promise of the store', () => {
  let sent: TestDatabase;
  /** A copy of what was sent, to be damaged. */
  let copy: TestDatabase;
  before(async () => {
    sent = await createDatabase();
    const service = await startService({ databaseUrl: sent.url });
    const post = async (path: string, body: object) => {
      const answer = await fetch(`${service.url}${path}`, { method: 'POST', body: JSON.stringify(body) });
      assert.equal(answer.status, 200);
    };
    const messages = ['a', 'b', 'c'].flatMap((channel_id) =>
      Array.from({ length: 10 }, (_, index) => ({
        from_uid: 'u',
        channel_id,
        channel_type: 2,
        client_msg_no: `${channel_id}${index}`,
        payload: 'SGk=',
        ...(channel_id === 'c' && index < 2 ? { expire: 1 } : {}),
      })),
    );
    await post('/message/sendbatch', messages);
    const command = { from_uid: 'u', channel_id: 'a', channel_type: 2, payload: 'SGk=', header: { sync_once: 1 } };
    await post('/message/send', command);
    await post('/v1/channels/2/b/messages:recall', { message_seqs: [2] });
    await post('/v1/channels/2/b/messages/3:edit', { payload: 'SG8=' });
    await service.stop();
  });
  after(() => sent.drop());
  beforeEach(async () => {
    copy = await createDatabase({ copyOf: sent.url });
  });
  afterEach(() => copy.drop());

  async function faults(): Promise<ChannelViolation[]> {
    const db = openStore(copy.url);
    try {
      const found: ChannelViolation[] = [];
      for await (const step of verify({ db, shards })) found.push(...step.faults);
      return found;
    } finally {
      await db.destroy();
    }
  }
  const keyOf = (id: string, sequence = 0) =>
    `(select channel_key from sendbatch.channel where channel_id = '${id}' and sequence = ${sequence})`;
  const inA = `channel_key = ${keyOf('a')}`;
  const inB = `channel_key = ${keyOf('b')}`;

  test('verify checks all channels and messages of a sound store, and finds nothing', async () => {
    await assertSound(copy.url);
    const db = openStore(copy.url);
    const steps = await Array.fromAsync(verify({ db, shards }));
    await db.destroy();
    const last = steps.at(-1);
    assert.deepEqual([last?.channels, last?.messages, last?.done === last?.of], [4, 31, true]);
    assert.deepEqual(
      steps.flatMap((step) => step.faults),
      [],
    );
  });

  const rows: [string, string[], { kind: ChannelViolation['kind']; channel?: string; what: RegExp }[]][] = [
    [
      'a message in the middle is missing',
      [`delete from sendbatch.message where ${inA} and message_seq = 4`],
      [{ kind: 'MESSAGES_MISSING', channel: 'a', what: /^1 of 10 messages are missing: after seq 3$/ }],
    ],
    [
      'the first messages are missing',
      [`delete from sendbatch.message where ${inA} and message_seq < 3`],
      [{ kind: 'MESSAGES_MISSING', channel: 'a', what: /^2 of 10 messages are missing: before seq 3$/ }],
    ],
    [
      'a head is too high',
      [`update sendbatch.channel_head set last_seq = 15 where ${inA}`],
      [{ kind: 'MESSAGES_MISSING', channel: 'a', what: /^5 of 15 .* after seq 10, the last that is kept$/ }],
    ],
    [
      'a head is behind',
      [`update sendbatch.channel_head set last_seq = 9 where ${inA}`],
      [{ kind: 'HEAD_BEHIND', channel: 'a', what: /says 9, its last message is 10/ }],
    ],
    [
      'a head is missing',
      [`delete from sendbatch.channel_head where ${inA}`],
      [{ kind: 'HEAD_MISSING', channel: 'a', what: /no head, and 10 messages/ }],
    ],
    [
      'a sequence exists twice',
      [
        'alter table sendbatch.message drop constraint message_pkey',
        `update sendbatch.message set message_seq = 5 where ${inA} and message_seq = 6`,
        `update sendbatch.message set message_seq = 6 where ${inA} and message_seq = 7`,
        `insert into sendbatch.message select channel_key, 7, message_id, accepted_at, gen_random_uuid(), flags, content_hash,
           from_uid, 'other', payload, expire, stream_no, tag_key, subscribers from sendbatch.message where ${inA} and message_seq = 6`,
      ],
      [
        { kind: 'DOUBLE_SEQUENCE', channel: 'a', what: /11 messages|11 kept.* 1 more than the 10/ },
        { kind: 'IDS_NOT_RISING', channel: 'a', what: /./ },
        { kind: 'DOUBLE_ID', what: /2\/a seq 6, 2\/a seq 7/ },
      ],
    ],
    [
      'an id is used again in another channel',
      [
        `update sendbatch.message set message_id = (select max(message_id) from sendbatch.message where channel_key = ${keyOf('c')})
         where channel_key = ${keyOf('b')} and message_seq = 10`,
      ],
      [{ kind: 'DOUBLE_ID', what: /is used again: 2\/b seq 10, 2\/c seq 10$/ }],
    ],
    [
      'ids fall',
      [
        `update sendbatch.message m set message_id = case message_seq when 3 then o.four else o.three end
         from (select max(message_id) filter (where message_seq = 3) as three, max(message_id) filter (where message_seq = 4) as four
           from sendbatch.message where ${inA}) o
         where ${inA} and message_seq in (3, 4)`,
      ],
      [{ kind: 'IDS_NOT_RISING', channel: 'a', what: /^1 ids .* seq 4$/ }],
    ],
    [
      'an id is above 2^53-1',
      [`update sendbatch.message set message_id = 9007199254740992 where ${inA} and message_seq = 10`],
      [{ kind: 'ID_OUT_OF_RANGE', channel: 'a', what: /^1 ids .* seq 10$/ }],
    ],
    [
      'a once-only key exists twice, by the index’s own column and as it was sent',
      [
        'alter table sendbatch.message drop constraint message_once',
        `update sendbatch.message set dedupe_key = (select dedupe_key from sendbatch.message where ${inA} and message_seq = 1)
         where ${inA} and message_seq = 2`,
        `update sendbatch.message set client_msg_no = 'b0' where channel_key = ${keyOf('b')} and message_seq = 7`,
      ],
      [
        { kind: 'DOUBLE_KEY', channel: 'a', what: /^1 messages .* seq 2$/ },
        { kind: 'DOUBLE_KEY', channel: 'b', what: /^1 messages .* seq 7$/ },
      ],
    ],
    [
      'a command is missing from the second sequence of a channel',
      [`delete from sendbatch.message where channel_key = ${keyOf('a', 1)}`],
      [{ kind: 'MESSAGES_MISSING', channel: 'a', what: /^1 of 1 messages are missing: none is kept$/ }],
    ],
    [
      'a channel is missing and its messages are not',
      [`delete from sendbatch.channel where channel_id = 'b'`],
      [{ kind: 'CHANNEL_MISSING', what: /has a head or 10 messages, and no channel/ }],
    ],
    [
      'a change is missing',
      [`delete from sendbatch.message_change where ${inB} and change_no = 1`],
      [
        { kind: 'CHANGES_MISSING', channel: 'b', what: /^1 of 2 changes are missing$/ },
        { kind: 'CHANGE_MISMATCH', channel: 'b', what: /^1 messages .* seq 2$/ },
      ],
    ],
    [
      'a head has fewer changes than its channel, or none',
      [
        `update sendbatch.channel_head set last_change = 1 where ${inB}`,
        `insert into sendbatch.message_change (channel_key, change_no, message_seq, kind, changed_at) values (${keyOf('c')}, 1, 99, 1, 0)`,
      ],
      [
        { kind: 'CHANGES_AHEAD', channel: 'b', what: /says 1 changes, its last one is 2/ },
        { kind: 'CHANGES_AHEAD', channel: 'c', what: /says 0 changes/ },
        { kind: 'CHANGE_WITHOUT_MESSAGE', channel: 'c', what: /^1 changed messages .* seq 99$/ },
      ],
    ],
    [
      'a recalled message has content, and another one is changed without a change',
      [
        `update sendbatch.message set payload = 'x' where ${inB} and message_seq = 2`,
        `update sendbatch.message set changed = '{"revision": 3}' where ${inA} and message_seq = 5`,
      ],
      [
        { kind: 'RECALLED_CONTENT', channel: 'b', what: /^1 recalled messages .* seq 2$/ },
        { kind: 'CHANGE_MISMATCH', channel: 'a', what: /^1 messages .* seq 5$/ },
      ],
    ],
    [
      'a message is not recalled as its change says, and another has an edit too many',
      [
        `update sendbatch.message set flags = flags & ~8 where ${inB} and message_seq = 2`,
        `update sendbatch.message set changed = '{"revision": 2}' where ${inB} and message_seq = 3`,
      ],
      [{ kind: 'CHANGE_MISMATCH', channel: 'b', what: /^2 messages .* seq 2$/ }],
    ],
    [
      'the sequence of blocks was set back',
      [`select setval('sendbatch.message_block', 1, false)`],
      [{ kind: 'IDS_AHEAD_OF_BLOCKS', what: /given out 0/ }],
    ],
  ];
  for (const [name, spoil, expected] of rows)
    test(`verify reports when ${name}`, async () => {
      for (const statement of spoil) await query(copy.url, statement);
      const found = await faults();
      assert.deepEqual(
        found.map(({ kind, channelId }) => ({ kind, channelId })).sort(byKind),
        expected.map(({ kind, channel }) => ({ kind, channelId: channel })).sort(byKind),
        JSON.stringify(found),
      );
      for (const { kind, channel, what } of expected) {
        const fault = found.find((each) => each.kind === kind && each.channelId === channel);
        assert.match(fault?.what ?? '', what);
      }
    });

  test('verify does not report swept messages as missing, and reports one more that is gone', async () => {
    const db = openStore(copy.url);
    const dayLater = Date.now() + 2 * 86_400_000;
    assert.equal(await sweepExpired(db, 1, dayLater), 1);
    assert.equal(await sweepExpired(db, 10, dayLater), 1);
    await query(
      copy.url,
      `update sendbatch.message set accepted_at = 0 where channel_key = ${keyOf('b')} and message_seq <= 4`,
    );
    const { removed } = await sweepOld(
      { db, shards },
      2,
      { before: 1000, now: dayLater },
      { channels: 10, messages: 3, total: 100 },
    );
    assert.equal(removed, 3);
    await db.destroy();
    assert.deepEqual(await faults(), []);
    assert.deepEqual(await query(copy.url, 'select messages::text from sendbatch.swept order by channel_key'), [
      { messages: '3' },
      { messages: '2' },
    ]);
    await query(copy.url, `delete from sendbatch.message where channel_key = ${keyOf('c')} and message_seq = 3`);
    const [fault, ...more] = await faults();
    assert.deepEqual([fault?.kind, fault?.channelId, more], ['MESSAGES_MISSING', 'c', []]);
    assert.match(fault?.what ?? '', /^1 of 10 messages are missing: before seq 4 \(2 were swept/);
  });
});

describe('the fast pass of verify', () => {
  let sent: TestDatabase;
  before(async () => {
    sent = await createDatabase();
    // Channels from empty to larger than a piece, with keys that are not dense.
    await query(
      sent.url,
      `with made as (
         insert into sendbatch.channel (channel_type, sequence, channel_id) select 2, 0, 'c' || n from generate_series(1, 12) n
         returning channel_key, (array[0, 1, 2, 3, 5, 8, 13, 21, 34, 90, 140, 4])[substr(channel_id, 2)::int] as size
       ), heads as (insert into sendbatch.channel_head (channel_key, last_seq) select channel_key, size from made)
       insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
       select channel_key, n, channel_key * 4096 + n * 7, 0, md5(channel_key || ' ' || n)::uuid, 2, '', 'u', 'k' || n, ''
       from made cross join generate_series(1, size) n`,
    );
    await query(sent.url, `select setval('sendbatch.message_block', 1000)`);
    // Damage that constraints would refuse.
    await query(sent.url, 'alter table sendbatch.message drop constraint message_pkey, drop constraint message_once');
    await query(sent.url, 'create index on sendbatch.message (channel_key, message_seq)');
  });
  after(() => sent.drop());

  test('the fast pass finds on random damage what the exact one finds, with one and with three connections', async (context) => {
    const random = randomOf(seedOf(context));
    const pick = (count: number) => Math.floor(random() * count);
    const any = (count: number) => Array.from({ length: 1 + pick(count) });
    const someChannel = () =>
      `(select channel_key from sendbatch.channel order by channel_key offset ${pick(12)} limit 1)`;
    const someMessage = () => {
      const channel = someChannel();
      return `channel_key = ${channel} and message_seq = (
        select message_seq from sendbatch.message where channel_key = ${channel} order by message_seq offset ${pick(pick(2) === 0 ? 5 : 150)} limit 1)`;
    };
    const damages: (() => string)[] = [
      () => `delete from sendbatch.message where ${someMessage()}`,
      () => `update sendbatch.message set message_seq = message_seq + ${pick(5) - 2} where ${someMessage()}`,
      () => `update sendbatch.message set message_seq = 9007199254740991 where ${someMessage()}`,
      () => `update sendbatch.message set message_seq = -9007199254740995 where ${someMessage()}`,
      () => `update sendbatch.message set message_id = message_id + ${pick(30) - 15} where ${someMessage()}`,
      () => `update sendbatch.message set message_id = 9223372036854775807 where ${someMessage()}`,
      () => `update sendbatch.message set client_msg_no = 'k${1 + pick(5)}' where ${someMessage()}`,
      () => `update sendbatch.message m set dedupe_key = (
               select dedupe_key from sendbatch.message o where o.channel_key = m.channel_key order by message_seq limit 1) where ${someMessage()}`,
      () => `update sendbatch.message set channel_key = ${pick(30) - 5} where ${someMessage()}`,
      () =>
        `update sendbatch.channel_head set last_seq = last_seq + ${pick(5) - 2} where channel_key = ${someChannel()}`,
      () => `update sendbatch.channel_head set last_seq = 4000000000000000000 where channel_key = ${someChannel()}`,
      () => `delete from sendbatch.channel_head where channel_key = ${someChannel()}`,
      () => `delete from sendbatch.channel where channel_key = ${someChannel()}`,
      // Of no channel where the last one was deleted before.
      () =>
        `insert into sendbatch.swept (channel_key, messages)
         select channel_key, ${pick(4)} from ${someChannel()} as chosen on conflict do nothing`,
      () => 'update sendbatch.channel_head set last_seq = 0',
    ];
    for (let round = 0; round < 20; round++) {
      const copy = await createDatabase({ copyOf: sent.url });
      const done: string[] = [];
      for (const _ of any(4)) {
        const damage = damages[pick(damages.length)]?.() ?? '';
        done.push(damage);
        await query(copy.url, damage);
      }
      const db = openStore(copy.url);
      const keys = await query(copy.url, 'select channel_key::text as key from sendbatch.channel');
      const exact = (
        await factsOf(
          { connection: db, ids: { shard: shards.of(0), count: 1, splitBlock: 0 } },
          keys.map(({ key }) => Number(key)),
        )
      ).flatMap(violationsOf);
      await db.destroy();
      const many = openStore(copy.url, { poolSize: 3, statementTimeoutMs: 0 });
      for (const [connections, pieceMessages] of [
        [1, 50_000],
        [3, 20],
      ] as const) {
        const found = await Array.fromAsync(verify({ db: many, shards }, connections, pieceMessages));
        const textOf = (faults: readonly ChannelViolation[]) => faults.map((fault) => JSON.stringify(fault)).sort();
        const ofChannels = found.flatMap((step) => step.faults).filter((fault) => fault.channelId !== undefined);
        assert.deepEqual(textOf(ofChannels), textOf(exact), done.join('\n'));
        assert.equal(found.at(-1)?.channels, keys.length);
      }
      await many.destroy();
      await copy.drop();
    }
  });
});

function byKind(a: { kind: string; channelId?: string | undefined }, b: typeof a): number {
  return `${a.kind} ${a.channelId}`.localeCompare(`${b.kind} ${b.channelId}`);
}
