/**
 * Logs the first of many equal events at once, and later ones as one line per `everyMs` with their
 * number.
 */
export interface Throttle {
  /** `repeats`: events with this key that were left out since its last line. */
  write(key: string, line: (repeats: number) => void): void;
}

/** Bound of remembered keys: the text of a cause may contain values that never come again. */
const maxKeys = 100;

export function createThrottle(everyMs: number): Throttle {
  const pending = new Map<string, { repeats: number; line: (repeats: number) => void }>();
  const schedule = (key: string) => {
    setTimeout(() => {
      const entry = pending.get(key);
      pending.delete(key);
      if (entry === undefined || entry.repeats === 0) return;
      entry.line(entry.repeats);
      pending.set(key, { ...entry, repeats: 0 });
      schedule(key);
    }, everyMs).unref();
  };
  return {
    write(key, line) {
      const entry = pending.get(key);
      if (entry !== undefined) {
        entry.repeats++;
        entry.line = line;
        return;
      }
      line(0);
      if (pending.size >= maxKeys) return;
      pending.set(key, { repeats: 0, line });
      schedule(key);
    },
  };
}
