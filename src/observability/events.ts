import { createRequire } from 'node:module';
import { type Logger as PinoLogger, pino } from 'pino';
import { ServiceError } from '../messages/service-error.ts';
import type { DeliveryAttempt } from '../webhooks/webhook.ts';
import { safeLine, safePrettyLine } from './log-line.ts';
import { createThrottle } from './log-throttle.ts';
import { metrics } from './metrics.ts';
import type { Registry } from './registry.ts';
import type { Traces } from './tracing.ts';

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
  // Loaded only for a terminal: most processes write JSON.
  const out = wordy
    ? (createRequire(import.meta.url)('pino-pretty') as typeof import('pino-pretty'))({
        sync: true,
        translateTime: 'SYS:HH:MM:ss',
        ignore: 'pid,hostname',
      })
    : pino.destination({ sync: true });
  const safe = wordy ? safePrettyLine : safeLine;
  return pino(settings, { write: (line: string) => void out.write(safe(line)) });
}

/** The way that a call came in. */
export type Protocol = 'grpc' | 'grpc-web' | 'connect' | 'json' | 'sse';

/** As OpenTelemetry names RPC systems; the JSON routes are nobody else's. */
const systems: Record<Protocol, string> = {
  grpc: 'grpc',
  'grpc-web': 'grpc',
  connect: 'connectrpc',
  json: 'http_json',
  sse: 'http_json',
};

/** A call that begins. */
export interface CallStart {
  readonly requestId: string;
  readonly method: string;
  readonly protocol: Protocol;
  readonly header: { get(name: string): string | null };
  /** When it came, by performance.now(); unset: now. */
  readonly began?: number;
}

/** What a request asked that became no call. The path stands without its query, which may hold a token. */
export interface Asked {
  readonly verb: string;
  readonly path: string;
  readonly requestId: string | undefined;
}

/** How many messages a call brought, and what became of them. */
export interface Tally {
  readonly messages: number;
  accepted?: number;
  duplicates?: number;
  refused?: number;
}

/** How a call ended. */
export interface CallEnd {
  /** `OK`, or the name of the code. */
  readonly code: string;
  readonly reason?: string | undefined;
  readonly cause?: unknown;
  /** Who called: an id, no secret. */
  readonly caller?: string;
  readonly tally?: Tally | undefined;
}

/** A call under way. */
export interface Call {
  run<T>(work: () => T): T;
  ended(end: CallEnd): void;
}

/** What became of a batch. */
export interface BatchEnd {
  readonly messages: number;
  readonly accepted: number;
  readonly duplicates: number;
  /** How many were refused, by reason. */
  readonly refused: ReadonlyMap<string, number>;
  /** How many were over a rate, by what it counts. */
  readonly limited: ReadonlyMap<string, number>;
}

/** Where the events go. */
export interface EventsOptions {
  readonly registry: Registry;
  /** A line for each call. */
  readonly accessLog: boolean;
  readonly traces?: Traces | undefined;
  /** Whether an error is the database's trouble, which its words tell, and no defect, whose stack is needed. Unset: all are defects. */
  readonly isTrouble?: (error: unknown) => boolean;
}

/** While the database is away every call fails for the same reason: one line says it for so long. */
const sameCauseMs = 5000;

/** Reasons that are the service's fault: the batch may come again, and nothing of it was wrong. */
const ownFaults: ReadonlySet<string> = new Set(['STORE_BUSY', 'INTERNAL', 'DEADLINE', 'STOPPING']);

