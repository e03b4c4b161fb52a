import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type AppendState,
  type Batch,
  type Earlier,
  type Outcome,
  planAppend,
} from '../../../src/messages/append-plan.ts';
import { type Draft, prepareMessage } from '../../../src/messages/message.ts';

const message = (clientMsgNo: string, more: Partial<Draft> = {}) =>
  prepareMessage(
    {
      clientMsgNo,
      fromUid: 'u1',
      channelId: 'a',
      channelType: 2,
      expire: 0,
      payload: Buffer.from('hello'),
      subscribers: [],
      streamNo: '',
      tagKey: '',
      ...more,
    },
    clientMsgNo,
  );
const noPersist = { header: { noPersist: 1, redDot: 0, syncOnce: 0 } };
const other = { payload: Buffer.from('other') };
const batch = (messages: Batch['messages'], more: Partial<Batch> = {}): Batch => ({
  messages,
  atomic: false,
  expectedLastSeqs: new Map(),
  ...more,
});
const channelA = message('').channel.key;
const empty: AppendState = { heads: new Map(), earlier: new Map(), denials: new Map(), block: 1 };
const facts = (more: Partial<AppendState>): AppendState => ({ ...empty, ...more });
const stored = (clientMsgNo: string, seq: number, more: Partial<Draft> = {}): [string, Earlier] => {
  const { key, contentHash } = message(clientMsgNo, more);
  return [key, { messageId: 7, messageSeq: seq, contentHash, acceptedAt: 0 }];
};
/** `+5` accepted as 5, `=3` a duplicate of 3, otherwise the reason of a refusal. */
const short = (outcome: Outcome) =>
  outcome.kind === 'refused'
    ? outcome.refusal.reason
    : `${outcome.kind === 'accepted' ? '+' : '='}${outcome.messageSeq}`;
const answers = (batches: Batch[], known = empty) =>
  planAppend(batches, known).outcomes.map((each) => each.map(short).join(' '));

describe('the plan of one batch', () => {
  const rows: [string, Batch, AppendState, string, number][] = [
    ['a new channel starts at 1', batch([message('1'), message('2')]), empty, '+1 +2', 2],
    [
      'a known channel goes on after its head',
      batch([message('1')]),
      facts({ heads: new Map([[channelA, 41]]) }),
      '+42',
      1,
    ],
    [
      'each channel counts by itself',
      batch([message('1'), message('1', { channelId: 'b' }), message('2')]),
      empty,
      '+1 +1 +2',
      3,
    ],
    ['an equal twin shares the answer', batch([message('1'), message('1'), message('2')]), empty, '+1 =1 +2', 2],
    [
      'an unequal twin conflicts',
      batch([message('1'), message('1', other), message('2')]),
      empty,
      '+1 CLIENT_MSG_NO_REUSED +2',
      2,
    ],
    [
      'an earlier send is answered',
      batch([message('1'), message('2')]),
      facts({ heads: new Map([[channelA, 9]]), earlier: new Map([stored('1', 4)]) }),
      '=4 +10',
      1,
    ],
    [
      'another content under an old key',
      batch([message('1', other), message('2')]),
      facts({ heads: new Map([[channelA, 9]]), earlier: new Map([stored('1', 4)]) }),
      'CLIENT_MSG_NO_REUSED +10',
      1,
    ],
    ['the same key of another sender', batch([message('1'), message('1', { fromUid: 'u2' })]), empty, '+1 +2', 2],
    [
      'a message that is not persisted gets no sequence and no row',
      batch([message('1', noPersist), message('2')]),
      empty,
      '+0 +1',
      1,
    ],
    ['a twin that is not persisted', batch([message('1', noPersist), message('1', noPersist)]), empty, '+0 =0', 0],
    [
      'a condition that holds',
      batch([message('1'), message('2')], { expectedLastSeqs: new Map([[channelA, 3]]) }),
      facts({ heads: new Map([[channelA, 3]]) }),
      '+4 +5',
      2,
    ],
    [
      'a condition on an empty channel',
      batch([message('1')], { expectedLastSeqs: new Map([[channelA, 0]]) }),
      empty,
      '+1',
      1,
    ],
    [
      'a condition that fails refuses its channel only',
      batch([message('1'), message('1', { channelId: 'b' }), message('2')], {
        expectedLastSeqs: new Map([[channelA, 3]]),
      }),
      facts({ heads: new Map([[channelA, 5]]) }),
      'SEQ_MISMATCH +1 SEQ_MISMATCH',
      1,
    ],
    [
      'a retry is answered whatever its condition',
      batch([message('1'), message('2')], { expectedLastSeqs: new Map([[channelA, 3]]) }),
      facts({ heads: new Map([[channelA, 5]]), earlier: new Map([stored('1', 4), stored('2', 5)]) }),
      '=4 =5',
      0,
    ],
  ];
  for (const [what, input, known, answer, written] of rows) {
    test(`planning one batch, ${what}: ${answer}`, () => {
      assert.deepEqual(answers([input], known), [answer]);
      assert.equal(planAppend([input], known).rows.length, written);
    });
  }
});

describe('the plan of an atomic batch', () => {
  test('a refused atomic batch writes nothing and uses no number', () => {
    const plan = planAppend(
      [batch([message('1'), message('1', other)], { atomic: true }), batch([message('2')])],
      empty,
    );
    assert.deepEqual(
      plan.outcomes.map((each) => each.map(short)),
      [['+1', 'CLIENT_MSG_NO_REUSED'], ['+1']],
    );
    assert.deepEqual(
      plan.rows.map((row) => row.message.clientMsgNo),
      ['2'],
    );
    assert.deepEqual([...plan.heads.values()], [1]);
  });

  test('messages of a refused atomic batch are no duplicates for the next batch', () => {
    const failing = batch([message('1'), message('2', other), message('2')], { atomic: true });
    assert.deepEqual(answers([failing, batch([message('1')])])[1], '+1');
  });

  test('an atomic batch of duplicates is accepted', () => {
    const again = batch([message('1')], { atomic: true });
    assert.deepEqual(answers([again], facts({ heads: new Map([[channelA, 1]]), earlier: new Map([stored('1', 1)]) })), [
      '=1',
    ]);
  });
});

describe('the plan of a group of batches', () => {
  test('a batch sees what earlier batches of its group store', () => {
    const conditioned = batch([message('3')], { expectedLastSeqs: new Map([[channelA, 2]]) });
    assert.deepEqual(
      answers([batch([message('1'), message('2')]), batch([message('2'), message('1', other)]), conditioned]),
      ['+1 +2', '=2 CLIENT_MSG_NO_REUSED', '+3'],
    );
  });

  test('a group gets ids that are unique and rise with the sequence', () => {
    const plan = planAppend([batch([message('1'), message('2')]), batch([message('3')])], facts({ block: 5 }));
    assert.deepEqual(
      plan.rows.map((row) => row.messageId),
      [5 * 4096, 5 * 4096 + 1, 5 * 4096 + 2],
    );
  });

  test('a group remembers nothing of a message that is not persisted', () => {
    assert.deepEqual(answers([batch([message('1', noPersist)]), batch([message('1', noPersist)])]), ['+0', '+0']);
  });
});
