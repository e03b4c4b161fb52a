import { errorText } from '../error-text.ts';
import type { Log } from '../log.ts';
import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

interface BackgroundEventsOptions {
  readonly log: Log;
  readonly registry: Registry;
  readonly isExpected: (error: unknown) => boolean;
}

/** Events of background loops and of the collection of metrics. */
export function createBackgroundEvents({ log, registry, isExpected }: BackgroundEventsOptions) {
  const runs = registry.histogram(metrics.backgroundRunDuration);
  const fieldsOf = (error: unknown) => (isExpected(error) ? { cause: errorText(error) } : { err: error });
  return {
    /** Observes one loop: its runs, and the errors of those that fail. */
    loop(name: string) {
      return {
        onRun: (ms: number, failed: boolean) =>
          runs.record(ms / 1000, { loop: name, outcome: failed ? 'failed' : 'ok' }),
        onError: (error: unknown) => log('backgroundRunFailed', { loop: name, ...fieldsOf(error) }),
      };
    },
    /** A scrape failed. */
    metricsFailed(error: unknown): void {
      log('metricsFailed', fieldsOf(error));
    },
  };
}
