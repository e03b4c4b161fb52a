import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { calmCalls, concurrencyLimit, refusedShare } from '../../../src/overload/concurrency-limit.ts';

const targetMs = 500;
const lookMs = 100;

/**
 * A queue that does 1 ms of work per ms, sampled every 100 ms; `load` is the arriving work as a
 * share of that.
 */
function simulate(seconds: number, loadAt: (second: number) => number) {
  let share = 0;
  let waitMs = 0;
  const samples: { share: number; waitMs: number; done: number }[] = [];
  for (let at = 0; at < seconds * 1000; at += lookMs) {
    const work = waitMs + loadAt(at / 1000) * lookMs * (1 - share);
    const done = Math.min(lookMs, work);
    waitMs = work - done;
    share = refusedShare(waitMs, targetMs);
    samples.push({ share, waitMs, done: done / lookMs });
  }
  return samples;
}
const mean = (numbers: readonly number[]) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

describe('the share of refused calls', () => {
  test('the share of refused calls is 0 in a burst and while all calls are served in time', () => {
    const samples = simulate(60, (second) => (second % 10 < 0.15 ? 2 : 0.9));
    assert.deepEqual(
      samples.filter((sample) => sample.share > 0),
      [],
    );
  });

  for (const load of [1.2, 2, 4, 10]) {
    test(`the share of refused calls at ${load} times the capacity settles where the capacity is used and the wait is the target`, () => {
      const samples = simulate(60, () => load);
      assert.ok(Math.max(...samples.map((sample) => sample.waitMs)) < 3 * targetMs, 'the wait is bounded at all times');
      const settled = samples.slice(-300);
      assert.ok(Math.abs(mean(settled.map((sample) => sample.share)) - (1 - 1 / load)) < 0.05);
      assert.ok(mean(settled.map((sample) => sample.done)) > 0.97, 'what is refused leaves nothing idle');
      assert.ok(Math.abs(mean(settled.map((sample) => sample.waitMs)) - targetMs) < targetMs / 2);
    });
  }

  test('the share of refused calls returns to 0 soon after the load has gone', () => {
    const samples = simulate(20, (second) => (second < 10 ? 3 : 0.5));
    assert.equal(samples[10 * 10 + 20]?.share, 0);
  });

  test('the share of refused calls is 1 when nothing completes any more, and stays between 0 and 1', () => {
    let share = 0;
    for (let waitMs = 0; waitMs < 10_000; waitMs += 100) {
      share = refusedShare(waitMs, targetMs);
      assert.ok(share >= 0 && share <= 1);
    }
    assert.equal(share, 1);
  });
});

describe('the concurrency limit', () => {
  const waitMs = 1000;

  /**
   * A service that completes at most `perSecond` calls per second, one after the other and each in
   * at least `aloneMs`, sampled every 100 ms; `arriveAt` gives the calls that arrive per second.
   * Reports how long the calls that complete now took.
   */
  function simulate(seconds: number, perSecond: number, aloneMs: number, arriveAt: (second: number) => number) {
    const stepMs = 1;
    const queue: number[] = [];
    let ended: { at: number; tookMs: number }[] = [];
    let most = Number.POSITIVE_INFINITY;
    let came = 0;
    let done = 0;
    const samples: { most: number; here: number; tookMs: number; refused: number; endedPerSecond: number }[] = [];
    let refused = 0;
    for (let at = 0; at < seconds * 1000; at += stepMs) {
      for (came += (arriveAt(at / 1000) * stepMs) / 1000; came >= 1; came--) {
        if (queue.length >= most) refused++;
        else queue.push(at);
      }
      done = Math.min(2, done + (perSecond * stepMs) / 1000);
      for (; done >= 1 && queue.length > 0 && at - (queue[0] ?? at) >= aloneMs; done--)
        ended.push({ at, tookMs: at - (queue.shift() ?? at) });
      if (at % 100 !== 0) continue;
      ended = ended.filter((each) => at - each.at <= 1000);
      const now = ended.filter((each) => at - each.at <= 300).map((each) => each.tookMs);
      now.sort((a, b) => a - b);
      const usualMs = now[now.length >> 1] ?? 0;
      most = concurrencyLimit({ usualMs, perSecond: ended.length }, 0, waitMs);
      samples.push({ most, here: queue.length, tookMs: usualMs, refused, endedPerSecond: ended.length });
      refused = 0;
    }
    return samples;
  }
  const mean = (numbers: readonly number[]) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

  for (const aloneMs of [3, 300])
    test(`the concurrency limit is infinite while calls complete as quickly as ever, here after ${aloneMs} ms`, () => {
      const samples = simulate(20, 900, aloneMs, () => 700);
      assert.ok(samples.every((sample) => sample.most === Number.POSITIVE_INFINITY && sample.refused === 0));
    });

  for (const load of [1.5, 2, 5])
    for (const perSecond of [900, 40]) {
      test(`the concurrency limit at ${load} times the ${perSecond} completions per second is what can complete in time`, () => {
        const samples = simulate(20, perSecond, 3, () => load * perSecond).slice(100);
        const longestMs = Math.max(0.75 * waitMs, (calmCalls * 1000) / perSecond);
        assert.ok(Math.abs(mean(samples.map((sample) => sample.tookMs)) - longestMs) < longestMs / 4);
        assert.ok(
          mean(samples.map((sample) => sample.endedPerSecond)) > 0.95 * perSecond,
          'what is refused leaves nothing idle',
        );
      });
    }

  test('the concurrency limit is infinite again soon after the load has gone', () => {
    const samples = simulate(20, 900, 3, (second) => (second < 10 ? 3000 : 400));
    assert.ok(samples.slice(105).every((sample) => sample.refused === 0));
    assert.equal(samples.at(-1)?.most, Number.POSITIVE_INFINITY);
  });

  test('the concurrency limit is small, and not 0, when nothing completes any more', () => {
    assert.equal(concurrencyLimit({ usualMs: Number.POSITIVE_INFINITY, perSecond: 0 }, 0, waitMs), calmCalls);
  });

  test('the concurrency limit is infinite as long as nothing is known', () => {
    assert.equal(concurrencyLimit({ usualMs: 0, perSecond: 0 }, 0, waitMs), Number.POSITIVE_INFINITY);
  });

  test('the concurrency limit leaves out the time that calls wait for the event loop', () => {
    const rate = { usualMs: 400, perSecond: 1000 };
    assert.equal(concurrencyLimit(rate, 0, waitMs), Number.POSITIVE_INFINITY);
    assert.equal(concurrencyLimit(rate, 400, waitMs), 350);
    assert.equal(concurrencyLimit(rate, 5000, waitMs), calmCalls);
  });
});
