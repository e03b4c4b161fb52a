/** A running loop. */
export interface Loop {
  /** Runs at once instead of after the pause. */
  nudge(): void;
  /** Stops the loop; resolves when the current run has ended. */
  stop(): Promise<void>;
}

export interface LoopOptions {
  /**
   * Pause between two runs. Varies by up to a fifth, so that instances do not run at the same time.
   */
  readonly everyMs: number;
  readonly run: () => Promise<void>;
  /** Called when a run fails; the next run comes at its usual time. */
  readonly onError: (error: unknown) => void;
  /** Called after each run. */
  readonly onRun?: ((ms: number, failed: boolean) => void) | undefined;
}

/** Runs work periodically, one run at a time. */
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
