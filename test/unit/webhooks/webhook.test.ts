import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  breakDelayMs,
  classifyStatus,
  countMessages,
  cutToBytes,
  parseRetryAfterMs,
  planDelivery,
  type QueuedChange,
  retryDelayMs,
  retrySchedule,
  takeFirst,
} from '../../../src/webhooks/webhook.ts';

describe('decisions of webhook delivery', () => {
  test('a status code means success, retry or gone; legacy receivers succeed with 200 only', () => {
    const rows = [
      [200, 'done', 'done'],
      [204, 'done', 'retry'],
      [302, 'retry', 'retry'],
      [400, 'retry', 'retry'],
      [410, 'gone', 'gone'],
      [500, 'retry', 'retry'],
    ] as const;
    for (const [status, standard, legacy] of rows) {
      assert.equal(classifyStatus('standard', status), standard);
      assert.equal(classifyStatus('legacy', status), legacy);
    }
  });

  test('retry delays grow fourfold from 1 s to 1 h over five hours, and Retry-After is a minimum', () => {
    const delays = Array.from({ length: retrySchedule.maxAttempts - 1 }, (_, index) => retryDelayMs(index + 1, 0, 0.5));
    assert.deepEqual(delays.slice(0, 4), [1000, 4000, 16_000, 64_000]);
    assert.equal(delays.at(-1), 3600_000);
    const hours = delays.reduce((sum, each) => sum + each, 0) / 3600_000;
    assert.ok(hours > 5 && hours < 6, `${hours} hours`);
    assert.deepEqual([retryDelayMs(1, 0, 0), retryDelayMs(1, 0, 1)], [750, 1250]);
    assert.equal(retryDelayMs(1, 9000, 0.5), 9000);
    assert.equal(retryDelayMs(1, 1e12, 0.5), retrySchedule.maxMs, 'Retry-After has a maximum');
    assert.deepEqual(
      [4, 5, 6, 7, 99].map((failures) => breakDelayMs(failures)),
      [0, 1000, 2000, 4000, 60_000],
    );
  });

  test('a Retry-After header is parsed as seconds or a date, and ignored otherwise', () => {
    const now = Date.parse('2026-01-01T00:00:00Z');
    assert.equal(parseRetryAfterMs(undefined, now), 0);
    assert.equal(parseRetryAfterMs(' 7 ', now), 7000);
    assert.equal(parseRetryAfterMs('Thu, 01 Jan 2026 00:00:05 GMT', now), 5000);
    assert.equal(parseRetryAfterMs('Wed, 31 Dec 2025 00:00:00 GMT', now), 0);
    assert.equal(parseRetryAfterMs('soon', now), 0);
  });

  const ranges = fc
    .array(fc.tuple(fc.integer({ min: 1, max: 1000 }), fc.integer({ min: 1, max: 30 })), {
      minLength: 1,
      maxLength: 12,
    })
    .map((list) =>
      list.map(([firstSeq, count], channelKey) => ({ channelKey, firstSeq, lastSeq: firstSeq + count - 1 })),
    );
  test('a POST takes queued messages from the front, as many as fit, at least one, without gaps', () => {
    fc.assert(
      fc.property(ranges, fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 200 }), (queued, size, bytes) => {
        const all = queued.flatMap(({ channelKey, firstSeq, lastSeq }) =>
          Array.from({ length: lastSeq - firstSeq + 1 }, (_, index) => `${channelKey} ${firstSeq + index}`),
        );
        const expand = (some: typeof queued) =>
          some.flatMap((range) =>
            Array.from({ length: range.lastSeq - range.firstSeq + 1 }, (_, index) => ({
              channelKey: range.channelKey,
              messageSeq: range.firstSeq + index,
              bytes: 10,
            })),
          );
        const taken = takeFirst(queued, size);
        assert.equal(countMessages(taken), Math.min(size, all.length));
        const cut = cutToBytes(taken, expand(taken), bytes);
        assert.equal(cut.messages.length, Math.min(countMessages(taken), Math.max(1, Math.floor(bytes / 10))));
        assert.deepEqual(expand([...cut.ranges]), cut.messages);
        assert.deepEqual(
          cut.messages.map((each) => `${each.channelKey} ${each.messageSeq}`),
          all.slice(0, cut.messages.length),
        );
      }),
    );
  });

  test('planned deliveries tell every message and change once, in the order of each channel', () => {
    const kinds = ['edited', 'recalled'] as const;
    const channel = fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 30 });
    fc.assert(
      fc.property(
        fc.array(channel, { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 1, max: 7 }),
        (channels, count) => {
          // Per channel a history of events: a message, an edit or a recall.
          const histories = channels.map((events) => {
            const changes: QueuedChange[] = [];
            let seq = 0;
            const told = events.map((event) => {
              if (event === 0) return `stored ${++seq}`;
              const kind = kinds[event - 1] ?? 'edited';
              changes.push({ changeNo: changes.length + 1, kind, afterSeq: seq });
              return `${kind} ${changes.length}`;
            });
            return { told, changes, lastSeq: seq };
          });
          const queues = histories.map(() => ({ nextSeq: 1, nextChange: 1, told: [] as string[] }));
          for (;;) {
            const plan = planDelivery(
              histories.map(({ changes, lastSeq }, channelKey) => {
                const { nextSeq, nextChange } = queues[channelKey] as (typeof queues)[number];
                return {
                  channelKey,
                  messages: nextSeq > lastSeq ? undefined : { firstSeq: nextSeq, lastSeq },
                  changes:
                    nextChange > changes.length
                      ? undefined
                      : {
                          firstChange: nextChange,
                          lastChange: changes.length,
                          kept: changes.slice(nextChange - 1, nextChange - 1 + count),
                        },
                };
              }),
              count,
            );
            if (plan === undefined) break;
            assert.ok(countMessages(plan.ranges) <= count && countMessages(plan.ranges) > 0);
            for (const { channelKey, firstSeq, lastSeq } of plan.ranges) {
              const queue = queues[channelKey] as (typeof queues)[number];
              for (let number = firstSeq; number <= lastSeq; number++) queue.told.push(`${plan.kind} ${number}`);
              if (plan.kind === 'stored') queue.nextSeq = lastSeq + 1;
              else queue.nextChange = lastSeq + 1;
            }
          }
          assert.deepEqual(
            queues.map(({ told }) => told),
            histories.map(({ told }) => told),
          );
        },
      ),
    );
  });
});
