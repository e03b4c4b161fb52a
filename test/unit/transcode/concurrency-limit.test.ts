import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withConcurrencyLimit } from '../../../src/transcode/slices.ts';

test('withConcurrencyLimit runs up to its limit at once, in order, and a failed call frees its slot', async () => {
  const begun: number[] = [];
  const works = Array.from({ length: 6 }, () => Promise.withResolvers<number>());
  const run = withConcurrencyLimit(2, async (index: number) => {
    begun.push(index);
    return await (works[index]?.promise ?? -1);
  });
  const results = works.map((_, index) => run(index).catch((error: Error) => error.message));
  await new Promise(setImmediate);
  assert.deepEqual(begun, [0, 1]);
  works[1]?.reject(new Error('odd'));
  assert.equal(await results[1], 'odd');
  await new Promise(setImmediate);
  assert.deepEqual(begun, [0, 1, 2]);
  for (const [index, work] of works.entries()) work.resolve(index);
  assert.deepEqual(await Promise.all(results), [0, 'odd', 2, 3, 4, 5]);
  assert.deepEqual(begun, [0, 1, 2, 3, 4, 5]);
});
