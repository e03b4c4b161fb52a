import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { nextShare } from '../../src/domain/shedding.ts';

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
