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
    /** Calls were refused before they were read, since the last such line: more comes than is done in good time. */
    callsShed(shed: { refused: number; share: number; waitMs: number }): void {
      log.warn(shed, 'overloaded: calls are refused');
    },
    /** This process's clock and the database's differ: nothing is removed before both say so. */
    clocksApart(aheadMs: number): void {
      log.warn({ aheadMs }, 'the clock of this process and that of the database are apart: set one of them right');
    },
    /** A run of a loop failed; the next one comes in its time. */
    loopFailed(error: unknown): void {
      log.warn({ err: error }, 'background work failed');
    },
    /** A connection that broke; the next query opens another. */
    databaseConnectionLost(error: Error): void {
      log.warn({ err: error }, 'a database connection was lost');
    },
  };
}

/** The events of one service. */
export type Events = ReturnType<typeof createEvents>;
