import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { limits } from '../../../src/limits.ts';
import { FairScheduler } from '../../../src/overload/fair-scheduler.ts';

/** Runs `count` steps of `ms` each, and notes each. */
function work(
  scheduler: FairScheduler,
  caller: string,
  { ms, count, log = [] }: { ms: number; count: number; log?: string[] },
) {
  let step = 0;
  return scheduler.run({ caller }, () => {
    log.push(caller);
    return { isDone: ++step === count, tookMs: ms };
  });
}

/** Keeps all others waiting until it is called. */
function hold(scheduler: FairScheduler): () => void {
  const { promise, resolve } = Promise.withResolvers<void>();
  void scheduler.run({ caller: 'gate' }, () => promise.then(() => ({ isDone: true, tookMs: 0 })));
  return resolve;
}

describe('the fair scheduler', () => {
  test('the fair scheduler runs one step at a time', async () => {
    const scheduler = new FairScheduler();
    let under = 0;
    const one = () =>
      scheduler.run({ caller: 'a' }, async () => {
        assert.equal(++under, 1);
        await Promise.resolve();
        under--;
        return { isDone: true };
      });
    await Promise.all(Array.from({ length: 20 }, one));
    await work(scheduler, 'b', { ms: 1, count: 1 });
  });

  test('the fair scheduler shares steps by caller, not by call', async () => {
    const scheduler = new FairScheduler();
    const log: string[] = [];
    const begin = hold(scheduler);
    const many = Array.from({ length: 20 }, () => work(scheduler, 'many', { ms: 10, count: 5, log }));
    const one = work(scheduler, 'one', { ms: 10, count: 10, log });
    begin();
    await one;
    const before = log.filter((each) => each === 'many').length;
    assert.ok(before >= 8 && before <= 12, `${before} steps of the other caller beside 10`);
    await Promise.all(many);
  });

  test('the fair scheduler weighs time: a caller with long steps gets fewer', async () => {
    const scheduler = new FairScheduler();
    const log: string[] = [];
    const begin = hold(scheduler);
    const heavy = work(scheduler, 'heavy', { ms: 50, count: 10, log });
    const light = work(scheduler, 'light', { ms: 5, count: 40, log });
    begin();
    await light;
    const before = log.filter((each) => each === 'heavy').length;
    assert.ok(before >= 3 && before <= 5, `${before} steps of 50 ms beside 40 of 5 ms`);
    await heavy;
  });

  test('the fair scheduler runs a new call soon, and a long one eventually', async () => {
    const scheduler = new FairScheduler();
    const log: string[] = [];
    const long = Array.from({ length: 10 }, () => work(scheduler, 'a', { ms: 100, count: 3, log }));
    await work(scheduler, 'a', { ms: 1, count: 1 });
    assert.ok(log.length <= 14, `${log.length} steps of long calls ran first`);
    let isOver = false;
    const stream = async () => {
      for (let count = 0; count < 1000 && !isOver; count++) await work(scheduler, 'a', { ms: 1, count: 1 });
      assert.ok(isOver);
    };
    const streams = [stream(), stream()];
    await Promise.all(long);
    isOver = true;
    await Promise.all(streams);
  });

  test('the fair scheduler drops the steps of a caller that disconnected', async () => {
    const scheduler = new FairScheduler();
    const begin = hold(scheduler);
    const gone = new AbortController();
    const step = () => ({ isDone: false, tookMs: 1 });
    const waiting = scheduler.run({ caller: 'b', signal: gone.signal }, step);
    gone.abort(new Error('gone'));
    await assert.rejects(waiting, /gone/);
    await assert.rejects(scheduler.run({ caller: 'b', signal: gone.signal }, step), /gone/);
    begin();
    await work(scheduler, 'c', { ms: 1, count: 1 });
    const later = new AbortController();
    let steps = 0;
    const leaving = scheduler.run({ caller: 'b', signal: later.signal }, () => {
      if (++steps === 3) later.abort(new Error('left'));
      return step();
    });
    await assert.rejects(leaving, /left/);
    assert.equal(steps, 3);
    await work(scheduler, 'c', { ms: 1, count: 1 });
  });

  test('the fair scheduler goes on when a step throws, and a new caller has no saved credit', async () => {
    const rests: number[] = [];
    const scheduler = new FairScheduler({
      rest(ms) {
        rests.push(ms);
        return Promise.resolve();
      },
    });
    await assert.rejects(
      scheduler.run({ caller: 'a' }, () => {
        throw new Error('broken');
      }),
      /broken/,
    );
    const log: string[] = [];
    const old = work(scheduler, 'old', { ms: 10, count: 30, log });
    await Promise.all([old, work(scheduler, 'new', { ms: 10, count: 5, log })]);
    assert.equal(rests.length, 36);
    assert.deepEqual(new Set(log.slice(0, 4)), new Set(['old', 'new']));
  });

  test('the fair scheduler bounds waiting steps in total, leaves a share to other callers, and lets calls of the store pass', async () => {
    let aside = 0;
    const scheduler = new FairScheduler({
      aside() {
        aside++;
        return () => {
          aside--;
        };
      },
    });
    const begin = hold(scheduler);
    const { signal } = new AbortController();
    const wait = (caller: string, bytes: number) =>
      scheduler.run({ caller, signal, weigh: () => bytes }, () => ({ isDone: true, tookMs: 1 }));
    const share = limits.callerWaitingBytes;
    const alone = limits.bodiesBytes - share;
    const waiting = [wait('a', alone - 1000)];
    await assert.rejects(wait('a', 1001), /overloaded/);
    waiting.push(wait('a', 1000), wait('b', share - 1));
    await assert.rejects(wait('a', 1), /overloaded/);
    await assert.rejects(wait('c', 2), /overloaded/);
    waiting.push(wait('c', 1));
    assert.equal(aside, waiting.length);
    begin();
    await Promise.all(waiting);
    assert.equal(aside, 0);
    await wait('a', limits.bodiesBytes);
  });
});
