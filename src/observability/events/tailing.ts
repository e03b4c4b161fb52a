import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

/** Events of tails. */
export function createTailingEvents(registry: Registry) {
  const messages = registry.counter(metrics.tailMessages);
  const lag = registry.histogram(metrics.tailLag);
  messages.add(0);
  return {
    /** A page was delivered to a tail. `lagMs`: unset while the tail catches up. */
    tailRead(page: { messages: number; lagMs: number | undefined }): void {
      messages.add(page.messages);
      if (page.lagMs !== undefined) lag.record(Math.max(0, page.lagMs) / 1000);
    },
  };
}
