import { errorText } from '../error-text.ts';
import type { Log } from '../log.ts';
import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

/** Events of the database. */
export function createDatabaseEvents(log: Log, registry: Registry) {
  const lost = registry.counter(metrics.connectionsLost);
  lost.add(0);
  return {
    /** A connection broke; the next query opens another. */
    databaseConnectionLost(error: Error): void {
      lost.add(1);
      log('databaseConnectionLost', { cause: errorText(error) });
    },
    /** The clock of this machine differs from the database clock, which the service uses. */
    clocksApart(aheadMs: number): void {
      log('clockSkew', { aheadMs });
    },
  };
}
