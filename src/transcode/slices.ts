/**
 * Limits how many calls of `work` run at once; the others wait in order. The queue is not bounded.
 */
export function withConcurrencyLimit<Input extends unknown[], Output>(
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
      // Passes the slot to the next waiting call, or frees it.
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  };
}

/**
 * Bodies decompressed at once, one per thread of Node's pool. 200 bombs of 1 MB held 3.6 GB when
 * they were decompressed together.
 */
export const concurrentDecompressions = 4;

/** Milliseconds of work on one request between two ticks of the event loop. */
const sliceMs = 8;

/** Divides long work on one request into slices, so that other calls proceed in between. */
export class Slices {
  #since = performance.now();

  /** Whether the current slice is used up. */
  isOver(): boolean {
    return performance.now() - this.#since > sliceMs;
  }

  /** Yields to the event loop and starts a new slice. */
  async rest(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#since = performance.now();
  }
}
