import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Draft, isPersistent, prepareMessage } from '../../../src/messages/message.ts';

const draft: Draft = {
  header: { noPersist: 0, redDot: 1, syncOnce: 0 },
  clientMsgNo: 'k1',
  fromUid: 'u1',
  channelId: 'group1',
  channelType: 2,
  expire: 0,
  payload: Buffer.from('hello'),
  subscribers: [],
  streamNo: '',
  tagKey: '',
};
const settle = (change: Partial<Draft>) =>
  prepareMessage({ ...draft, ...change }, change.clientMsgNo ?? draft.clientMsgNo);

describe('the content of a message', () => {
  const same: [string, Partial<Draft>, Partial<Draft>][] = [
    ['the order of subscribers', { subscribers: ['a', 'b'] }, { subscribers: ['b', 'a'] }],
    ['a subscriber named twice', { subscribers: ['a', 'a'] }, { subscribers: ['a'] }],
    ['a header of zeros and none', { header: { noPersist: 0, redDot: 0, syncOnce: 0 } }, { header: undefined }],
  ];
  for (const [what, a, b] of same) {
    test(`the content hash is the same for ${what}`, () =>
      assert.deepEqual(settle(a).contentHash, settle(b).contentHash));
  }

  const different: [string, Partial<Draft>][] = [
    ['payload', { payload: Buffer.from('hello!') }],
    ['red_dot', { header: { noPersist: 0, redDot: 0, syncOnce: 0 } }],
    ['sync_once', { header: { noPersist: 0, redDot: 1, syncOnce: 1 } }],
    ['expire', { expire: 1 }],
    ['stream_no', { streamNo: 's' }],
    ['tag_key', { tagKey: 's' }],
    ['subscribers', { subscribers: ['s'] }],
    ['a text moved from one field to the next', { streamNo: 'ab', tagKey: '' }],
    ['the same text in the next field', { streamNo: 'a', tagKey: 'b' }],
    ['subscribers cut elsewhere', { subscribers: ['ab', 'c'] }],
    ['subscribers cut here', { subscribers: ['a', 'bc'] }],
    ['a payload that looks like the end of the fields', { payload: Buffer.from('"]\nhello') }],
  ];
  test('the content hash differs in every semantic field', () => {
    const hashes = new Map([[settle({}).contentHash, 'the original']]);
    for (const [what, change] of different) {
      const hash = settle(change).contentHash;
      assert.equal(hashes.get(hash), undefined, `${what} has the content of ${hashes.get(hash)}`);
      hashes.set(hash, what);
    }
  });
});

describe('the once-only key', () => {
  test('the once-only key differs by channel, sender and client_msg_no, and by nothing else', () => {
    const key = settle({}).key;
    assert.equal(settle({ payload: Buffer.from('x'), expire: 5, tagKey: 't' }).key, key);
    for (const change of [{ channelId: 'group2' }, { channelType: 4 }, { fromUid: 'u2' }, { clientMsgNo: 'k2' }])
      assert.notEqual(settle(change).key, key, JSON.stringify(change));
    assert.notEqual(settle({ fromUid: 'u', clientMsgNo: '1k' }).key, settle({ fromUid: 'u1', clientMsgNo: 'k' }).key);
  });

  test('the once-only key differs between a message and a command of the same channel', () => {
    const command = settle({ header: { noPersist: 0, redDot: 0, syncOnce: 1 } });
    assert.notEqual(command.channel.key, settle({}).channel.key);
    assert.equal(command.channel.id, 'group1');
  });
});

describe('the channel of a draft', () => {
  test('the channel of a draft to a person is the pair, from both sides and from the joined id', () => {
    const ids = [
      settle({ channelType: 1, fromUid: 'u1', channelId: 'u2' }),
      settle({ channelType: 1, fromUid: 'u2', channelId: 'u1' }),
      settle({ channelType: 1, fromUid: 'u1', channelId: 'u1@u2' }),
      settle({ channelType: 1, fromUid: 'u1', channelId: 'u2@u1' }),
    ].map((message) => message.channel.id);
    assert.deepEqual(new Set(ids), new Set(['u2@u1']));
  });

  test('the channel of a command with receivers only is the same for the same set of uids', () => {
    const syncOnce = { noPersist: 0, redDot: 0, syncOnce: 1 };
    const to = (...subscribers: string[]) =>
      settle({ header: syncOnce, channelId: '', channelType: 0, subscribers }).channel;
    assert.deepEqual(to('a', 'b'), to('b', 'a', 'b'));
    assert.equal(to('a').type, 8);
    assert.notEqual(to('a').id, to('a', 'b').id);
    assert.notEqual(to('ab').id, to('a', 'b').id);
  });

  test('the channel of a draft is persistent unless it says otherwise', () => {
    assert.equal(isPersistent(settle({})), true);
    assert.equal(isPersistent(settle({ header: { noPersist: 1, redDot: 0, syncOnce: 0 } })), false);
  });
});
