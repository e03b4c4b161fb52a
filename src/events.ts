import { type Logger as PinoLogger, pino } from 'pino';
import pretty from 'pino-pretty';
import { Failure } from './domain/failure.ts';
import type { WebhookTry } from './domain/webhook.ts';
import { createThrottle } from './log-throttle.ts';
import { safeLine, safePrettyLine } from './telemetry/log-line.ts';
import { type Registry, secondsBounds } from './telemetry/registry.ts';
import type { Traces } from './telemetry/tracing.ts';

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
  const out = wordy
    ? pretty({ sync: true, translateTime: 'SYS:HH:MM:ss', ignore: 'pid,hostname' })
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

const countBounds = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000];
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
  const calls = registry.histogram(
    'rpc_server_call_duration_seconds',
    'Duration of calls, by RPC, protocol and status code (OpenTelemetry: rpc.server.call.duration). A stream lasts until it ends.',
    secondsBounds,
  );
  const rejected = registry.counter('sendbatch_requests_rejected', 'Requests that became no call, by why.');
  const defects = registry.counter('sendbatch_defects', 'Calls that ended with INTERNAL: their causes are in the log.');
  const batches = registry.counter(
    'sendbatch_batches',
    'Batches by what became of them: stored (all of it), partial, refused (none of it, by its own fault), failed (by the service’s).',
  );
  const batchMessages = registry.histogram('sendbatch_batch_messages', 'Messages of a batch.', countBounds);
  const messages = registry.counter(
    'sendbatch_messages',
    'Messages by outcome: accepted, duplicate, refused with a reason.',
  );
  const limited = registry.counter('sendbatch_rate_limited_messages', 'Messages over a rate, by what it counts.');
  const groupMessages = registry.histogram('sendbatch_group_messages', 'Messages that shared a commit.', countBounds);
  const groupBatches = registry.histogram('sendbatch_group_batches', 'Batches that shared a commit.', countBounds);
  const groupWait = registry.histogram(
    'sendbatch_group_wait_seconds',
    'How long the oldest batch of a group waited in its lane.',
    secondsBounds,
  );
  const commits = registry.histogram(
    'sendbatch_commit_duration_seconds',
    'From a group’s begin to its commit, tries included, by how it met the store: trusting (one statement), careful (locks first), passing (without channels that somebody else holds).',
    secondsBounds,
  );
  const again = registry.counter('sendbatch_commit_retries', 'Groups that went again, by why.');
  const locks = registry.histogram(
    'sendbatch_lock_wait_seconds',
    'From BEGIN until the heads of a careful group were locked, a round trip included.',
    secondsBounds,
  );
  const lost = registry.counter('sendbatch_database_connections_lost', 'Connections to the database that broke.');
  const delivered = registry.counter('sendbatch_tail_messages', 'Messages handed to live readers.');
  const lag = registry.histogram(
    'sendbatch_tail_lag_seconds',
    'From a message’s acceptance, by the clock of the instance that took it, until a reader that follows was handed it.',
    secondsBounds,
  );
  const runs = registry.histogram(
    'sendbatch_background_run_duration_seconds',
    'Runs of background work, by loop and outcome.',
    secondsBounds,
  );
  const swept = registry.counter(
    'sendbatch_swept_messages',
    'Messages that were removed: expired, or past their retention.',
  );
  const hook = registry.histogram(
    'sendbatch_moderation_hook_duration_seconds',
    'Calls of the moderation hook, by outcome.',
    secondsBounds,
  );

  const webhooks = registry.histogram(
    'sendbatch_webhook_delivery_duration_seconds',
    'Tries to deliver to webhooks, by outcome: delivered, failed (tried again), parked (not by itself), gone.',
    secondsBounds,
  );
  const announced = registry.counter('sendbatch_webhook_messages', 'Messages of those tries, by outcome.');
  const webhookTried = (outcome: string, { ms, messages: count }: WebhookTry): void => {
    webhooks.record(ms / 1000, { outcome });
    announced.add(count, { outcome });
  };

  // A series that begins at one hides its first increase from rate(): those that alerts look at begin at none.
  for (const outcome of ['stored', 'partial', 'refused', 'failed']) batches.add(0, { outcome });
  for (const outcome of ['accepted', 'duplicate']) messages.add(0, { outcome });
  for (const reason of ownFaults) messages.add(0, { outcome: 'refused', reason });
  for (const reason of ['guard', 'not_found', 'malformed', 'overloaded']) rejected.add(0, { reason });
  for (const reason of ['lock_timeout', 'lost', 'conflict']) again.add(0, { reason });
  for (const kind of ['expired', 'retention']) swept.add(0, { kind });
  for (const outcome of ['delivered', 'failed', 'parked', 'gone']) announced.add(0, { outcome });
  lost.add(0);
  defects.add(0);
  delivered.add(0);

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
    if (isDefect) defects.add(1);
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
    requestRejected(reason: 'guard' | 'not_found' | 'malformed' | 'overloaded', asked: Asked): void {
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
      for (const [by, each] of over) limited.add(each, { by });
    },
    /** A group of batches was committed, or failed. */
    groupEnded(group: { items: number; jobs: number; waitMs: number }): void {
      groupMessages.record(group.items);
      groupBatches.record(group.jobs);
      groupWait.record(group.waitMs / 1000);
    },
    /** The store answered a group. */
    commitEnded(commit: { manner: string; ms: number; stored: boolean }): void {
      commits.record(commit.ms / 1000, { manner: commit.manner, outcome: commit.stored ? 'stored' : 'failed' });
    },
    /** A group has to go again: what it assumed does not hold, or the store had trouble. */
    commitRepeated(reason: string): void {
      again.add(1, { reason });
    },
    /** A careful group has its locks. */
    headsLocked(ms: number): void {
      locks.record(ms / 1000);
    },
    /** The moderation hook answered, or did not; `skipped`: it failed too often to be asked. What goes through then is a setting. */
    moderationHookCalled(call: { ms: number; outcome: 'ok' | 'failed' | 'skipped'; error?: unknown }): void {
      hook.record(call.ms / 1000, { outcome: call.outcome });
      if (call.outcome !== 'ok') log.warn({ err: call.error }, 'the moderation hook failed');
    },
    /** A page of a live tail was handed on. */
    tailRead(page: { messages: number; lagMs: number | undefined }): void {
      delivered.add(page.messages);
      if (page.lagMs !== undefined) lag.record(Math.max(0, page.lagMs) / 1000);
    },
    /** The watch of a loop: a run that fails is a line, and the next one comes in its time. */
    loop(name: string) {
      return {
        onRun: (ms: number, failed: boolean) =>
          runs.record(ms / 1000, { loop: name, outcome: failed ? 'failed' : 'ok' }),
        onError(error: unknown) {
          if (error instanceof Failure || isTrouble(error))
            warnOfTrouble('background work failed', error, { loop: name });
          else log.warn({ err: error, loop: name }, 'background work failed');
        },
      };
    },
    /** The token issuer's keys could not be fetched, or are none. */
    issuerKeysFailed(error: unknown): void {
      log.warn({ err: error }, 'the keys of the token issuer could not be fetched');
    },
    /** Messages were removed. */
    messagesSwept(kind: 'expired' | 'retention', count: number): void {
      if (count > 0) swept.add(count, { kind });
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
      lost.add(1);
      warnOfTrouble('a database connection was lost', error);
    },
    /** A webhook's receiver has taken messages. */
    webhookDelivered(delivered: WebhookTry): void {
      webhookTried('delivered', delivered);
      log.debug(delivered, 'webhook delivered');
    },
    /** It has not, and is tried again. */
    webhookFailed(failed: WebhookTry): void {
      webhookTried('failed', failed);
      log.warn(failed, 'webhook failed');
    },
    /** It has not, and is not tried again by itself. */
    webhookParked(parked: WebhookTry): void {
      webhookTried('parked', parked);
      log.error(parked, 'webhook parked: it has failed as often as it may');
    },
    /** It wants no more. */
    webhookGone(gone: WebhookTry): void {
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
    if (each instanceof Failure && each.cause !== undefined) continue;
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
