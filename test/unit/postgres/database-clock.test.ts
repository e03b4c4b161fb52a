import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createClock } from '../../../src/postgres/database-clock.ts';
import { seedOf } from '../../support/seed.ts';

describe("the service's clock of the database", () => {
  test('the database clock is within one round trip of the database’s time, whatever the local wall clock says', async (context) => {
    const seed = seedOf(context);
    let state = seed;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    for (const skewMs of [-3600_000, -1000, 0, 1000, 3600_000]) {
      let time = 5_000_000;
      let trueOffset = 1_700_000_000_000;
      let tripMs = 0;
      let apart: number | undefined;
      const ask = async () => {
        const there = Math.floor(random() * tripMs);
        time += there;
        const theirs = Math.floor(time + trueOffset);
        time += tripMs - there;
        return theirs;
      };
      const clock = await createClock({
        ask,
        monotonic: () => time,
        wall: () => time + trueOffset + skewMs,
        onClocksApart: (aheadMs) => {
          apart = aheadMs;
        },
      });
      assert.equal(apart === undefined, Math.abs(skewMs) < 5000, `${skewMs}`);
      for (let round = 0; round < 200; round++) {
        time += random() * 10_000;
        tripMs = random() < 0.1 ? 3000 : random() * 5;
        // A suspended machine: the monotonic clock stopped.
        if (random() < 0.05) trueOffset += 60_000;
        await clock.measure();
        const off = Math.abs(clock.now() - (time + trueOffset));
        assert.ok(off <= tripMs + 2, `seed ${seed}: ${off} ms off after a round trip of ${tripMs} ms`);
      }
    }
  });
});
