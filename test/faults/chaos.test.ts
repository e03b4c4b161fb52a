import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { runChaos, textOf } from '../chaos/chaos.ts';
import { seedOf } from '../support/seed.ts';

/** Every fault at least once takes about as long; CPU stays low, since writers pause. */
const runMs = 20_000;

describe('a short chaos run', () => {
  test('three instances under random faults lose nothing, double nothing, and keep every order', async (context) => {
    const lines: string[] = [];
    const report = await runChaos({
      seed: seedOf(context),
      runMs,
      pauseMs: 1000,
      log: (line) => lines.push(line),
    });
    for (const line of textOf(report).split('\n')) context.diagnostic(line);
    assert.deepEqual(report.violations, [], lines.join('\n'));
    assert.ok(report.acknowledged > 0);
  });
});
