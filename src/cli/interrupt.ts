import { exit } from './usage.ts';

/** Ctrl-C and SIGTERM, as a command hears them. */
export interface Interruption {
  came(): boolean;
  /** Leaves them to the process again. */
  leave(): void;
}

/** Tells of the first one, so that what is under way ends in order; the second one ends at once. */
export function onInterrupt(tell: () => void): Interruption {
  let came = false;
  const hear = () => {
    if (came) process.exit(exit.interrupted);
    came = true;
    tell();
  };
  process.on('SIGINT', hear);
  process.on('SIGTERM', hear);
  return {
    came: () => came,
    leave() {
      process.off('SIGINT', hear);
      process.off('SIGTERM', hear);
    },
  };
}
