import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fewCalls } from '../../src/domain/shedding.ts';
import { startOverload } from '../../src/service/overload.ts';
import { until } from '../support/watch.ts';

test('a store that does nothing any more: few calls are let in, the others are counted, and told in few lines', async () => {
  const start = performance.now();
  const told: { refused: number; share: number }[] = [];
  const overload = startOverload({ waitMs: 200, onShed: (shed) => told.push(shed) });
  try {
    overload.stored(1);
    const here: (() => void)[] = [];
    let asked = 0;
    let refused = 0;
    const ask = () => {
      asked++;
      const ended = overload.admit('send');
      if (ended === undefined) refused++;
      else here.push(ended);
      return ended === undefined;
    };
    // One at a time: what nothing has come of for a second is no burst.
    await until('a call is refused', ask);
    assert.ok(here.length >= fewCalls, `${here.length} are here`);
    for (let more = 0; more < 100; more++, await delay(10)) assert.ok(ask());
    for (const ended of here) ended();
    await until('it is well again', () => !ask());
    await until('all of it is told', () => told.reduce((sum, shed) => sum + shed.refused, 0) === refused);
    const most = 3 + (performance.now() - start) / 5000;
    assert.ok(told.length <= most, `${told.length} lines`);
    assert.ok(told.every(({ share }) => share > 0 && share <= 1));
    assert.ok(asked > refused);
  } finally {
    overload.stop();
  }
});
