import type { TestContext } from 'node:test';

/** The seed of a random run: printed, and read from SEED to repeat it. */
export function seedOf(context: TestContext): number {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
  context.diagnostic(`seed ${seed} (run again with SEED=${seed})`);
  return seed;
}
