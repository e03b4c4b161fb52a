import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  type BatchDraft,
  type BatchResult,
  countResults,
  cutChunks,
  decodeDrafts,
  isRetryable,
  nextRetryDelayMs,
  type ScheduledDraft,
  toResult,
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
const scheduled = (index: number, dueAt = 0, more: Partial<BatchDraft> = {}): ScheduledDraft => ({
  index,
  dueAt,
  draft: { ...plain, ...more },
});
const indexesOf = (text: string) => decodeDrafts(text, 'p').map((each) => each.index);

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
  test('chunks hold every message once, in order of due time and then of the batch, and never early', (context) => {
    fc.assert(
      fc.property(fc.array(fc.nat(5000), { minLength: 1, maxLength: 300 }), (times) => {
        const placed = times.map((dueAt, index) => scheduled(index, dueAt));
        const chunks = cutChunks(placed, 1000);
        const all = chunks.flatMap((chunk) => indexesOf(chunk.drafts).map((index) => ({ index, at: chunk.dueAt })));
        assert.deepEqual(
          all.map((each) => each.index),
          [...times.keys()].sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0) || a - b),
        );
        for (const { index, at } of all) {
          const wanted = times[index] ?? 0;
          assert.ok(at >= wanted && at < wanted + 1000, `message ${index}, due at ${wanted}, is sent at ${at}`);
          assert.ok(wanted > 1000 || at <= 1000, `message ${index} is due now and waits until ${at}`);
        }
      }),
      { seed: seedOf(context) },
    );
  });

  test('a chunk holds at most limits.batchMessages messages and limits.chunkChars characters', () => {
    const many = cutChunks(
      Array.from({ length: 2500 }, (_, index) => scheduled(index)),
      0,
    );
    assert.deepEqual(
      many.map((each) => indexesOf(each.drafts).length),
      [1000, 1000, 500],
    );
    const payload = new Uint8Array(limits.payloadBytes);
    const large = cutChunks(
      Array.from({ length: 200 }, (_, index) => scheduled(index, 0, { payload })),
      0,
    );
    for (const { drafts: text } of large) assert.ok(text.length <= limits.chunkChars + 300, `${text.length}`);
    assert.equal(large.flatMap((each) => indexesOf(each.drafts)).length, 200);
  });

  test('a chunk decodes to the encoded messages, bit for bit, under the same key in every attempt', (context) => {
    fc.assert(
      fc.property(fc.array(drafts, { minLength: 1, maxLength: 5 }), (list) => {
        const [chunk] = cutChunks(
          list.map((draft, index) => ({ index, dueAt: 0, draft })),
          0,
        );
        for (const { index, hasOwnKey, draft } of decodeDrafts(chunk?.drafts ?? '', 'prefix')) {
          const original = list[index] as BatchDraft;
          const key = original.clientMsgNo || `prefix:${index}`;
          assert.equal(hasOwnKey, original.clientMsgNo !== '');
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
  const placed = { index: 3, hasOwnKey: false, draft: { ...plain, clientMsgNo: 'k' } };
  const stored = { kind: 'duplicate', message, messageId: 7, messageSeq: 2 } as const;
  const busy: Refusal = { reason: 'STORE_BUSY', message: 'busy', metadata: {}, retryAfterMs: 5000 };

  test('a duplicate of an earlier attempt is the batch’s own message, unless its key is the caller’s', () => {
    assert.equal(toResult(placed, stored, false).duplicate, true);
    assert.equal(toResult(placed, stored, true).duplicate, false);
    assert.equal(toResult({ ...placed, hasOwnKey: true }, stored, true).duplicate, true);
    assert.deepEqual(toResult(placed, { ...stored, kind: 'accepted' }, false), {
      index: 3,
      clientMsgNo: 'k',
      messageId: 7,
      messageSeq: 2,
      duplicate: false,
    });
    assert.deepEqual(toResult(placed, busy, true).refusal, busy);
    assert.equal(toResult(placed, { ...stored, kind: 'accepted' }, false, 9).channelKey, 9);
  });

  test('results of a batch are counted by outcome', () => {
    const list: BatchResult[] = [
      toResult(placed, stored, false),
      toResult(placed, busy, false),
      toResult(placed, { ...stored, kind: 'accepted' }, false),
      toResult(placed, { ...stored, kind: 'accepted' }, false),
    ];
    assert.deepEqual(countResults(list), { accepted: 2, duplicates: 1, refused: 1 });
    assert.deepEqual(list.map(isRetryable), [false, true, false, false]);
  });

  test('a retryable refusal is retried after its delay, with growing back-off, for a day', () => {
    const at = (attempts: number, now = 0) =>
      nextRetryDelayMs([{ ...toResult(placed, busy, false), triedAt: now }], { attempts, stalledSince: 0, now });
    assert.deepEqual([at(0), at(3), at(4), at(5), at(7), at(100)], [5000, 5000, 8000, 16_000, 60_000, 60_000]);
    assert.equal(nextRetryDelayMs([], { attempts: 0, stalledSince: 0, now: 10 }), 500);
    assert.equal(at(0, 24 * 3600_000 - 1), 5000);
    assert.equal(at(0, 24 * 3600_000), undefined);
  });

  test('an internal error of single messages is retried ten times, one of a whole chunk for a day', () => {
    const defect = { reason: 'INTERNAL' as const, message: '', metadata: {}, retryAfterMs: 1000 };
    const at = (attempts: number, hasOtherResults: boolean, refusal = defect as typeof busy | typeof defect) =>
      nextRetryDelayMs([toResult(placed, refusal, false)], {
        attempts,
        stalledSince: 0,
        now: 0,
        hasOtherResults,
      });
    assert.deepEqual([at(8, true), at(9, true), at(100, false)], [60_000, undefined, 60_000]);
    assert.equal(at(100, true, busy), 60_000);
  });
});
