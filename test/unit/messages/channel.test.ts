import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { canonicalId, pairId, peerOf } from '../../../src/messages/channel.ts';
import { seedOf } from '../../support/seed.ts';

describe('the canonical id of a person channel', () => {
  // Computed by the legacy servers' own rule, which clients with such ids rely on.
  for (const [a, b, id] of [
    ['u1', 'u2', 'u2@u1'],
    ['alice', 'user_a', 'alice@user_a'],
    ['system', 'u1001', 'system@u1001'],
    ['100', '200', '100@200'],
    ['userA', 'userB', 'userA@userB'],
  ] as const) {
    test(`the person channel of ${a} and ${b} is ${id} in both directions`, () => {
      assert.equal(pairId(a, b), id);
      assert.equal(pairId(b, a), id);
      assert.equal(canonicalId(1, `${a}@${b}`), id);
      assert.equal(canonicalId(1, `${b}@${a}`), id);
    });
  }

  test('of two uids with the same CRC32, the lexicographically larger is first', () => {
    // A well-known collision of CRC32-IEEE.
    assert.equal(crc32('plumless'), crc32('buckeroo'));
    assert.equal(pairId('buckeroo', 'plumless'), 'plumless@buckeroo');
    assert.equal(pairId('plumless', 'buckeroo'), 'plumless@buckeroo');
  });

  test('the person channel with oneself repeats the uid', () => assert.equal(pairId('u1', 'u1'), 'u1@u1'));

  const uid = fc.string({ minLength: 1, unit: 'grapheme' }).filter((text) => !text.includes('@'));
  test('the person channel of any two uids is the same in both directions and contains both', (context) => {
    fc.assert(
      fc.property(uid, uid, (a, b) => {
        const id = pairId(a, b);
        assert.equal(id, pairId(b, a));
        assert.deepEqual(id.split('@').sort(), [a, b].sort());
        assert.equal(peerOf(a, id), b);
        assert.equal(peerOf(b, id), a);
      }),
      { seed: seedOf(context) },
    );
  });
});

describe('a channel named without a sender', () => {
  for (const [type, id, canonical] of [
    [2, 'group123', 'group123'],
    [5, 'community@topic', 'community@topic'],
    [1, 'u1', undefined],
    [1, 'u1@', undefined],
    [1, '@u1', undefined],
    [1, 'u1@u2@u3', undefined],
  ] as const) {
    test(`the canonical id of type ${type}, ${id} is: ${canonical ?? 'not a channel'}`, () =>
      assert.equal(canonicalId(type, id), canonical));
  }
});
