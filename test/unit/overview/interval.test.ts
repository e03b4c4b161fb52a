import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addReport, growthOf, type Interval, quantile, type Report } from '../../../src/overview/interval.ts';

const report = (change: Partial<Report> = {}): Report => ({
  tick: 7,
  accepted: 10,
  duplicates: 1,
  refused: { RATE_LIMITED: 2 },
  calls: 5,
  refusedCalls: 1,
  failedCalls: 0,
  rejectedRequests: 0,
  sends: [1, 2, 0],
  tailMessages: 0,
  webhookMessages: 0,
  laneMessages: [3, 4],
  laneOldestMs: 20,
  tailReaders: 2,
  memoryBytes: 100,
  cpuSeconds: 0.5,
  ...change,
});

test('an interval adds up the reports of all instances, each once', () => {
  let interval: Interval | undefined;
  interval = addReport(interval, 'a', report());
  const once = interval;
  interval = addReport(interval, 'a', report());
  assert.equal(interval, once, 'a report that is read again changes nothing');
  interval = addReport(
    interval,
    'b',
    report({ accepted: 1, refused: { RATE_LIMITED: 1, STORE_BUSY: 4 }, sends: [0, 0, 5], laneOldestMs: 5 }),
  );
  const { totals, instances, laneMessages, laneOldestMs, tailReaders, cpuSeconds } = interval;
  assert.deepEqual(
    [totals.accepted, totals.duplicates, totals.calls, totals.refused, totals.sends],
    [11, 2, 10, { RATE_LIMITED: 3, STORE_BUSY: 4 }, [1, 2, 5]],
  );
  assert.deepEqual([instances.size, laneMessages, laneOldestMs, tailReaders, cpuSeconds], [2, 14, 20, 4, 1]);
});

test('a report of another version may lack a field', () => {
  const { webhookMessages: _, ...older } = report();
  const interval = addReport(addReport(undefined, 'a', older as Report), 'b', report({ webhookMessages: 3 }));
  assert.equal(interval.totals.webhookMessages, 3);
});

test('growth leaves out reasons that did not grow', () => {
  const before = report();
  const now = report({ accepted: 15, refused: { RATE_LIMITED: 2, STORE_BUSY: 1 }, sends: [1, 4, 1] });
  const { accepted, refused, sends } = growthOf(now, before);
  assert.deepEqual([accepted, refused, sends], [5, { STORE_BUSY: 1 }, [0, 2, 1]]);
});

test('quantiles are estimated within their bucket', () => {
  const bounds = [1, 2, 4];
  assert.equal(quantile(0.5, [0, 0, 0, 0], bounds), 0);
  assert.equal(quantile(0.5, [4, 0, 0, 0], bounds), 0.5);
  assert.equal(quantile(0.5, [0, 10, 0, 0], bounds), 1.5);
  assert.equal(quantile(0.99, [50, 0, 50, 0], bounds), 2 + 2 * 0.98);
  assert.equal(quantile(0.99, [0, 0, 0, 3], bounds), 4, 'above all bounds');
});
