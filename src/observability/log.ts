import { createRequire } from 'node:module';
import { pino } from 'pino';
import { errorText } from './error-text.ts';
import { type LogEvent, type LogEventInfo, logEvents } from './log-events.ts';
import { safeLine, safePrettyLine } from './log-line.ts';
import { createThrottle } from './log-throttle.ts';

/** Logs one event of the table, with its fields. */
export interface Log {
  (event: LogEvent, fields?: Readonly<Record<string, unknown>>): void;
  /** Whether the event is logged at the level that is set. */
  isEnabled(event: LogEvent): boolean;
}

export interface LogOptions {
  readonly level: string;
  /** `auto`: words on a terminal, JSON lines elsewhere. */
  readonly format: 'auto' | 'json' | 'pretty';
}

/**
 * While the database is unreachable, every call fails for the same reason: one line per cause and
 * interval.
 */
const sameCauseMs = 5000;

export function createLog(options: LogOptions): Log {
  const logger = createLogger(options);
  const throttle = createThrottle(sameCauseMs);
  const log = (event: LogEvent, fields: Readonly<Record<string, unknown>> = {}) => {
    const { level, message, throttledBy }: LogEventInfo = logEvents[event];
    if (throttledBy === undefined) {
      logger[level](fields, message);
      return;
    }
    throttle.write(keyOf(event, throttledBy, fields), (repeats) =>
      logger[level](repeats === 0 ? fields : { ...fields, repeats }, message),
    );
  };
  return Object.assign(log, { isEnabled: (event: LogEvent) => logger.isLevelEnabled(logEvents[event].level) });
}

/**
 * Numbers and ids (ports, processes, workers) differ between lines of one cause, so they are no
 * part of the key.
 */
function keyOf(event: LogEvent, throttledBy: readonly string[], fields: Readonly<Record<string, unknown>>): string {
  const parts = throttledBy.map((name) => {
    const value = fields[name];
    return (value instanceof Error ? errorText(value) : String(value)).replace(/[0-9a-f-]{36}|\d+/g, '#');
  });
  return [event, ...parts].join(' ');
}

/**
 * The logger below the table of events: level by name, time as ISO 8601, no process id or host
 * name.
 */
export function createLogger({ level, format }: LogOptions) {
  const isPretty = format === 'pretty' || (format === 'auto' && process.stdout.isTTY === true);
  const settings = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    // A database URL contains a password, and headers contain keys. Neither is logged on purpose;
    // this is the second lock.
    redact: ['*.connectionString', 'password', '*.password', 'headers', '*.headers'],
  };
  // Loaded only for a terminal: most processes write JSON.
  const out = isPretty
    ? (createRequire(import.meta.url)('pino-pretty') as typeof import('pino-pretty'))({
        sync: true,
        translateTime: 'SYS:HH:MM:ss',
        ignore: 'pid,hostname',
      })
    : pino.destination({ sync: true });
  const safe = isPretty ? safePrettyLine : safeLine;
  return pino(settings, { write: (line: string) => void out.write(safe(line)) });
}
