import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createFixedWindowCounter } from '../../../src/rate-limits/fixed-window-counter.ts';
import type { Taken } from '../../../src/rate-limits/postgres-counter.sql.ts';
import { seedOf } from '../../support/seed.ts';

describe('the fixed-window counter', () => {
  test('a fixed window grants the rest of its quota, takes refunds, and restarts after its length', () => {
    let now = 1000;
    const windows = createFixedWindowCounter({ points: 5, seconds: 2 }, () => now);
    assert.deepEqual(windows.take('a', 3), { taken: 3, remaining: 2, resetMs: 2000 });
    now += 500;
    assert.deepEqual(windows.take('a', 3), { taken: 2, remaining: 0, resetMs: 1500 });
    assert.deepEqual(windows.take('a', 1), { taken: 0, remaining: 0, resetMs: 1500 });
    assert.deepEqual(windows.take('b', 1), { taken: 1, remaining: 4, resetMs: 2000 });
    windows.refund('a', 2);
    assert.deepEqual(windows.take('a', 1), { taken: 1, remaining: 1, resetMs: 1500 });
    windows.refund('nobody', 2);
    now += 1500;
    assert.deepEqual(windows.take('a', 6), { taken: 5, remaining: 0, resetMs: 2000 });
    windows.refund('a', 99);
    assert.deepEqual(windows.take('a', 6), { taken: 5, remaining: 0, resetMs: 2000 });
  });

  test('a fixed window never reports a wait above its length, even by a clock with fractions', (context) => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 1e9, noNaN: true }),
        fc.double({ min: 0, max: 999, noNaN: true }),
        (at, age) => {
          let now = at;
          const windows = createFixedWindowCounter({ points: 9, seconds: 1 }, () => now);
          assert.deepEqual(windows.take('a', 1), { taken: 1, remaining: 8, resetMs: 1000 });
          now += age;
          const { resetMs } = windows.take('a', 1) as Taken;
          assert.ok(resetMs > 0 && resetMs <= 1000, String(resetMs));
        },
      ),
      { seed: seedOf(context), numRuns: 1000 },
    );
  });

  test('a fixed window never grants more than its quota, whatever arrives', (context) => {
    const steps = fc.array(fc.record({ key: fc.constantFrom('a', 'b', 'c'), count: fc.nat(7), wait: fc.nat(400) }), {
      maxLength: 60,
    });
    fc.assert(
      fc.property(steps, (all) => {
        let now = 0;
        const windows = createFixedWindowCounter({ points: 10, seconds: 1 }, () => now);
        const model = new Map<string, { begin: number; count: number }>();
        for (const { key, count, wait } of all) {
          now += wait;
          const known = model.get(key);
          const window = known === undefined || now - known.begin >= 1000 ? { begin: now, count: 0 } : known;
          model.set(key, window);
          const taken = Math.min(count, 10 - window.count);
          window.count += taken;
          assert.deepEqual(windows.take(key, count), {
            taken,
            remaining: 10 - window.count,
            resetMs: window.begin + 1000 - now,
          });
        }
      }),
      { seed: seedOf(context), numRuns: 500 },
    );
  });
});
