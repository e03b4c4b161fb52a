import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { limits } from '../../../src/limits.ts';
import { FairScheduler } from '../../../src/overload/fair-scheduler.ts';

/** Takes `count` turns of `ms`, and notes each. */
function work(
  turns: FairScheduler,
  caller: string,
  { ms, count, log = [] }: { ms: number; count: number; log?: string[] },
) {
  let turn = 0;
  return turns.run({ caller }, () => {
    log.push(caller);
    return { isDone: ++turn === count, tookMs: ms };
  });
}

/** Keeps all others waiting until it is called. */
function hold(turns: FairScheduler): () => void {
  const { promise, resolve } = Promise.withResolvers<void>();
  void turns.run({ caller: 'gate' }, () => promise.then(() => ({ isDone: true, tookMs: 0 })));
  return resolve;
}

describe('turns', () => {
  test('go one at a time', async () => {
    const turns = new FairScheduler();
    let under = 0;
    const one = () =>
      turns.run({ caller: 'a' }, async () => {
        assert.equal(++under, 1);
        await Promise.resolve();
        under--;
        return { isDone: true };
      });
    await Promise.all(Array.from({ length: 20 }, one));
    await work(turns, 'b', { ms: 1, count: 1 });
  });

  test('are shared by callers, not by calls', async () => {
    const turns = new FairScheduler();
    const log: string[] = [];
    const begin = hold(turns);
    const many = Array.from({ length: 20 }, () => work(turns, 'many', { ms: 10, count: 5, log }));
    const one = work(turns, 'one', { ms: 10, count: 10, log });
    begin();
    await one;
    const before = log.filter((each) => each === 'many').length;
    assert.ok(before >= 8 && before <= 12, `${before} turns of the other caller beside 10`);
    await Promise.all(many);
  });

  test('weigh time: a caller with long turns gets fewer', async () => {
    const turns = new FairScheduler();
    const log: string[] = [];
    const begin = hold(turns);
    const heavy = work(turns, 'heavy', { ms: 50, count: 10, log });
    const light = work(turns, 'light', { ms: 5, count: 40, log });
    begin();
    await light;
    const before = log.filter((each) => each === 'heavy').length;
    assert.ok(before >= 3 && before <= 5, `${before} turns of 50 ms beside 40 of 5 ms`);
    await heavy;
  });

  test('come soon to a call that is new, and in the end to one that is long', async () => {
    const turns = new FairScheduler();
    const log: string[] = [];
    const long = Array.from({ length: 10 }, () => work(turns, 'a', { ms: 100, count: 3, log }));
    await work(turns, 'a', { ms: 1, count: 1 });
    assert.ok(log.length <= 14, `${log.length} turns of long calls came first`);
    let isOver = false;
    const stream = async () => {
      for (let count = 0; count < 1000 && !isOver; count++) await work(turns, 'a', { ms: 1, count: 1 });
      assert.ok(isOver);
    };
    const streams = [stream(), stream()];
    await Promise.all(long);
    isOver = true;
    await Promise.all(streams);
  });

  test('are not waited for by a caller that has gone away', async () => {
    const turns = new FairScheduler();
    const begin = hold(turns);
    const gone = new AbortController();
    const step = () => ({ isDone: false, tookMs: 1 });
    const waiting = turns.run({ caller: 'b', signal: gone.signal }, step);
    gone.abort(new Error('gone'));
    await assert.rejects(waiting, /gone/);
    await assert.rejects(turns.run({ caller: 'b', signal: gone.signal }, step), /gone/);
    begin();
    await work(turns, 'c', { ms: 1, count: 1 });
    const later = new AbortController();
    let steps = 0;
    const leaving = turns.run({ caller: 'b', signal: later.signal }, () => {
      if (++steps === 3) later.abort(new Error('left'));
      return step();
    });
    await assert.rejects(leaving, /left/);
    assert.equal(steps, 3);
    await work(turns, 'c', { ms: 1, count: 1 });
  });

  test('go on when a step throws, and a new caller has saved up nothing', async () => {
    const rests: number[] = [];
    const turns = new FairScheduler({
      rest(ms) {
        rests.push(ms);
        return Promise.resolve();
      },
    });
    await assert.rejects(
      turns.run({ caller: 'a' }, () => {
        throw new Error('broken');
      }),
      /broken/,
    );
    const log: string[] = [];
    const old = work(turns, 'old', { ms: 10, count: 30, log });
    await Promise.all([old, work(turns, 'new', { ms: 10, count: 5, log })]);
    assert.equal(rests.length, 36);
    assert.deepEqual(new Set(log.slice(0, 4)), new Set(['old', 'new']));
  });

  test('bound what waits, for each caller and for all, and let the callers of the store go by', async () => {
    let aside = 0;
    const turns = new FairScheduler({
      aside() {
        aside++;
        return () => {
          aside--;
        };
      },
    });
    const begin = hold(turns);
    const { signal } = new AbortController();
    const wait = (caller: string, bytes: number) =>
      turns.run({ caller, signal, weigh: () => bytes }, () => ({ isDone: true, tookMs: 1 }));
    const waiting = [wait('a', limits.callerWaitingBytes - 1)];
    await assert.rejects(wait('a', 2), /overloaded/);
    waiting.push(wait('a', 1), wait('b', 1000));
    const others = Math.floor((limits.bodiesBytes - limits.callerWaitingBytes - 1000) / limits.callerWaitingBytes);
    for (let each = 0; each < others; each++) waiting.push(wait(`c${each}`, limits.callerWaitingBytes));
    await assert.rejects(wait('d', limits.callerWaitingBytes), /overloaded/);
    assert.equal(aside, waiting.length);
    begin();
    await Promise.all(waiting);
    assert.equal(aside, 0);
    await wait('a', limits.callerWaitingBytes);
  });
});
