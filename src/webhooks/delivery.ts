// Delivers stored messages and their changes to webhooks, at least once and in order per channel.
//
// Entry point: `createWebhookDelivery`; a loop calls `run`. A webhook has 8 lanes and one for
// redelivery; a channel always uses the same lane. States of a lane:
//
//   idle ──claimLanes──> leased ──takeDelivery──> delivering ──success──> leased
//     ^                    │                          │ ├──last attempt failed──> parked, leased
//     └─────no work────────┘                          │ └──attempt failed──> backing off ──> idle
//                                                     └──lease expires──> idle (same delivery)
//
// Invariants:
//  1. A lane has at most one delivery, which keeps its id and messages over all attempts.
//  2. Each statement of a lane checks the lease's token, so a process that lost it changes nothing.
//  3. A lane does not pass a failed delivery until it succeeds or is parked.

import { randomUUID } from 'node:crypto';
import { bulkhead } from 'cockatiel';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import type { ChannelMessage } from './events-read.sql.ts';
import {
  clearFailures,
  countFailure,
  endDelivery,
  parkDelivery,
  pauseWebhook,
  releaseLane,
  retryDelivery,
} from './lanes.sql.ts';
import type { Lease } from './lease.sql.ts';
import { maxRoutedRows, routeOutbox } from './outbox-router.sql.ts';
import type { Poster, PostResult } from './post.ts';
import { claimLanes, type Delivery, takeDelivery } from './queue.sql.ts';
import {
  breakDelayMs,
  type DeliveryAttempt,
  type EventKind,
  type RetrySchedule,
  retryDelayMs,
  type WebhookFormat,
} from './webhook.ts';
import { disableWebhook, type StoredWebhook } from './webhooks.sql.ts';

/** Encodes the bodies of POSTs. */
export interface WebhookBodies {
  /** `legacy` has messages that were stored only. */
  events(format: WebhookFormat, kind: EventKind, messages: readonly ChannelMessage[], at: Date): string;
  test(format: WebhookFormat, at: Date): string;
}

/** Receives the results of attempts. */
export interface WebhookEvents {
  webhookDelivered(delivered: DeliveryAttempt): void;
  webhookFailed(handleFailure: DeliveryAttempt): void;
  webhookParked(parked: DeliveryAttempt): void;
  webhookGone(gone: DeliveryAttempt): void;
}

export interface DeliveryOptions {
  readonly store: ChannelStore;
  readonly poster: Poster;
  readonly bodies: WebhookBodies;
  readonly events: WebhookEvents;
  readonly schedule: RetrySchedule;
  /** Duration of a lease, which is renewed per delivery: longer than the timeout of a POST. */
  readonly leaseMs: number;
  /** Called when the work of a lane fails. The lane continues once its lease has expired. */
  readonly onError: (error: unknown) => void;
  readonly now?: () => number;
}

/** Delivers stored messages to webhooks. */
export interface WebhookDelivery {
  /** Routes the outbox and starts the lanes that have work. The lanes continue after it returns. */
  run(): Promise<void>;
  /**
   * Starts no new work and waits up to `graceMs` for POSTs in flight. Another instance repeats
   * aborted ones.
   */
  stop(graceMs: number): Promise<void>;
}

/** Concurrent statements of all lanes. The rest of the pool is for callers. */
const maxStatements = 3;
/** Maximum chunks of the outbox per run, so that a run ends. */
const chunksPerRun = 100;
/** Deliveries per lease; then another instance may claim the lane. */
const deliveriesPerLease = 1000;
/** Statuses of an overloaded receiver, whose Retry-After pauses the whole webhook. */
const overloadStatuses: ReadonlySet<number> = new Set([429, 503]);

/** The signing secrets: the current one, and the previous one while it is valid. */
export const secretsOf = ({ secret, previous }: StoredWebhook): string[] =>
  [secret, previous?.secret ?? ''].filter((each) => each !== '');