/** What happens in the service that is worth counting. One function a thing: its metric and its log line stand together. */
export function createEvents(log: Log, { registry, accessLog, traces, isTrouble = () => false }: EventsOptions) {
  const throttle = createThrottle(sameCauseMs);
  /** A warning in one short line, once for each cause in a while. */
  const warnOfTrouble = (words: string, error: unknown, fields: object = {}): void => {
    const cause = causeOf(error);
    // Numbers and ids differ from call to call: of ports, processes, workers.
    throttle.write(`${words} ${cause.replace(/[0-9a-f-]{36}|\d+/g, '#')}`, (repeats) =>
      log.warn({ ...fields, cause, ...(repeats === 0 ? {} : { repeats }) }, words),
    );
  };
  const calls = registry.histogram(metrics.callDuration);
  const rejected = registry.counter(metrics.requestsRejected);
  const internalErrors = registry.counter(metrics.internalErrors);
  const batches = registry.counter(metrics.batches);
  const batchMessages = registry.histogram(metrics.batchMessages);
  const messages = registry.counter(metrics.messages);
  const rateLimited = registry.counter(metrics.rateLimitedMessages);
  const groupMessages = registry.histogram(metrics.groupMessages);
  const groupBatches = registry.histogram(metrics.groupBatches);
  const groupWait = registry.histogram(metrics.groupWait);
  const commits = registry.histogram(metrics.commitDuration);
  const retries = registry.counter(metrics.commitRetries);
  const lockWaits = registry.histogram(metrics.lockWait);
  const connectionsLost = registry.counter(metrics.connectionsLost);
  const reloads = registry.counter(metrics.reloads);
  const tailMessages = registry.counter(metrics.tailMessages);
  const tailLag = registry.histogram(metrics.tailLag);
  const runs = registry.histogram(metrics.backgroundRunDuration);
  const removed = registry.counter(metrics.removedMessages);
  const hookCalls = registry.histogram(metrics.moderationHookDuration);
  const webhookDeliveries = registry.histogram(metrics.webhookDeliveryDuration);
  const webhookMessages = registry.counter(metrics.webhookMessages);
  const webhookTried = (outcome: string, { ms, messages: count }: DeliveryAttempt): void => {
    webhookDeliveries.record(ms / 1000, { outcome });
    webhookMessages.add(count, { outcome });
  };

  // A series that starts at 1 hides its first increase from rate(), so series used by alerts start at 0.
  for (const outcome of ['stored', 'partial', 'refused', 'failed']) batches.add(0, { outcome });
  for (const outcome of ['accepted', 'duplicate']) messages.add(0, { outcome });
  for (const reason of ownFaults) messages.add(0, { outcome: 'refused', reason });
  for (const reason of ['origin', 'not_found', 'malformed', 'overloaded']) rejected.add(0, { reason });
  for (const reason of ['lock_timeout', 'connection_lost', 'conflict']) retries.add(0, { reason });
  for (const reason of ['expired', 'retention']) removed.add(0, { reason });
  for (const outcome of ['delivered', 'failed', 'parked', 'gone']) webhookMessages.add(0, { outcome });
  for (const files of ['tls', 'token_secrets'])
    for (const outcome of ['ok', 'failed']) reloads.add(0, { files, outcome });
  connectionsLost.add(0);
  internalErrors.add(0);
  tailMessages.add(0);

  const callEnded = (call: CallStart, end: CallEnd, seconds: number, traceId: string | undefined): void => {
    const { code, reason } = end;
    const failed = code !== 'OK';
    calls.record(seconds, {
      'rpc.system.name': systems[call.protocol],
      'rpc.method': call.method,
      protocol: call.protocol,
      'rpc.response.status_code': code,
      ...(failed ? { 'error.type': reason ?? code } : {}),
    });
    const isDefect = reason === 'INTERNAL';
    const isBusy = reason === 'STORE_BUSY';
    if (isDefect) internalErrors.add(1);
    if (!isDefect && !isBusy && !accessLog && !log.isLevelEnabled('debug')) return;
    const fields = {
      requestId: call.requestId,
      method: call.method,
      protocol: call.protocol,
      code,
      reason,
      caller: end.caller,
      ...end.tally,
      ms: Math.round(seconds * 1e5) / 100,
      traceId,
    };
    // A defect is an error with its cause; a refusal is the caller's business.
    if (isDefect) log.error({ ...fields, err: end.cause }, 'call failed');
    else if (isBusy) warnOfTrouble('store busy', end.cause, fields);
    if (accessLog) log.info(fields, 'call');
    else if (!isDefect && !isBusy) log.debug(fields, 'call ended');
  };

  return {
    /** A call came in, on any protocol; it says how it ended. */
    callBegan(call: CallStart): Call {
      const start = call.began ?? performance.now();
      const span = traces?.beginCall({ ...call, system: systems[call.protocol] });
      return {
        run: span === undefined ? (work) => work() : span.run,
        ended(end) {
          callEnded(call, end, (performance.now() - start) / 1000, span?.traceId);
          span?.end(end.code, end.code === 'OK' ? undefined : (end.reason ?? end.code), spanTally(end.tally));
        },
      };
    },
    /** A request that no call was made of: by the guard, for a path that is not here, for what cannot be read, or to make room for others. */
    requestRejected(reason: 'origin' | 'not_found' | 'malformed' | 'overloaded', asked: Asked): void {
      rejected.add(1, { reason });
      if (accessLog) log.info({ ...asked, reason }, 'request rejected');
    },
    /** A batch was answered, or failed. */
    batchEnded({ messages: count, accepted, duplicates, refused, limited: over }: BatchEnd): void {
      const none = accepted + duplicates === 0;
      const byUs = none && [...refused.keys()].some((reason) => ownFaults.has(reason));
      batches.add(1, { outcome: refused.size === 0 ? 'stored' : byUs ? 'failed' : none ? 'refused' : 'partial' });
      batchMessages.record(count);
      if (accepted > 0) messages.add(accepted, { outcome: 'accepted' });
      if (duplicates > 0) messages.add(duplicates, { outcome: 'duplicate' });
      for (const [reason, each] of refused) messages.add(each, { outcome: 'refused', reason });
      for (const [by, each] of over) rateLimited.add(each, { limit: by });
    },
    /** A group of batches was committed, or failed. */
    groupEnded(group: { items: number; jobs: number; waitMs: number }): void {
      groupMessages.record(group.items);
      groupBatches.record(group.jobs);
      groupWait.record(group.waitMs / 1000);
    },
    /** The store answered a group. */
    commitEnded(commit: { mode: string; ms: number; stored: boolean }): void {
      commits.record(commit.ms / 1000, { mode: commit.mode, outcome: commit.stored ? 'stored' : 'failed' });
    },
    /** A group has to go again: what it assumed does not hold, or the store had trouble. */
    commitRepeated(reason: string): void {
      retries.add(1, { reason });
    },
    /** A careful group has its locks. */
    headsLocked(ms: number): void {
      lockWaits.record(ms / 1000);
    },
    /** The moderation hook answered, or did not; `skipped`: it failed too often to be asked. What goes through then is a setting. */
    moderationHookCalled(call: { ms: number; outcome: 'ok' | 'failed' | 'skipped'; error?: unknown }): void {
      hookCalls.record(call.ms / 1000, { outcome: call.outcome });
      if (call.outcome !== 'ok') log.warn({ err: call.error }, 'the moderation hook failed');
    },
    /** A page of a live tail was handed on. */
    tailRead(page: { messages: number; lagMs: number | undefined }): void {
      tailMessages.add(page.messages);
      if (page.lagMs !== undefined) tailLag.record(Math.max(0, page.lagMs) / 1000);
    },
    /** The watch of a loop: a run that fails is a line, and the next one comes in its time. */
    loop(name: string) {
      return {
        onRun: (ms: number, failed: boolean) =>
          runs.record(ms / 1000, { loop: name, outcome: failed ? 'failed' : 'ok' }),
        onError(error: unknown) {
          if (error instanceof ServiceError || isTrouble(error))
            warnOfTrouble('background work failed', error, { loop: name });
          else log.warn({ err: error, loop: name }, 'background work failed');
        },
      };
    },
    /** The token issuer's keys could not be fetched, or are none. */
    issuerKeysFailed(error: unknown): void {
      log.warn({ err: error }, 'the keys of the token issuer could not be fetched');
    },
    /** Changed files were read again and are in use. */
    reloaded(files: string, warnings: readonly string[]): void {
      reloads.add(1, { files, outcome: 'ok' });
      log.info({ files }, 'reloaded');
      for (const warning of warnings) log.warn({ files }, warning);
    },
    /** Changed files cannot be used; the previous content stays in use. `isNew`: the last attempt did not fail for this cause. */
    reloadFailed(files: string, error: unknown, isNew: boolean): void {
      reloads.add(1, { files, outcome: 'failed' });
      if (isNew) log.error({ files, cause: causeOf(error) }, 'reload failed, the previous content stays in use');
    },
    /** Messages were removed. */
    messagesRemoved(reason: 'expired' | 'retention', count: number): void {
      if (count > 0) removed.add(count, { reason });
    },
    /** The metrics could not be read. */
    metricsFailed(error: unknown): void {
      if (isTrouble(error)) warnOfTrouble('the metrics could not be read', error);
      else log.warn({ err: error }, 'the metrics could not be read');
    },
    /** Calls were refused before they were read, since the last such line: more comes than is done in good time. */
    callsShed(shed: { refused: number; share: number; waitMs: number }): void {
      rejected.add(shed.refused, { reason: 'overloaded' });
      log.warn(shed, 'overloaded: calls are refused');
    },
    /** This machine's wall clock and the database's differ. The service goes by the database's; credentials of issuers and receivers of webhooks go by theirs. */
    clocksApart(aheadMs: number): void {
      log.warn(
        { aheadMs },
        'the clock of this machine and that of the database are apart: the database is believed; correct the one that is wrong',
      );
    },
    /** A connection that broke; the next query opens another. */
    databaseConnectionLost(error: Error): void {
      connectionsLost.add(1);
      warnOfTrouble('a database connection was lost', error);
    },
    /** A webhook's receiver has taken messages. */
    webhookDelivered(delivered: DeliveryAttempt): void {
      webhookTried('delivered', delivered);
      log.debug(delivered, 'webhook delivered');
    },
    /** It has not, and is tried again. */
    webhookFailed(failed: DeliveryAttempt): void {
      webhookTried('failed', failed);
      log.warn(failed, 'webhook failed');
    },
    /** It has not, and is not tried again by itself. */
    webhookParked(parked: DeliveryAttempt): void {
      webhookTried('parked', parked);
      log.error(parked, 'webhook parked: it has failed as often as it may');
    },
    /** It wants no more. */
    webhookGone(gone: DeliveryAttempt): void {
      webhookTried('gone', gone);
      log.error(gone, 'webhook disabled: its receiver is gone');
    },
  };
}

/** An error and its causes in one line, each once, with the code where its words do not say it. */
function causeOf(error: unknown): string {
  const words: string[] = [];
  for (let each = error; each !== undefined && words.length < 4; each = (each as { cause?: unknown }).cause) {
    // A refusal's words are for the caller.
    if (each instanceof ServiceError && each.cause !== undefined) continue;
    if (typeof each !== 'object' || each === null || !('message' in each)) {
      words.push(String(each));
      break;
    }
    const inner = each instanceof AggregateError && each.message === '' ? each.errors.map(causeOf).join(', ') : '';
    const { code } = each as { code?: unknown };
    const text = String(each.message) || inner || 'an error without words';
    words.push(typeof code === 'string' && !text.includes(code) ? `${text} (${code})` : text);
  }
  return [...new Set(words)].join(': ') || 'not known';
}

/** The events of one service. */
export type Events = ReturnType<typeof createEvents>;

function spanTally(tally: Tally | undefined): Record<string, number> {
  return Object.fromEntries(Object.entries(tally ?? {}).map(([name, value]) => [`sendbatch.${name}`, value]));
}
