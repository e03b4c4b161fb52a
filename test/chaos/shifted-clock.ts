// Preloaded into one instance of a chaos run (NODE_OPTIONS): its wall clock is off by the number of
// milliseconds in a file, which is read at the start and on SIGUSR2. Its monotonic clock is right.
import { readFileSync } from 'node:fs';

const RealDate = Date;
const file = process.env.CHAOS_CLOCK_FILE ?? '';
const read = () => Number(readFileSync(file, 'utf8'));
let offsetMs = read();
process.on('SIGUSR2', () => {
  offsetMs = read();
});

class ShiftedDate extends RealDate {
  constructor(...given: unknown[]) {
    super(...((given.length === 0 ? [ShiftedDate.now()] : given) as []));
  }
  static override now(): number {
    return RealDate.now() + offsetMs;
  }
}
globalThis.Date = ShiftedDate as DateConstructor;
