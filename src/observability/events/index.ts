/**
 * What happens in the service, for the operator: one function per event, which records its metrics
 * and logs its line, so that both are in one place.
 *
 * Entry point: `createEvents`. The files are cut by capability: calls, sending, tailing, webhooks,
 * moderation, database, reload, background.
 *
 * Invariants:
 *  1. Metrics come from ../metrics.ts and log lines from ../log-events.ts; nothing else is recorded
 *     or logged.
 *  2. Series that alerts use start at 0: one that starts at 1 hides its first increase from rate().
 *  3. Nothing here throws or waits: events are recorded on the path of a call.
 */
import type { Log } from '../log.ts';
import type { Registry } from '../registry.ts';
import type { Traces } from '../tracing.ts';
import { createBackgroundEvents } from './background.ts';
import { createCallEvents } from './calls.ts';
import { createDatabaseEvents } from './database.ts';
import { createModerationEvents } from './moderation.ts';
import { createReloadEvents } from './reload.ts';
import { createSendingEvents } from './sending.ts';
import { createTailingEvents } from './tailing.ts';
import { createWebhookEvents } from './webhooks.ts';

export type { CallCounts, CallEnd, Protocol, RejectedRequest } from './calls.ts';

/** Where the events go. */
export interface EventsOptions {
  readonly registry: Registry;
  /** Logs each call. */
  readonly accessLog: boolean;
  readonly traces?: Traces | undefined;
  /**
   * Whether an error is expected (the database is unreachable, say): its text is logged, without
   * its stack. Unset: none is.
   */
  readonly isExpected?: (error: unknown) => boolean;
}

/** The events of one service. */
export type Events = ReturnType<typeof createEvents>;

export function createEvents(log: Log, { registry, accessLog, traces, isExpected = () => false }: EventsOptions) {
  return {
    ...createCallEvents({ log, registry, accessLog, traces }),
    ...createSendingEvents(registry),
    ...createTailingEvents(registry),
    ...createWebhookEvents(log, registry),
    ...createModerationEvents(log, registry),
    ...createDatabaseEvents(log, registry),
    ...createReloadEvents(log, registry),
    ...createBackgroundEvents({ log, registry, isExpected }),
  };
}
