import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { account, type Evidence } from '../../chaos/accounting.ts';

/** Two writers, one shared channel of four messages, and a command. */
const sound = {
  stored: [1, 2, 3, 4].map((seq) => ({
    channelId: 'c',
    isCommand: false,
    messageSeq: seq,
    messageId: seq + 10,
    key: `k${seq}`,
  })),
  acknowledged: [1, 2, 3, 4].map((seq) => ({
    writer: seq % 2 === 0 ? 'a' : 'b',
    channelId: 'c',
    key: `k${seq}`,
    messageSeq: seq,
    messageId: seq + 10,
    isFirst: true,
  })),
  attempted: new Set(['k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'command']),
  submitted: ['k4'],
  abandoned: [
    ['k1', 'k2'],
    ['k5', 'k6'],
  ],
  tails: [{ name: 'tail', channelId: 'c', seqs: [1, 2, 3, 4], repeats: 0 }],
  webhooks: [{ name: 'webhook', channelId: 'c', seqs: [1, 2, 3, 4], repeats: 3 }],
  commands: new Map([[1, 'command']]),
  observed: [],
} satisfies Evidence;
const command = { channelId: 'x', isCommand: true, messageSeq: 1, messageId: 99, key: 'command' };
const evidence: Evidence = { ...sound, stored: [...sound.stored, command] };
const [first, second, third, fourth] = sound.acknowledged;

describe('the accounting of a chaos run', () => {
  test('the accounting of a sound run counts and finds nothing', () => {
    assert.deepEqual(account(evidence), { acknowledged: 4, stored: 5, violations: [] });
  });

  const damages: [string, Partial<Evidence>, RegExp[]][] = [
    [
      'a stored row is deleted',
      { stored: evidence.stored.filter(({ key }) => key !== 'k3') },
      [/^1 acknowledged messages are lost/, /have gaps/, /stored in part|tail/, /webhook/],
    ],
    [
      'an acknowledgement has another number than the store',
      { acknowledged: [first, second, third, { ...fourth, messageId: 7 }] as Evidence['acknowledged'] },
      [/^1 acknowledged messages are lost or have other numbers: k4 as c seq 4/],
    ],
    [
      'a key is stored twice',
      { stored: [...evidence.stored, { ...command, messageSeq: 2, key: 'k1' }] },
      [/^1 messages are stored twice: k1/, /commands were not received: k1/],
    ],
    [
      'something is stored that was never sent',
      {
        attempted: new Set(['k1', 'k2', 'k3', 'k4', 'command']),
        stored: [...evidence.stored, { ...command, key: 'k9', messageSeq: 2 }],
      },
      [/^1 stored messages were never sent: k9/, /commands were not received/],
    ],
    [
      'a message of a submitted batch is lost',
      { submitted: ['k5'] },
      [/^1 messages of submitted batches are lost: k5/],
    ],
    ['an ATOMIC batch is stored in part', { abandoned: [['k1', 'k5']] }, [/ATOMIC batches are stored in part: k1 k5/]],
    [
      'a later batch of a writer has an earlier sequence',
      { acknowledged: [third, first, second, fourth] as Evidence['acknowledged'] },
      [/out of the order of their sender: k1/],
    ],
    [
      'a conditional message does not follow its condition',
      {
        acknowledged: [
          ...sound.acknowledged.slice(0, 3),
          { ...sound.acknowledged[3], expectedLastSeq: 4 },
        ] as Evidence['acknowledged'],
      },
      [/do not follow the sequence that they required: k4/],
    ],
    [
      'a tail skips a message',
      { tails: [{ name: 'tail', channelId: 'c', seqs: [1, 2, 4], repeats: 0 }] },
      [/^1 tail of c is wrong: 3 received, 4 stored/],
    ],
    [
      'a tail repeats a message',
      { tails: [{ name: 'tail', channelId: 'c', seqs: [1, 2, 3, 4], repeats: 1 }] },
      [/^1 tail of c repeats/],
    ],
    [
      'a webhook arrives out of order',
      { webhooks: [{ name: 'webhook', channelId: 'c', seqs: [1, 3, 2, 4], repeats: 0 }] },
      [/^1 webhook of c is wrong/],
    ],
    ['a command does not arrive', { commands: new Map() }, [/commands were not received: command/]],
    [
      'a command arrives under two numbers',
      {
        commands: new Map([
          [1, 'command'],
          [2, 'command'],
        ]),
      },
      [/under two numbers/],
    ],
    ['a caller saw an error', { observed: ['gRPC: INTERNAL'] }, [/observations: gRPC: INTERNAL/]],
  ];
  for (const [what, damage, expected] of damages)
    test(`the accounting of a chaos run reports when ${what}`, () => {
      const { violations } = account({ ...evidence, ...damage });
      for (const pattern of expected) assert.match(violations.join('\n'), new RegExp(pattern, 'm'));
    });
});
