import { errorText } from '../error-text.ts';
import type { Log } from '../log.ts';
import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';
import type { Traces } from '../tracing.ts';
import type { BatchCounts } from './batch-counts.ts';

/** The protocol of a call. */
export type Protocol = 'grpc' | 'grpc-web' | 'connect' | 'json' | 'sse';

/** OpenTelemetry's names of RPC systems. It has none for the JSON routes. */
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
  /** When the call arrived, by performance.now(). Unset: now. */
  readonly began?: number;
}

/**
 * A request that was rejected before a call was created. The path is without its query, which may
 * contain a token.
 */
export interface RejectedRequest {
  readonly httpMethod: string;
  readonly path: string;
  readonly requestId: string | undefined;
}

/** Messages of a call, and their counts by outcome once they are known. */
export type CallCounts = { readonly messages: number } & { -readonly [Name in keyof BatchCounts]?: BatchCounts[Name] };

/** How a call ended. */
export interface CallEnd {
  /** `OK`, or the name of the status code. */
  readonly code: string;
  readonly reason?: string | undefined;
  readonly cause?: unknown;
  /** The id of the credential, which is not secret. */
  readonly caller?: string;
  readonly counts?: CallCounts | undefined;
}

/** A call in progress. */
export interface Call {
  run<T>(work: () => T): T;
  ended(end: CallEnd): void;
}

interface CallEventsOptions {
  readonly log: Log;
  readonly registry: Registry;
  readonly accessLog: boolean;
  readonly traces: Traces | undefined;
}

/** Events of calls and of requests that became none. */
export function createCallEvents({ log, registry, accessLog, traces }: CallEventsOptions) {
  const calls = registry.histogram(metrics.callDuration);
  const rejected = registry.counter(metrics.requestsRejected);
  const internalErrors = registry.counter(metrics.internalErrors);
  for (const reason of ['origin', 'not_found', 'malformed', 'overloaded']) rejected.add(0, { reason });
  internalErrors.add(0);

  const callEnded = (call: CallStart, end: CallEnd, seconds: number, traceId: string | undefined): void => {
    const { code, reason } = end;
    const failed = code !== 'OK';
    calls.record(seconds, {
      rpc_system_name: systems[call.protocol],
      rpc_method: call.method,
      protocol: call.protocol,
      rpc_response_status_code: code,
      ...(failed ? { error_type: reason ?? code } : {}),
    });
    const isInternal = reason === 'INTERNAL';
    const isBusy = reason === 'STORE_BUSY';
    if (isInternal) internalErrors.add(1);
    if (!isInternal && !isBusy && !accessLog && !log.isEnabled('callEnded')) return;
    const fields = {
      requestId: call.requestId,
      method: call.method,
      protocol: call.protocol,
      code,
      reason,
      caller: end.caller,
      ...end.counts,
      durationMs: Math.round(seconds * 1e5) / 100,
      traceId,
    };
    // An internal error is logged with its cause; every other refusal is the caller's business.
    if (isInternal) log('callFailed', { ...fields, err: end.cause });
    else if (isBusy) log('storeBusy', { ...fields, cause: errorText(end.cause) });
    if (accessLog) log('call', fields);
    else if (!isInternal && !isBusy) log('callEnded', fields);
  };

  const requestRejected = (
    reason: 'origin' | 'not_found' | 'malformed' | 'overloaded',
    request: RejectedRequest,
  ): void => {
    rejected.add(1, { reason });
    if (accessLog) log('requestRejected', { ...request, reason });
  };

  return {
    /** A call began, on any protocol; the result takes its end. */
    callBegan(call: CallStart): Call {
      const start = call.began ?? performance.now();
      const span = traces?.beginCall({ ...call, system: systems[call.protocol] });
      return {
        run: span === undefined ? (work) => work() : span.run,
        ended(end) {
          callEnded(call, end, (performance.now() - start) / 1000, span?.traceId);
          span?.end(end.code, end.code === 'OK' ? undefined : (end.reason ?? end.code), spanAttributes(end.counts));
        },
      };
    },
    /** The answer of a call that succeeded could not be written. */
    answerFailed({ requestId, method, protocol }: Omit<CallStart, 'header' | 'began'>, error: unknown): void {
      internalErrors.add(1);
      log('callFailed', { requestId, method, protocol, code: 'INTERNAL', reason: 'INTERNAL', err: error });
    },
    /** A request was rejected before a call was created. */
    requestRejected,
    /** Handling a request threw, outside of a call. */
    requestFailed(request: RejectedRequest, error: unknown): void {
      internalErrors.add(1);
      log('requestFailed', { ...request, err: error });
    },
    /** The body of a request was dropped, because the memory for bodies is full. */
    bodyEvicted(request: RejectedRequest): void {
      requestRejected('overloaded', request);
      log('bodyEvicted', { path: request.path, requestId: request.requestId });
    },
    /** Load shedding refused calls since the last such event. */
    callsShed({ refused, share, waitMs }: { refused: number; share: number; waitMs: number }): void {
      rejected.add(refused, { reason: 'overloaded' });
      log('callsShed', { refused, refusedShare: share, queueDelayMs: waitMs });
    },
    /** The keys of the token issuer could not be fetched, or there are none. */
    issuerKeysFailed(error: unknown): void {
      log('issuerKeysFailed', { cause: errorText(error) });
    },
  };
}

function spanAttributes(counts: CallCounts | undefined): Record<string, number> {
  return Object.fromEntries(Object.entries(counts ?? {}).map(([name, value]) => [`sendbatch.${name}`, value]));
}
