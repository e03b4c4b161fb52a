import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Draft, prepare } from '../../src/domain/message.ts';
import {
  assume,
  forbidden,
  type PairFacts,
  type PermissionRules,
  pairKeyOf,
  pairOf,
} from '../../src/domain/permission.ts';

const nothing: PairFacts = {
  isMade: false,
  isBanned: false,
  isDisbanded: false,
  isMember: false,
  isDenied: false,
  isAllowed: false,
  hasAllowlist: false,
  isSenderBanned: false,
  allowsStrangers: false,
  isSystemSender: false,
  isSystemReceiver: false,
};
const message = (fromUid: string, channelType: number, channelId: string, more: Partial<Draft> = {}) =>
  prepare(
    {
      clientMsgNo: '1',
      fromUid,
      channelId,
      channelType,
      expire: 0,
      payload: Buffer.from('x'),
      subscribers: [],
      streamNo: '',
      tagKey: '',
      ...more,
    },
    '1',
  );
const rules: PermissionRules = {
  systemUids: new Set(['system']),
  systemReaders: new Set(['system']),
  enforcePersonAllowlist: false,
};
const strict: PermissionRules = { ...rules, enforcePersonAllowlist: true };
const made = { isMade: true };
const member = { isMade: true, isMember: true };
const command = { header: { noPersist: 0, redDot: 0, syncOnce: 1 } };

/** Sender, type, channel, facts, what is said. `strict` enforces the allowlists of persons. */
const rows: [string, number, string, Partial<PairFacts>, string | undefined, PermissionRules?][] = [
  // Person: by the receiver's lists.
  ['u1', 1, 'u2', {}, undefined],
  ['u1', 1, 'u2', { isDenied: true }, 'IN_DENYLIST'],
  ['u1', 1, 'u2', { isSenderBanned: true }, 'SENDER_BANNED'],
  ['u1', 1, 'u2', { isSenderBanned: true, isDenied: true }, 'SENDER_BANNED'],
  ['u1', 1, 'system', { isDenied: true }, undefined],
  ['u1', 1, 'u2', { isSystemReceiver: true, isDenied: true }, undefined],
  ['system', 1, 'u2', { isDenied: true, isSenderBanned: true }, undefined],
  ['u1', 1, 'u2', { isSystemSender: true, isDenied: true }, undefined],
  ['u1', 1, 'u2', {}, 'NOT_IN_ALLOWLIST', strict],
  ['u1', 1, 'u2', { isAllowed: true }, undefined, strict],
  ['u1', 1, 'u2', { allowsStrangers: true }, undefined, strict],
  ['u1', 1, 'u2', { allowsStrangers: true, isDenied: true }, 'IN_DENYLIST', strict],
  // Every type with members.
  ...[2, 4, 5, 7, 8, 9, 10, 12].flatMap((type): typeof rows => {
    const id = type === 5 ? 'a@b' : 'a';
    return [
      ['u1', type, id, {}, 'CHANNEL_NOT_EXIST'],
      ['u1', type, id, made, 'NOT_SUBSCRIBER'],
      ['u1', type, id, member, undefined],
      ['u1', type, id, { ...member, isDenied: true }, 'IN_DENYLIST'],
      ['u1', type, id, { ...made, isDenied: true }, 'IN_DENYLIST'],
      ['u1', type, id, { ...member, hasAllowlist: true }, 'NOT_IN_ALLOWLIST'],
      ['u1', type, id, { ...member, hasAllowlist: true, isAllowed: true }, undefined],
      ['u1', type, id, { ...made, hasAllowlist: true, isAllowed: true }, 'NOT_SUBSCRIBER'],
      ['u1', type, id, { ...member, isBanned: true }, 'CHANNEL_BANNED'],
      ['u1', type, id, { ...member, isBanned: true, isDisbanded: true }, 'CHANNEL_DISBANDED'],
      ['u1', type, id, { ...member, isSenderBanned: true }, 'SENDER_BANNED'],
      ['u1', type, id, { isSystemSender: true }, undefined],
      ['system', type, id, { ...made, isBanned: true, isDenied: true, hasAllowlist: true }, undefined],
      ['system', type, id, { ...made, isDisbanded: true }, 'CHANNEL_DISBANDED'],
    ];
  }),
  // Open to all, but not when disbanded.
  ...[3, 6].flatMap((type): typeof rows => [
    ['u1', type, 'a', { isDenied: true, isSenderBanned: true, isBanned: true }, undefined],
    ['u1', type, 'a', { isDisbanded: true }, 'CHANNEL_DISBANDED'],
  ]),
  // An agent's channel: its two sides. A visitor: its own.
  ['u1', 11, 'u1@bot', {}, undefined],
  ['bot', 11, 'u1@bot', {}, undefined],
  ['u2', 11, 'u1@bot', member, 'NOT_ALLOWED'],
  ['u1', 11, 'u1@bot', { isSenderBanned: true }, 'SENDER_BANNED'],
  ['v1', 10, 'v1', {}, undefined],
];

describe('who may send', () => {
  for (const [sender, type, id, facts, expected, by = rules] of rows) {
    const given = Object.keys(facts).join(' ') || 'nothing known';
    test(`${sender} to ${type}/${id}, ${given}${by === strict ? ', allowlists enforced' : ''}: ${expected ?? 'may'}`, () => {
      for (const more of [{}, command]) {
        const sent = message(sender, type, id, more);
        const refusal = forbidden(pairOf(sent), { ...nothing, ...facts }, by);
        assert.equal(refusal?.reason, expected);
        // What is assumed must never let through what is forbidden: here without lists, members and bans.
        const assumption = assume([sent], by);
        const holds =
          assumption !== undefined &&
          (assumption.openChannels.length === 0 || !(facts.isDisbanded || facts.isBanned)) &&
          (assumption.senders.length === 0 || !facts.isSenderBanned) &&
          (assumption.members.length === 0 ||
            Boolean(facts.isMember && !facts.isDenied && (!facts.hasAllowlist || facts.isAllowed))) &&
          (assumption.peers.length === 0 || !facts.isDenied);
        if (holds) assert.equal(refusal, undefined, 'assumed, and forbidden');
      }
    });
  }

  test('a command that names its receivers needs no channel, and a ban holds for it', () => {
    const sent = message('u1', 0, '', { ...command, subscribers: ['a', 'b'] });
    assert.equal(forbidden(pairOf(sent), nothing, rules), undefined);
    assert.equal(forbidden(pairOf(sent), { ...nothing, isSenderBanned: true }, rules)?.reason, 'SENDER_BANNED');
  });

  test('says the number that legacy callers know the reason by', () => {
    const refusal = forbidden(pairOf(message('u1', 2, 'a')), { ...nothing, isMade: true }, rules);
    assert.deepEqual(refusal?.metadata, { channel_id: 'a', channel_type: '2', from_uid: 'u1', reason_code: '3' });
  });
});

describe('a pair', () => {
  test('is one for a message and a command, and another for another sender, type or channel', () => {
    const keys = [
      message('u1', 2, 'a'),
      message('u2', 2, 'a'),
      message('u1', 4, 'a'),
      message('u1', 2, 'b'),
      message('u1\n2', 2, '\na'),
    ].map(pairKeyOf);
    assert.equal(new Set(keys).size, keys.length);
    assert.equal(pairKeyOf(message('u1', 2, 'a', command)), keys[0]);
  });
});
