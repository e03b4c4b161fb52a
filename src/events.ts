import { type Logger as PinoLogger, pino } from 'pino';
import pretty from 'pino-pretty';

/** The log. Fields first, words second. */
export type Log = PinoLogger;

/** A log as the settings want it: JSON lines for machines, words for a terminal. */
export function createLog(options: { level: string; format: 'auto' | 'json' | 'pretty' }): Log {
  const wordy = options.format === 'pretty' || (options.format === 'auto' && process.stdout.isTTY === true);
  const settings = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    // A database URL holds a password, and headers hold keys: neither is ever passed to the log on purpose; this is the second lock.
    redact: ['*.connectionString', 'password', '*.password', 'headers', '*.headers'],
  };
  return wordy
    ? pino(settings, pretty({ sync: true, translateTime: 'SYS:HH:MM:ss', ignore: 'pid,hostname' }))
    : pino(settings);
}

/** One call that ended, on any protocol. */
export interface CallEnd {
  readonly requestId: string;
  readonly method: string;
  readonly protocol: string;
  readonly ms: number;
  /** `OK`, or the name of the code. */
  readonly code: string;
  readonly reason?: string | undefined;
  readonly cause?: unknown;
}

/** A try to deliver to a webhook that ended; without its URL, which may hold secrets, and without what was sent. */
export interface WebhookTry {
  readonly webhook: string;
  /** The `webhook-id`. */
  readonly delivery: string;
  readonly messages: number;
  /** Which try it was, from 1. */
  readonly attempt: number;
  /** 0: there was no answer. */
  readonly status: number;
  readonly ms: number;
  readonly error?: string;
}

/** What happens in the service that is worth a line. One function a thing, so that its metric has a place to go. */
export function createEvents(log: Log) {
  return {
    /** A defect is an error with its cause; a refusal is the caller's business. */
    callEnded(call: CallEnd): void {
      const { cause, ...fields } = call;
      if (call.reason === 'INTERNAL') log.error({ ...fields, err: cause }, 'call failed');
      else if (call.reason === 'STORE_BUSY') log.warn({ ...fields, err: cause }, 'store busy');
      else log.debug(fields, 'call ended');
    },
    /** The hook was not asked, or its answer was none; what goes through then is a setting. */
    moderationHookFailed(error: unknown): void {
      log.warn({ err: error }, 'the moderation hook failed');
    },
    /** A run of a loop failed; the next one comes in its time. */
    loopFailed(error: unknown): void {
      log.warn({ err: error }, 'background work failed');
    },
    /** A connection that broke; the next query opens another. */
    databaseConnectionLost(error: Error): void {
      log.warn({ err: error }, 'a database connection was lost');
    },
    /** A webhook's receiver has taken messages. */
    webhookDelivered(delivered: WebhookTry): void {
      log.debug(delivered, 'webhook delivered');
    },
    /** It has not, and is tried again. */
    webhookFailed(failed: WebhookTry): void {
      log.warn(failed, 'webhook failed');
    },
    /** It has not, and is not tried again by itself. */
    webhookParked(parked: WebhookTry): void {
      log.error(parked, 'webhook parked: it has failed as often as it may');
    },
    /** It wants no more. */
    webhookGone(gone: WebhookTry): void {
      log.error(gone, 'webhook disabled: its receiver is gone');
    },
  };
}

/** The events of one service. */
export type Events = ReturnType<typeof createEvents>;
