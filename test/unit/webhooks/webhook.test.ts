import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  breakDelay,
  countOf,
  firstOf,
  retryAfterMs,
  retryDelay,
  retrySchedule,
  verdictOf,
  withinBytes,
} from '../../../src/webhooks/webhook.ts';

describe('webhooks, decided', () => {
  test('what an answer means', () => {
    const rows = [
      [200, 'done', 'done'],
      [204, 'done', 'retry'],
      [302, 'retry', 'retry'],
      [400, 'retry', 'retry'],
      [410, 'gone', 'gone'],
      [500, 'retry', 'retry'],
    ] as const;
    for (const [status, standard, legacy] of rows) {
      assert.equal(verdictOf('standard', status), standard);
      assert.equal(verdictOf('legacy', status), legacy);
    }
  });

  test('tries: a second, four times as long each, an hour at most, five hours in all; Retry-After is a least', () => {
    const delays = Array.from({ length: retrySchedule.attempts - 1 }, (_, index) => retryDelay(index + 1, 0, 0.5));
    assert.deepEqual(delays.slice(0, 4), [1000, 4000, 16_000, 64_000]);
    assert.equal(delays.at(-1), 3600_000);
    const hours = delays.reduce((sum, each) => sum + each, 0) / 3600_000;
    assert.ok(hours > 5 && hours < 6, `${hours} hours`);
    assert.deepEqual([retryDelay(1, 0, 0), retryDelay(1, 0, 1)], [750, 1250]);
    assert.equal(retryDelay(1, 9000, 0.5), 9000);
    assert.equal(retryDelay(1, 1e12, 0.5), retrySchedule.longestMs, 'a receiver cannot ask for for ever');
    assert.deepEqual(
      [4, 5, 6, 7, 99].map((failures) => breakDelay(failures)),
      [0, 1000, 2000, 4000, 60_000],
    );
  });

  test('Retry-After', () => {
    const now = Date.parse('2026-01-01T00:00:00Z');
    assert.equal(retryAfterMs(undefined, now), 0);
    assert.equal(retryAfterMs(' 7 ', now), 7000);
    assert.equal(retryAfterMs('Thu, 01 Jan 2026 00:00:05 GMT', now), 5000);
    assert.equal(retryAfterMs('Wed, 31 Dec 2025 00:00:00 GMT', now), 0);
    assert.equal(retryAfterMs('soon', now), 0);
  });

  const ranges = fc
    .array(fc.tuple(fc.integer({ min: 1, max: 1000 }), fc.integer({ min: 1, max: 30 })), {
      minLength: 1,
      maxLength: 12,
    })
    .map((list) =>
      list.map(([firstSeq, count], channelKey) => ({ channelKey, firstSeq, lastSeq: firstSeq + count - 1 })),
    );
  test('a batch is a beginning of what is queued: as many as fit, at least one, none left out', () => {
    fc.assert(
      fc.property(ranges, fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 200 }), (queued, size, bytes) => {
        const all = queued.flatMap(({ channelKey, firstSeq, lastSeq }) =>
          Array.from({ length: lastSeq - firstSeq + 1 }, (_, index) => `${channelKey} ${firstSeq + index}`),
        );
        const spelled = (some: typeof queued) =>
          some.flatMap((range) =>
            Array.from({ length: range.lastSeq - range.firstSeq + 1 }, (_, index) => ({
              channelKey: range.channelKey,
              messageSeq: range.firstSeq + index,
              bytes: 10,
            })),
          );
        const taken = firstOf(queued, size);
        assert.equal(countOf(taken), Math.min(size, all.length));
        const cut = withinBytes(taken, spelled(taken), bytes);
        assert.equal(cut.messages.length, Math.min(countOf(taken), Math.max(1, Math.floor(bytes / 10))));
        assert.deepEqual(spelled([...cut.ranges]), cut.messages);
        assert.deepEqual(
          cut.messages.map((each) => `${each.channelKey} ${each.messageSeq}`),
          all.slice(0, cut.messages.length),
        );
      }),
    );
  });
});
