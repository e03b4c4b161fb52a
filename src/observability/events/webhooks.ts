import type { Log } from '../log.ts';
import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

/** An attempt to deliver messages to a webhook. */
export interface Attempt {
  readonly webhook: string;
  /** The `webhook-id`. */
  readonly delivery: string;
  readonly messages: number;
  /** From 1. */
  readonly attempt: number;
  /** HTTP status; 0 without an answer. */
  readonly status: number;
  readonly ms: number;
  readonly error?: string;
}

type Outcome = 'delivered' | 'failed' | 'parked' | 'gone';
const events = {
  delivered: 'webhookDelivered',
  failed: 'webhookFailed',
  parked: 'webhookParked',
  gone: 'webhookGone',
} as const;

/** Events of webhook deliveries. */
export function createWebhookEvents(log: Log, registry: Registry) {
  const deliveries = registry.histogram(metrics.webhookDeliveryDuration);
  const messages = registry.counter(metrics.webhookMessages);
  for (const outcome of Object.keys(events)) messages.add(0, { outcome });

  const attempted = (outcome: Outcome, { delivery, ms, ...attempt }: Attempt): void => {
    deliveries.record(ms / 1000, { outcome });
    messages.add(attempt.messages, { outcome });
    log(events[outcome], { ...attempt, deliveryId: delivery, durationMs: ms });
  };

  return {
    /** The receiver accepted the messages. */
    webhookDelivered: (attempt: Attempt) => attempted('delivered', attempt),
    /** The attempt failed and will be retried. */
    webhookFailed: (attempt: Attempt) => attempted('failed', attempt),
    /** The attempt failed and no automatic retry is left. */
    webhookParked: (attempt: Attempt) => attempted('parked', attempt),
    /** The receiver answered 410: the webhook is disabled. */
    webhookGone: (attempt: Attempt) => attempted('gone', attempt),
  };
}
