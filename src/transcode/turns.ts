/** Runs at most so many of these at once, in the order in which they came: what they hold is bounded, not how many come. */
export function inTurns<Input extends unknown[], Output>(
  atOnce: number,
  work: (...input: Input) => Promise<Output>,
): (...input: Input) => Promise<Output> {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (...input) => {
    if (running >= atOnce) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      return await work(...input);
    } finally {
      // The turn goes on to the next, or is free.
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  };
}

/** As many bodies are unpacked at once as there are threads for it: 200 bombs of 1 MB that were unpacked all together held 3.6 GB. */
export const unpackedAtOnce = 4;

/** Milliseconds of work on one request between two turns of the event loop. */
const sliceMs = 8;

/** Long work on one request in slices: other calls have their turns between them. */
export class Slices {
  #since = performance.now();

  /** Whether the slice is over. */
  isOver(): boolean {
    return performance.now() - this.#since > sliceMs;
  }

  /** Lets the event loop turn. */
  async rest(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#since = performance.now();
  }
}
