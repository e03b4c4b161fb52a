import { exit } from './usage.ts';

/** State of the handling of SIGINT and SIGTERM by a command. */
export interface Interruption {
  came(): boolean;
  /** Restores the default handling of the signals. */
  leave(): void;
}

/**
 * Calls back on the first signal, so that calls in flight can finish; a second one exits at once.
 */
export function onInterrupt(onFirst: () => void): Interruption {
  let came = false;
  const onSignal = () => {
    if (came) process.exit(exit.interrupted);
    came = true;
    onFirst();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return {
    came: () => came,
    leave() {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
    },
  };
}