export function createWebhookDelivery(options: DeliveryOptions): WebhookDelivery {
  const { store, poster, schedule, leaseMs, onError, now = Date.now } = options;
  const { db } = store;
  const activeLanes = new Set<Promise<void>>();
  const abortPosts = new AbortController();
  let isStopping = false;
  const statements = bulkhead(maxStatements, Number.MAX_SAFE_INTEGER);
  const runStatement = <T>(work: () => Promise<T>): Promise<T> => statements.execute(work);
  const deliver = createDeliver(options, runStatement, abortPosts.signal);

  const workLane = async (lease: Lease): Promise<void> => {
    for (let count = 0; count < deliveriesPerLease && !isStopping; count++) {
      const newId = `msg_${randomUUID().replaceAll('-', '')}`;
      const startedAt = performance.now();
      const delivery = await runStatement(() => takeDelivery(store, lease, { newId, leaseMs, now: now() }));
      if (delivery === undefined) break;
      // The process was suspended: another instance may hold the lane and have moved on.
      if (performance.now() - startedAt > leaseMs) return;
      if (delivery.messages.length === 0) await runStatement(() => endDelivery(db, lease));
      else if (!(await deliver(lease, delivery))) return;
    }
    await runStatement(() => releaseLane(db, lease));
  };

  return {
    async run() {
      for (let chunk = 0; chunk < chunksPerRun; chunk++)
        if ((await runStatement(() => routeOutbox(store))) < maxRoutedRows) break;
      if (isStopping) return;
      const { failuresBeforeBreak } = schedule;
      for (const lease of await runStatement(() => claimLanes(db, randomUUID(), { leaseMs, failuresBeforeBreak }))) {
        const work: Promise<void> = workLane(lease)
          .catch(onError)
          .finally(() => activeLanes.delete(work));
        activeLanes.add(work);
      }
    },
    async stop(graceMs) {
      isStopping = true;
      const timer = setTimeout(() => abortPosts.abort(), graceMs);
      await Promise.all(activeLanes);
      clearTimeout(timer);
      await poster.close();
    },
  };
}

/** Creates the function that attempts a delivery; it returns whether the lease is still held. */
function createDeliver(
  { store, poster, bodies, events, schedule, now = Date.now }: DeliveryOptions,
  runStatement: <T>(work: () => Promise<T>) => Promise<T>,
  stop: AbortSignal,
): (lease: Lease, delivery: Delivery) => Promise<boolean> {
  const { db } = store;
  const deliver = async (lease: Lease, { webhook, kind, id, attempts, messages }: Delivery): Promise<boolean> => {
    const { name, url, format } = webhook;
    const body = bodies.events(format, kind, messages, new Date(now()));
    const posted = await poster.post({ url, format, secrets: secretsOf(webhook), id, body }, stop);
    const { verdict, status, error, ms } = posted;
    const attempt = {
      webhook: name,
      delivery: id,
      messages: messages.length,
      attempt: attempts + 1,
      status,
      ms: Math.round(ms),
    };
    if (verdict === 'done') {
      events.webhookDelivered(attempt);
      if (webhook.failures > 0) {
        const wasPaused = webhook.failures >= schedule.failuresBeforeBreak;
        await runStatement(() => clearFailures(db, webhook.webhookKey, wasPaused));
      }
      return await runStatement(() => endDelivery(db, lease));
    }
    if (verdict === 'stopped') {
      await runStatement(() => releaseLane(db, lease));
      return false;
    }
    if (verdict === 'gone') {
      events.webhookGone({ ...attempt, error });
      await runStatement(() => disableWebhook(db, name, 'gone'));
      await runStatement(() => retryDelivery(db, lease, { status, error }, 0));
      return false;
    }
    return await handleFailure(lease, webhook, { ...attempt, error }, posted);
  };

  const handleFailure = async (
    lease: Lease,
    webhook: StoredWebhook,
    attempt: DeliveryAttempt,
    posted: PostResult,
  ): Promise<boolean> => {
    const { webhookKey } = webhook;
    const failure = { status: posted.status, error: posted.error };
    const failures = await runStatement(() => countFailure(db, webhookKey));
    const requestedMs = overloadStatuses.has(posted.status) ? Math.min(posted.retryAfterMs, schedule.maxMs) : 0;
    const pauseMs = Math.max(breakDelayMs(failures, schedule), requestedMs);
    if (pauseMs > 0) await runStatement(() => pauseWebhook(db, webhookKey, pauseMs));
    if (attempt.attempt < schedule.maxAttempts) {
      events.webhookFailed(attempt);
      const delayMs = retryDelayMs(attempt.attempt, posted.retryAfterMs, Math.random(), schedule);
      await runStatement(() => retryDelivery(db, lease, failure, delayMs));
      return false;
    }
    await runStatement(() => parkDelivery(db, lease, failure));
    events.webhookParked(attempt);
    if (pauseMs === 0) return true;
    await runStatement(() => releaseLane(db, lease));
    return false;
  };

  return deliver;
}
