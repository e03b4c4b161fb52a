/** Writes the first of many alike at once, and what came after it as one more line with its count, at most every `everyMs`. */
export interface Throttle {
  /** `repeats`: how many came since the last line like it that were not written. */
  write(key: string, line: (repeats: number) => void): void;
}

/** Keys that are remembered at most: texts of causes may hold numbers that never come again. */
const mostKeys = 100;

export function createThrottle(everyMs: number): Throttle {
  const waiting = new Map<string, { repeats: number; line: (repeats: number) => void }>();
  const rest = (key: string) => {
    setTimeout(() => {
      const entry = waiting.get(key);
      waiting.delete(key);
      if (entry === undefined || entry.repeats === 0) return;
      entry.line(entry.repeats);
      waiting.set(key, { ...entry, repeats: 0 });
      rest(key);
    }, everyMs).unref();
  };
  return {
    write(key, line) {
      const entry = waiting.get(key);
      if (entry !== undefined) {
        entry.repeats++;
        entry.line = line;
        return;
      }
      line(0);
      if (waiting.size >= mostKeys) return;
      waiting.set(key, { repeats: 0, line });
      rest(key);
    },
  };
}
