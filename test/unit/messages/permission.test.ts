import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Draft } from '../../../src/messages/message.ts';
import {
  type PairFacts,
  type PermissionRules,
  pairKeyOf,
  pairOf,
  preconditionsFor,
  sendDenial,
} from '../../../src/messages/permission.ts';
import { prepared } from '../../support/prepared.ts';

const nothing: PairFacts = {
  isMade: false,
  isBanned: false,
  isDisbanded: false,
  isMember: false,
  isDenied: false,
  isAllowed: false,
  hasAllowlist: false,
  isSenderBanned: false,
  isSystemSender: false,
  deniedBy: [],
  notAllowedBy: [],
};
const message = (fromUid: string, channelType: number, channelId: string, more: Partial<Draft> = {}) =>
  prepared('1', { fromUid, channelId, channelType, ...more });
const rules: PermissionRules = {
  systemUids: new Set(['system']),
  systemReaders: new Set(['system']),
  enforcePersonAllowlist: false,
};
const strict: PermissionRules = { ...rules, enforcePersonAllowlist: true };
const made = { isMade: true };
const member = { isMade: true, isMember: true };
const command = { header: { noPersist: 0, redDot: 0, syncOnce: 1 } };

/**
 * Sender, type, channel, state and expected denial. `strict` enforces the allowlists of persons.
 */
const rows: [string, number, string, Partial<PairFacts>, string | undefined, PermissionRules?][] = [
  // Person: by the receiver's lists.
  ['u1', 1, 'u2', {}, undefined],
  ['u1', 1, 'u2', { deniedBy: ['u2'] }, 'IN_DENYLIST'],
  ['u1', 1, 'u2', { isSenderBanned: true }, 'SENDER_BANNED'],
  ['u1', 1, 'u2', { isSenderBanned: true, deniedBy: ['u2'] }, 'SENDER_BANNED'],
  ['u1', 1, 'system', { deniedBy: ['system'] }, undefined],
  ['system', 1, 'u2', { deniedBy: ['u2'], isSenderBanned: true }, undefined],
  ['u1', 1, 'u2', { isSystemSender: true, deniedBy: ['u2'] }, undefined],
  ['u1', 1, 'u2', { notAllowedBy: ['u2'] }, undefined],
  ['u1', 1, 'u2', { notAllowedBy: ['u2'] }, 'NOT_IN_ALLOWLIST', strict],
  ['u1', 1, 'system', { notAllowedBy: ['system'] }, undefined, strict],
  ['u1', 1, 'u2', {}, undefined, strict],
  ['u1', 1, 'u2', { deniedBy: ['u2'] }, 'IN_DENYLIST', strict],
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
  // Types without a membership requirement: every ban and list of the channel still applies.
  ...(
    [
      [3, 'a'],
      [6, 'a'],
      [10, 'u1'],
      [11, 'u1@bot'],
    ] as const
  ).flatMap(([type, id]): typeof rows => [
    ['u1', type, id, {}, undefined],
    ['u1', type, id, { isBanned: true }, 'CHANNEL_BANNED'],
    ['u1', type, id, { isDenied: true }, 'IN_DENYLIST'],
    ['u1', type, id, { hasAllowlist: true }, 'NOT_IN_ALLOWLIST'],
    ['u1', type, id, { hasAllowlist: true, isAllowed: true }, undefined],
    ['u1', type, id, { isSenderBanned: true }, 'SENDER_BANNED'],
    ['u1', type, id, { isDisbanded: true }, 'CHANNEL_DISBANDED'],
    ['u1', type, id, { isSystemSender: true, isBanned: true, isDenied: true, hasAllowlist: true }, undefined],
    ['system', type, id, { isBanned: true, isDenied: true, hasAllowlist: true, isSenderBanned: true }, undefined],
    ['system', type, id, { isDisbanded: true }, 'CHANNEL_DISBANDED'],
  ]),
  // An agent's channel: its two parties, each by the other's own lists.
  ['bot', 11, 'u1@bot', {}, undefined],
  ['bot', 11, 'u1@bot', { deniedBy: ['u1'] }, 'IN_DENYLIST'],
  ['bot', 11, 'u1@bot', { notAllowedBy: ['u1'] }, undefined],
  ['bot', 11, 'u1@bot', { notAllowedBy: ['u1'] }, 'NOT_IN_ALLOWLIST', strict],
  ['u2', 11, 'u1@bot', member, 'NOT_ALLOWED'],
  ['u2', 11, 'u1@bot', { ...member, deniedBy: ['u1', 'bot'] }, 'NOT_ALLOWED'],
];

