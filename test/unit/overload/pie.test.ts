import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { concurrencyLimit, fewCalls, nextShare } from '../../../src/overload/pie.ts';

const targetMs = 500;
const lookMs = 100;

/** A queue that does a millisecond's work a millisecond, looked at every 100 ms; `load` is what arrives, as a share of that. */
function simulate(seconds: number, loadAt: (second: number) => number) {
  let share = 0;
  let waitMs = 0;
  let before = 0;
  const looks: { share: number; waitMs: number; done: number }[] = [];
  for (let at = 0; at < seconds * 1000; at += lookMs) {
    const work = waitMs + loadAt(at / 1000) * lookMs * (1 - share);
    const done = Math.min(lookMs, work);
    waitMs = work - done;
    share = nextShare(share, { now: waitMs, before }, targetMs);
    before = waitMs;
    looks.push({ share, waitMs, done: done / lookMs });
  }
  return looks;
}
const mean = (numbers: readonly number[]) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

describe('the share of calls that is refused', () => {
  test('is none while all is done in good time, and in a burst', () => {
    const looks = simulate(60, (second) => (second % 10 < 0.15 ? 2 : 0.9));
    assert.deepEqual(
      looks.filter((look) => look.share > 0),
      [],
    );
  });

  for (const load of [1.2, 2, 4, 10]) {
    test(`settles at ${load} times the capacity where the capacity is used and the wait is the target`, () => {
      const looks = simulate(60, () => load);
      assert.ok(Math.max(...looks.map((look) => look.waitMs)) < 3 * targetMs, 'the wait is bounded at all times');
      const settled = looks.slice(-300);
      assert.ok(Math.abs(mean(settled.map((look) => look.share)) - (1 - 1 / load)) < 0.05);
      assert.ok(mean(settled.map((look) => look.done)) > 0.97, 'what is refused leaves nothing idle');
      assert.ok(Math.abs(mean(settled.map((look) => look.waitMs)) - targetMs) < targetMs / 2);
    });
  }

  test('is none again soon after the load has gone', () => {
    const looks = simulate(20, (second) => (second < 10 ? 3 : 0.5));
    assert.equal(looks[10 * 10 + 20]?.share, 0);
  });

  test('is all when nothing is done any more, and stays between none and all', () => {
    let share = 0;
    for (let waitMs = 0; waitMs < 10_000; waitMs += 100) {
      share = nextShare(share, { now: waitMs, before: waitMs - 100 }, targetMs);
      assert.ok(share >= 0 && share <= 1);
    }
    assert.equal(share, 1);
  });
});

describe('the calls that may be here at once', () => {
  const waitMs = 150;

  /**
   * A service that ends at most `perSecond` calls a second, one after the other and each in `aloneMs` at least, looked at every 100 ms; `arrive` calls come in a second.
   * It tells how long those that end now were here.
   */
  function simulate(seconds: number, perSecond: number, aloneMs: number, arriveAt: (second: number) => number) {
    const stepMs = 1;
    const queue: number[] = [];
    let ended: { at: number; tookMs: number }[] = [];
    let most = Number.POSITIVE_INFINITY;
    let quickestMs = Number.POSITIVE_INFINITY;
    let came = 0;
    let done = 0;
    const looks: { most: number; here: number; tookMs: number; refused: number; endedPerSecond: number }[] = [];
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
      ended = ended.filter((each) => at - each.at <= 500);
      const now = ended.filter((each) => at - each.at <= 300).map((each) => each.tookMs);
      now.sort((a, b) => a - b);
      quickestMs = Math.min(quickestMs, now[0] ?? quickestMs);
      const usualMs = now[now.length >> 1] ?? 0;
      most = concurrencyLimit({ quickestMs, usualMs, perSecond: ended.length * 2 }, waitMs);
      looks.push({ most, here: queue.length, tookMs: usualMs, refused, endedPerSecond: ended.length * 2 });
      refused = 0;
    }
    return looks;
  }
  const mean = (numbers: readonly number[]) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length;

  for (const aloneMs of [3, 300])
    test(`are without bound while they end as soon as ever, be it after ${aloneMs} ms`, () => {
      const looks = simulate(20, 900, aloneMs, () => 700);
      assert.ok(looks.every((look) => look.most === Number.POSITIVE_INFINITY && look.refused === 0));
    });

  for (const load of [1.5, 2, 5])
    for (const perSecond of [900, 40]) {
      test(`at ${load} times the ${perSecond} that end in a second are as many as end in good time`, () => {
        const looks = simulate(20, perSecond, 3, () => load * perSecond).slice(100);
        const longestMs = Math.max(waitMs + 2 * 3, (fewCalls * 1000) / perSecond);
        assert.ok(Math.abs(mean(looks.map((look) => look.tookMs)) - longestMs) < longestMs / 4);
        assert.ok(
          mean(looks.map((look) => look.endedPerSecond)) > 0.95 * perSecond,
          'what is refused leaves nothing idle',
        );
      });
    }

  test('are without bound again soon after the load has gone', () => {
    const looks = simulate(20, 900, 3, (second) => (second < 10 ? 3000 : 400));
    assert.ok(looks.slice(105).every((look) => look.refused === 0));
    assert.equal(looks.at(-1)?.most, Number.POSITIVE_INFINITY);
  });

  test('are few, not none, when nothing ends any more', () => {
    assert.equal(concurrencyLimit({ quickestMs: 3, usualMs: 2000, perSecond: 0 }, waitMs), fewCalls);
  });

  test('are without bound as long as nothing is known', () => {
    const unknown = { quickestMs: Number.POSITIVE_INFINITY, usualMs: 0, perSecond: 0 };
    assert.equal(concurrencyLimit(unknown, waitMs), Number.POSITIVE_INFINITY);
  });
});
