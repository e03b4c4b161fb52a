import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  type BatchDraft,
  type BatchResult,
  countResults,
  cutChunks,
  draftsOf,
  isRetryable,
  nextTryIn,
  type Placed,
  resultOf,
} from '../../../src/batches/batch.ts';
import { limits } from '../../../src/limits.ts';
import { prepareMessage } from '../../../src/messages/message.ts';
import type { Refusal } from '../../../src/messages/service-error.ts';
import { seedOf } from '../../support/seed.ts';

const plain: BatchDraft = {
  clientMsgNo: '',
  fromUid: 'u1',
  channelId: 'c',
  channelType: 2,
  expire: 0,
  payload: new Uint8Array([1]),
  subscribers: [],
  streamNo: '',
  tagKey: '',
};
const place = (index: number, dueAt = 0, more: Partial<BatchDraft> = {}): Placed => ({
  index,
  dueAt,
  draft: { ...plain, ...more },
});
const indexesOf = (text: string) => draftsOf(text, 'p').map((each) => each.index);

const drafts: fc.Arbitrary<BatchDraft> = fc.record({
  header: fc.option(fc.record({ noPersist: fc.nat(1), redDot: fc.nat(1), syncOnce: fc.nat(1) }), { nil: undefined }),
  clientMsgNo: fc.string({ unit: 'grapheme', maxLength: 5 }),
  fromUid: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 5 }),
  channelId: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 5 }),
  channelType: fc.integer({ min: 2, max: 12 }),
  expire: fc.nat(),
  payload: fc.uint8Array({ maxLength: 40 }),
  subscribers: fc.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 5 }), { maxLength: 3 }),
  streamNo: fc.string({ unit: 'grapheme', maxLength: 5 }),
  tagKey: fc.string({ unit: 'grapheme', maxLength: 5 }),
});

describe('chunks of a batch', () => {
  test('hold every message once, in order of time and then of the batch, each not before it is due', (context) => {
    fc.assert(
      fc.property(fc.array(fc.nat(5000), { minLength: 1, maxLength: 300 }), (times) => {
        const placed = times.map((dueAt, index) => place(index, dueAt));
        const chunks = cutChunks(placed, 1000);
        const all = chunks.flatMap((chunk) => indexesOf(chunk.drafts).map((index) => ({ index, at: chunk.dueAt })));
        assert.deepEqual(
          all.map((each) => each.index),
          [...times.keys()].sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0) || a - b),
        );
        for (const { index, at } of all) {
          const wanted = times[index] ?? 0;
          assert.ok(at >= wanted && at < wanted + 1000, `message ${index}, due at ${wanted}, goes at ${at}`);
          assert.ok(wanted > 1000 || at <= 1000, `message ${index} is due now and waits for others until ${at}`);
        }
      }),
      { seed: seedOf(context) },
    );
  });

  test('are no larger than a batch, and than a chunk may be', () => {
    const many = cutChunks(
      Array.from({ length: 2500 }, (_, index) => place(index)),
      0,
    );
    assert.deepEqual(
      many.map((each) => indexesOf(each.drafts).length),
      [1000, 1000, 500],
    );
    const payload = new Uint8Array(limits.payloadBytes);
    const large = cutChunks(
      Array.from({ length: 200 }, (_, index) => place(index, 0, { payload })),
      0,
    );
    for (const { drafts: text } of large) assert.ok(text.length <= limits.chunkChars + 300, `${text.length}`);
    assert.equal(large.flatMap((each) => indexesOf(each.drafts)).length, 200);
  });

  test('give back what went in: the same message to the bit, under the same key at every try', (context) => {
    fc.assert(
      fc.property(fc.array(drafts, { minLength: 1, maxLength: 5 }), (list) => {
        const [chunk] = cutChunks(
          list.map((draft, index) => ({ index, dueAt: 0, draft })),
          0,
        );
        for (const { index, ownKey, draft } of draftsOf(chunk?.drafts ?? '', 'prefix')) {
          const original = list[index] as BatchDraft;
          const key = original.clientMsgNo || `prefix:${index}`;
          assert.equal(ownKey, original.clientMsgNo !== '');
          const comparable = (each: BatchDraft) => {
            const { payload, ...rest } = prepareMessage(each, key);
            return { ...rest, payload: Buffer.from(payload).toString('hex') };
          };
          assert.deepEqual(comparable(draft), comparable(original));
          assert.equal(draft.clientMsgNo, key);
        }
      }),
      { seed: seedOf(context) },
    );
  });
});

describe('results of a batch', () => {
  const message = prepareMessage(plain, 'k');
  const placed = { index: 3, ownKey: false, draft: { ...plain, clientMsgNo: 'k' } };
  const stored = { kind: 'duplicate', message, messageId: 7, messageSeq: 2 } as const;
  const busy: Refusal = { reason: 'STORE_BUSY', message: 'busy', metadata: {}, retryAfterMs: 5000 };

  test('a message that an earlier try has stored is the batch’s own, unless its key is the caller’s', () => {
    assert.equal(resultOf(placed, stored, false).duplicate, true);
    assert.equal(resultOf(placed, stored, true).duplicate, false);
    assert.equal(resultOf({ ...placed, ownKey: true }, stored, true).duplicate, true);
    assert.deepEqual(resultOf(placed, { ...stored, kind: 'accepted' }, false), {
      index: 3,
      clientMsgNo: 'k',
      messageId: 7,
      messageSeq: 2,
      duplicate: false,
    });
    assert.deepEqual(resultOf(placed, busy, true).refusal, busy);
  });

  test('are counted', () => {
    const list: BatchResult[] = [
      resultOf(placed, stored, false),
      resultOf(placed, busy, false),
      resultOf(placed, { ...stored, kind: 'accepted' }, false),
      resultOf(placed, { ...stored, kind: 'accepted' }, false),
    ];
    assert.deepEqual(countResults(list), { accepted: 2, duplicate: 1, refused: 1 });
    assert.deepEqual(list.map(isRetryable), [false, true, false, false]);
  });

  test('what is refused for now is tried after what it asks for, at growing pauses, for a day', () => {
    const at = (attempts: number, now = 0) =>
      nextTryIn([{ ...resultOf(placed, busy, false), triedAt: now }], { attempts, stalledSince: 0, now });
    assert.deepEqual([at(0), at(3), at(4), at(5), at(7), at(100)], [5000, 5000, 8000, 16_000, 60_000, 60_000]);
    assert.equal(nextTryIn([], { attempts: 0, stalledSince: 0, now: 10 }), 500);
    assert.equal(at(0, 24 * 3600_000 - 1), 5000);
    assert.equal(at(0, 24 * 3600_000), undefined);
  });

  test('a defect of one message alone is tried ten times, one of all of them for a day', () => {
    const defect = { reason: 'INTERNAL' as const, message: '', metadata: {}, retryAfterMs: 1000 };
    const at = (attempts: number, others: boolean, refusal = defect as typeof busy | typeof defect) =>
      nextTryIn([resultOf(placed, refusal, false)], { attempts, stalledSince: 0, now: 0, others });
    assert.deepEqual([at(8, true), at(9, true), at(100, false)], [60_000, undefined, 60_000]);
    assert.equal(at(100, true, busy), 60_000);
  });
});
