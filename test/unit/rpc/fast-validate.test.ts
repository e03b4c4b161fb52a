import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { HeaderSchema, MessageDraftSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  ExpectedLastSeqSchema,
  type SendBatchRequest,
  SendBatchRequestSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../../src/limits.ts';
import { isDefinitelyValid } from '../../../src/rpc/fast-validate.ts';
import { checkRules } from '../../../src/rpc/interceptors/validate.ts';
import { seedOf } from '../../support/seed.ts';

/**
 * Texts around the rules: empty, reserved characters, and lengths at the limit, in characters of
 * one to four bytes.
 */
const textOf = (bytes: number) =>
  fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom('u1', 'u2', 'group', 'u1@u2', 'u2@u1') },
    {
      weight: 2,
      arbitrary: fc.constantFrom('', '@', '@u1', 'u1@', 'u1@u1', 'u1@u2@u3', 'a#b', 'a&b', 'a\0b', 'a\nb@c', '\n'),
    },
    { weight: 2, arbitrary: fc.string({ unit: fc.constantFrom('a', '@', '#', '&', 'é', '\n', '消'), maxLength: 6 }) },
    {
      weight: 1,
      arbitrary: fc
        .tuple(fc.constantFrom('a', 'é', '消', '🚀'), fc.integer({ min: -2, max: 2 }))
        .map(([unit, more]) => unit.repeat(Math.max(0, Math.floor(bytes / Buffer.byteLength(unit)) + more))),
    },
  );
const flag = fc.oneof({ weight: 9, arbitrary: fc.constantFrom(0, 1) }, { weight: 1, arbitrary: fc.constant(2) });
const header = fc.option(
  fc.record({ noPersist: flag, redDot: flag, syncOnce: flag }).map((flags) => create(HeaderSchema, flags)),
  { nil: undefined },
);
const sizes = (limit: number) =>
  fc.oneof(
    { weight: 8, arbitrary: fc.nat({ max: 3 }) },
    { weight: 1, arbitrary: fc.integer({ min: limit - 1, max: limit + 1 }) },
  );
const payload = fc
  .oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 3 }) }, { weight: 1, arbitrary: sizes(limits.payloadBytes) })
  .map((length) => new Uint8Array(length));
const draft = fc
  .record({
    header,
    clientMsgNo: textOf(limits.clientMsgNoBytes),
    fromUid: fc.oneof(
      { weight: 5, arbitrary: fc.constantFrom('u1', 'u2') },
      { weight: 2, arbitrary: textOf(limits.idBytes) },
    ),
    channelId: textOf(limits.idBytes),
    channelType: fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: 0, max: 12 }) },
      { weight: 1, arbitrary: fc.constantFrom(-1, 13) },
    ),
    payload,
    subscribers: fc.oneof(
      { weight: 5, arbitrary: fc.constant([]) },
      { weight: 2, arbitrary: fc.array(textOf(limits.idBytes), { maxLength: 3 }) },
    ),
    streamNo: fc.oneof({ weight: 5, arbitrary: fc.constant('') }, { weight: 1, arbitrary: textOf(128) }),
    tagKey: fc.oneof({ weight: 5, arbitrary: fc.constant('') }, { weight: 1, arbitrary: textOf(128) }),
  })
  .map((fields) => create(MessageDraftSchema, fields as MessageInitShape<typeof MessageDraftSchema>));
const request = fc
  .record({
    messages: fc.array(draft, { maxLength: 2 }),
    mode: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(0, 1, 2) }, { weight: 1, arbitrary: fc.constant(3) }),
    requestId: fc.oneof(
      { weight: 5, arbitrary: fc.constant('') },
      { weight: 1, arbitrary: textOf(limits.requestIdBytes) },
    ),
  })
  .map((fields) => create(SendBatchRequestSchema, fields as MessageInitShape<typeof SendBatchRequestSchema>));

const obeys = (batch: SendBatchRequest) => checkRules(SendBatchRequestSchema, batch) === undefined;

describe('fast validation', () => {
  test('fast validation passes exactly the batches that the rules of the proto pass', (context) => {
    const passed = [0, 0];
    fc.assert(
      fc.property(request, (batch) => {
        const valid = obeys(batch);
        assert.equal(isDefinitelyValid(batch), valid);
        passed[valid ? 1 : 0] = (passed[valid ? 1 : 0] ?? 0) + 1;
      }),
      { seed: seedOf(context), numRuns: 5000 },
    );
    context.diagnostic(`${passed[1]} valid, ${passed[0]} not`);
    assert.ok(
      passed.every((count) => count > 200),
      'the generated batches were too similar to prove anything',
    );
  });

  const one = create(MessageDraftSchema, { fromUid: 'u', channelId: 'g', channelType: 2, payload: new Uint8Array(1) });
  for (const count of [0, 1, limits.batchMessages, limits.batchMessages + 1]) {
    test(`fast validation agrees with the rules on a batch of ${count} messages`, () => {
      const batch = create(SendBatchRequestSchema, { messages: Array.from({ length: count }, () => one) });
      assert.equal(isDefinitelyValid(batch), obeys(batch));
    });
  }
  for (const count of [limits.messageSubscribers, limits.messageSubscribers + 1]) {
    test(`fast validation agrees with the rules on ${count} subscribers of one message`, () => {
      const subscribers = Array.from({ length: count }, (_, index) => `u${index}`);
      const batch = create(SendBatchRequestSchema, { messages: [{ ...one, subscribers }] });
      assert.equal(isDefinitelyValid(batch), obeys(batch));
    });
  }

  test('fast validation leaves batches with conditions to the rules', () => {
    const expectedLastSeqs = [create(ExpectedLastSeqSchema, { channelId: 'g', channelType: 2 })];
    assert.equal(isDefinitelyValid(create(SendBatchRequestSchema, { messages: [one], expectedLastSeqs })), false);
  });
});
