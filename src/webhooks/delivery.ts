import { randomUUID } from 'node:crypto';
import { bulkhead } from 'cockatiel';
import type { Db } from '../postgres/schema.ts';
import {
  clearFailures,
  countFailure,
  endDelivery,
  parkDelivery,
  pauseWebhook,
  releaseLane,
  retryDelivery,
} from './lanes.sql.ts';
import { routedAtOnce, routeOutbox } from './outbox-router.sql.ts';
import type { Posted, Poster } from './post.ts';
import { claimLanes, type Delivery, type Lease, type PlacedMessage, takeDelivery } from './queue.sql.ts';
import { breakDelay, type DeliveryAttempt, type RetrySchedule, retryDelay, type WebhookFormat } from './webhook.ts';
import { disableWebhook, type StoredWebhook } from './webhooks.sql.ts';

export type { PlacedMessage };

/** What is posted, as text. */
export interface WebhookBodies {
  messages(format: WebhookFormat, messages: readonly PlacedMessage[], at: Date): string;
  test(format: WebhookFormat, at: Date): string;
}

/** Told of what happens. */
export interface WebhookEvents {
  webhookDelivered(delivered: DeliveryAttempt): void;
  webhookFailed(failed: DeliveryAttempt): void;
  webhookParked(parked: DeliveryAttempt): void;
  webhookGone(gone: DeliveryAttempt): void;
}

export interface DeliveryOptions {
  readonly db: Db;
  readonly poster: Poster;
  readonly bodies: WebhookBodies;
  readonly events: WebhookEvents;
  readonly pace: RetrySchedule;
  /** Milliseconds that a lane is this instance's without a word: longer than a POST may take. */
  readonly leaseMs: number;
  /** A lane's work broke off; it is taken up again when its lease has run out. */
  readonly onError: (error: unknown) => void;
  readonly now?: () => number;
}

/** Brings what is stored to the webhooks. */
export interface WebhookDelivery {
  /** Queues what was stored, and takes up the lanes that have work. Their work goes on after it. */
  run(): Promise<void>;
  /** Takes up no more, and waits for the POSTs under way, so many milliseconds; those that are given up are made again by another. */
  stop(graceMs: number): Promise<void>;
}

/** Lanes' statements at once: what is left of the pool is for callers. */
const statementsAtOnce = 3;
/** Bites of the outbox in one run, so that a run ends. */
const bites = 100;
/** Deliveries of a lane one after the other; then it may be another instance's. */
const deliveriesInRow = 1000;
/** These say that the receiver has too much to do, not that this delivery is wrong. */
const overloaded: ReadonlySet<number> = new Set([429, 503]);

/** Both secrets, while there are two. */
export const secretsOf = ({ secret, previous }: StoredWebhook): string[] =>
  [secret, previous?.secret ?? ''].filter((each) => each !== '');

export function createWebhookDelivery(options: DeliveryOptions): WebhookDelivery {
  const { db, poster, bodies, events, pace, leaseMs, onError, now = Date.now } = options;
  const working = new Set<Promise<void>>();
  const givingUp = new AbortController();
  let stopping = false;
  const some = bulkhead(statementsAtOnce, Number.MAX_SAFE_INTEGER);
  const ask = <T>(work: () => Promise<T>): Promise<T> => some.execute(work);

  const lane = async (lease: Lease): Promise<void> => {
    for (let count = 0; count < deliveriesInRow && !stopping; count++) {
      const newId = `msg_${randomUUID().replaceAll('-', '')}`;
      const since = performance.now();
      const delivery = await ask(() => takeDelivery(db, lease, { newId, leaseMs, now: now() }));
      if (delivery === undefined) break;
      // This process stood still meanwhile: the lane may be another's, which has gone on.
      if (performance.now() - since > leaseMs) return;
      if (delivery.messages.length === 0) await ask(() => endDelivery(db, lease));
      else if (!(await deliver(lease, delivery))) return;
    }
    await ask(() => releaseLane(db, lease));
  };

  /** Whether the lane is still held. */
  const deliver = async (lease: Lease, { webhook, id, attempts, messages }: Delivery): Promise<boolean> => {
    const { name, url, format } = webhook;
    const body = bodies.messages(format, messages, new Date(now()));
    const posted = await poster.post({ url, format, secrets: secretsOf(webhook), id, body }, givingUp.signal);
    const { verdict, status, error, ms } = posted;
    const told = {
      webhook: name,
      delivery: id,
      messages: messages.length,
      attempt: attempts + 1,
      status,
      ms: Math.round(ms),
    };
    if (verdict === 'done') {
      events.webhookDelivered(told);
      if (webhook.failures > 0) {
        const wake = webhook.failures >= pace.failuresBeforeBreak;
        await ask(() => clearFailures(db, webhook.webhookKey, wake));
      }
      return await ask(() => endDelivery(db, lease));
    }
    if (verdict === 'stopped') {
      await ask(() => releaseLane(db, lease));
      return false;
    }
    if (verdict === 'gone') {
      events.webhookGone({ ...told, error });
      await ask(() => disableWebhook(db, name, 'gone'));
      await ask(() => retryDelivery(db, lease, { status, error }, 0));
      return false;
    }
    return await failed(lease, webhook, { ...told, error }, posted);
  };

  const failed = async (
    lease: Lease,
    webhook: StoredWebhook,
    told: DeliveryAttempt,
    posted: Posted,
  ): Promise<boolean> => {
    const { webhookKey } = webhook;
    const fault = { status: posted.status, error: posted.error };
    const failures = await ask(() => countFailure(db, webhookKey));
    const wished = overloaded.has(posted.status) ? Math.min(posted.retryAfterMs, pace.longestMs) : 0;
    const pauseMs = Math.max(breakDelay(failures, pace), wished);
    if (pauseMs > 0) await ask(() => pauseWebhook(db, webhookKey, pauseMs));
    if (told.attempt < pace.attempts) {
      events.webhookFailed(told);
      const delayMs = retryDelay(told.attempt, posted.retryAfterMs, Math.random(), pace);
      await ask(() => retryDelivery(db, lease, fault, delayMs));
      return false;
    }
    await ask(() => parkDelivery(db, lease, fault));
    events.webhookParked(told);
    if (pauseMs === 0) return true;
    await ask(() => releaseLane(db, lease));
    return false;
  };

  return {
    async run() {
      for (let chunk = 0; chunk < bites; chunk++) if ((await ask(() => routeOutbox(db))) < routedAtOnce) break;
      if (stopping) return;
      const { failuresBeforeBreak } = pace;
      for (const lease of await ask(() => claimLanes(db, randomUUID(), { leaseMs, failuresBeforeBreak }))) {
        const work: Promise<void> = lane(lease)
          .catch(onError)
          .finally(() => working.delete(work));
        working.add(work);
      }
    },
    async stop(graceMs) {
      stopping = true;
      const timer = setTimeout(() => givingUp.abort(), graceMs);
      await Promise.all(working);
      clearTimeout(timer);
      await poster.close();
    },
  };
}
