/** A loop that was started. */
export interface Loop {
  /** Runs now instead of later. */
  nudge(): void;
  /** Waits for a run that is under way, and runs no more. */
  stop(): Promise<void>;
}

export interface LoopOptions {
  /**
   * Between the end of a run and the begin of the next; a fifth more or less, so that instances do
   * not run in step.
   */
  readonly everyMs: number;
  readonly run: () => Promise<void>;
  /** A run that fails is told, and the next comes as if it had not. */
  readonly onError: (error: unknown) => void;
  /** Told of each run that ended. */
  readonly onRun?: ((ms: number, failed: boolean) => void) | undefined;
}

/** Runs something again and again, one run at a time. */
export function startLoop({ everyMs, run, onError, onRun }: LoopOptions): Loop {
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;
  const schedule = () => {
    if (!stopped) timer = setTimeout(start, everyMs * (0.8 + Math.random() * 0.4)).unref();
  };
  const start = () => {
    clearTimeout(timer);
    const began = performance.now();
    running = run()
      .then(
        () => onRun?.(performance.now() - began, false),
        (error: unknown) => {
          onRun?.(performance.now() - began, true);
          onError(error);
        },
      )
      .then(() => {
        running = undefined;
        if (again && !stopped) {
          again = false;
          start();
        } else schedule();
      });
  };
  schedule();
  return {
    nudge() {
      if (stopped) return;
      if (running === undefined) start();
      else again = true;
    },
    async stop() {
      stopped = true;
      clearTimeout(timer);
      await running;
    },
  };
}
