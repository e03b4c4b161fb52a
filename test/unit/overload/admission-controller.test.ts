import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type AdmissionController, startAdmissionController } from '../../../src/overload/admission-controller.ts';
import { calmCalls } from '../../../src/overload/concurrency-limit.ts';
import { until } from '../../support/watch.ts';

/** Requests admission for a call whose body has arrived. */
function call(overload: AdmissionController): (() => void) | undefined {
  return overload.admit('send')?.();
}

test('when the store stops answering, few calls are admitted, then one per second; the others are counted and logged in few lines', async () => {
  const start = performance.now();
  const reported: { refused: number; share: number }[] = [];
  const overload = startAdmissionController({ waitMs: 200, onShed: (shed) => reported.push(shed) });
  try {
    overload.stored(1);
    const here: (() => void)[] = [];
    let asked = 0;
    let refused = 0;
    const ask = () => {
      asked++;
      const ended = call(overload);
      if (ended === undefined) refused++;
      else here.push(ended);
      return ended === undefined;
    };
    // One at a time: a call after a second without results is not a burst.
    await until('a call is refused', ask);
    assert.ok(here.length >= calmCalls, `${here.length} are here`);
    const before = here.length;
    const since = performance.now();
    for (let more = 0; more < 300; more++, await delay(10)) ask();
    const seconds = (performance.now() - since) / 1000;
    const through = here.length - before;
    assert.ok(through >= 1 && through <= seconds + 1, `${through} were let through in ${seconds} s`);
    for (const ended of here) ended();
    await until('it is well again', () => !ask());
    await until('all of it is reported', () => reported.reduce((sum, shed) => sum + shed.refused, 0) === refused);
    const most = 3 + (performance.now() - start) / 5000;
    assert.ok(reported.length <= most, `${reported.length} lines`);
    assert.ok(reported.every(({ share }) => share > 0 && share <= 1));
    assert.ok(asked > refused);
  } finally {
    overload.stop();
  }
});

test('calls whose bodies do not arrive are not counted: others are admitted, however long they stay', async () => {
  const overload = startAdmissionController({ waitMs: 200, onShed: () => {} });
  try {
    overload.stored(1);
    const dribbling = Array.from({ length: 1000 }, () => overload.admit('send'));
    const since = performance.now();
    while (performance.now() - since < 1500) {
      const ended = call(overload);
      assert.ok(ended !== undefined);
      ended();
      await delay(20);
    }
    // They all arrive at once in the end: no more start than can finish in time.
    const began = dribbling.map((begin) => begin?.()).filter((ended) => ended !== undefined);
    assert.ok(began.length > 0);
  } finally {
    overload.stop();
  }
});

for (const load of ['send', 'other'] as const)
  test(`250 calls of one event-loop tick are admitted, however long the tick takes (${load})`, () => {
    const overload = startAdmissionController({ waitMs: 50, onShed: () => {} });
    try {
      for (let count = 0; count < 250; count++) {
        assert.ok(overload.admit(load)?.() !== undefined, `call ${count}`);
        const end = performance.now() + 1;
        while (performance.now() < end);
      }
    } finally {
      overload.stop();
    }
  });

test('of the calls that one long event-loop tick brings, those beyond the calm ones are refused', async () => {
  const overload = startAdmissionController({ waitMs: 100, onShed: () => {} });
  try {
    const end = performance.now() + 150;
    let admitted = 0;
    let refused = 0;
    while (performance.now() < end || refused === 0) {
      if (admitted + refused >= 2 * calmCalls && performance.now() < end) continue;
      if (call(overload) === undefined) refused++;
      else admitted++;
    }
    assert.ok(admitted >= calmCalls, `${admitted} are admitted`);
    assert.ok(refused > 0);
  } finally {
    overload.stop();
  }
});