describe('permission to send', () => {
  for (const [sender, type, id, facts, expected, by = rules] of rows) {
    const given = Object.keys(facts).join(' ') || 'nothing known';
    test(`${sender} sends to ${type}/${id}, ${given}${by === strict ? ', allowlists enforced' : ''}: ${expected ?? 'permitted'}`, () => {
      for (const more of [{}, command]) {
        const sent = message(sender, type, id, more);
        const refusal = sendDenial(pairOf(sent), { ...nothing, ...facts }, by);
        assert.equal(refusal?.reason, expected);
        // Preconditions must never permit what is forbidden: here without lists, members and bans.
        const assumption = preconditionsFor([sent], by);
        const holds =
          assumption !== undefined &&
          (assumption.openChannels.length === 0 || !(facts.isDisbanded || facts.isBanned)) &&
          (assumption.senders.length === 0 || !facts.isSenderBanned) &&
          (assumption.members.length === 0 ||
            Boolean(facts.isMember && !facts.isDenied && (!facts.hasAllowlist || facts.isAllowed))) &&
          (assumption.guests.length === 0 || Boolean(!facts.isDenied && (!facts.hasAllowlist || facts.isAllowed))) &&
          !assumption.peers.some(({ owner }) => facts.deniedBy?.includes(owner));
        if (holds) assert.equal(refusal, undefined, 'assumed, and forbidden');
      }
    });
  }

  test('a command that names its receivers needs no channel, and a ban applies to it', () => {
    const sent = message('u1', 0, '', { ...command, subscribers: ['a', 'b'] });
    assert.equal(sendDenial(pairOf(sent), nothing, rules), undefined);
    assert.equal(sendDenial(pairOf(sent), { ...nothing, isSenderBanned: true }, rules)?.reason, 'SENDER_BANNED');
  });

  test('a command that names its receivers is checked against their own lists, and the refusal names them', () => {
    const uids = Array.from({ length: 12 }, (_, index) => `r${index}`);
    const sent = message('u1', 0, '', { ...command, subscribers: [...uids, 'u1', 'system'] });
    assert.ok(!pairOf(sent).receivers.includes('u1'), 'a sender is never its own receiver');
    assert.deepEqual(
      preconditionsFor([sent], rules)?.peers.map(({ owner }) => owner),
      pairOf(sent).receivers.filter((uid) => uid !== 'system'),
    );
    assert.equal(preconditionsFor([sent], strict), undefined);
    const refusal = sendDenial(pairOf(sent), { ...nothing, deniedBy: ['r1', 'r2', 'system'] }, rules);
    assert.deepEqual(
      [refusal?.reason, refusal?.metadata.receivers, refusal?.metadata.count],
      ['IN_DENYLIST', '["r1","r2"]', '2'],
    );
    assert.match(refusal?.message ?? '', /"r1", "r2"; leave them out/);
    const many = sendDenial(pairOf(sent), { ...nothing, notAllowedBy: uids }, strict);
    assert.equal(many?.reason, 'NOT_IN_ALLOWLIST');
    assert.match(many?.message ?? '', /"r9" and 2 more; leave them out/);
    assert.equal(sendDenial(pairOf(sent), { ...nothing, notAllowedBy: uids }, rules), undefined);
  });

  test('an outsider gets the same denial whatever the channel is', () => {
    const veiled = (facts: Partial<PairFacts>) => {
      const refusal = sendDenial(pairOf(message('u1', 2, 'a')), { ...nothing, ...facts }, rules);
      assert.ok(refusal);
      const { forOutsiders: _, ...plain } = refusal.forOutsiders ?? refusal;
      return plain;
    };
    const [first, ...others] = [
      veiled({}),
      veiled(made),
      veiled({ ...made, isBanned: true }),
      veiled({ ...made, isDisbanded: true }),
      veiled({ ...made, isDenied: true }),
      veiled({ ...made, hasAllowlist: true }),
    ];
    assert.equal(first?.reason, 'NOT_SUBSCRIBER');
    for (const other of others) assert.deepEqual(other, first);
    const isSenderBanned = true;
    assert.equal(veiled({ isSenderBanned }).reason, 'SENDER_BANNED');
    assert.deepEqual(veiled({ ...made, isDisbanded: true, isSenderBanned }), veiled({ isSenderBanned }));
    assert.equal(veiled({ ...member, isDisbanded: true }).reason, 'CHANNEL_DISBANDED', 'a member is told the truth');
  });

  test('a denial has the number by which legacy callers know the reason', () => {
    const refusal = sendDenial(pairOf(message('u1', 2, 'a')), { ...nothing, isMade: true }, rules);
    assert.deepEqual(refusal?.metadata, { channel_id: 'a', channel_type: '2', from_uid: 'u1', reason_code: '3' });
  });
});

describe('a permission pair', () => {
  test('a permission pair is the same for messages and commands, and differs by sender, type and channel', () => {
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
