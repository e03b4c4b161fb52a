import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

/** Events of changed messages, of tails, and of what they deliver. */
export function createTailingEvents(registry: Registry) {
  const messages = registry.counter(metrics.tailMessages);
  const lag = registry.histogram(metrics.tailLag);
  const changed = registry.counter(metrics.messagesChanged);
  const deliveries = registry.counter(metrics.deliveryCursors);
  messages.add(0);
  for (const kind of ['edited', 'recalled']) changed.add(0, { kind });
  return {
    messagesChanged(kind: 'edited' | 'recalled', count: number): void {
      changed.add(count, { kind });
    },
    deliveryCursors(outcome: 'written' | 'dropped', count: number): void {
      deliveries.add(count, { outcome });
    },
    /** A page was delivered to a tail. `lagMs`: unset while the tail catches up. */
    tailRead(page: { messages: number; lagMs: number | undefined }): void {
      messages.add(page.messages);
      if (page.lagMs !== undefined) lag.record(Math.max(0, page.lagMs) / 1000);
    },
  };
}
