import { randomUUID } from 'node:crypto';
import { Code, ConnectError, type ContextValues, createContextKey, type Interceptor } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../../../gen/google/rpc/error_details_pb.ts';
import { callerKey } from '../../auth/identity.ts';
import { ServiceError } from '../../messages/service-error.ts';
import type { CallEnd, Events, Tally } from '../../observability/events/index.ts';
import { setPushback, statusNameOf, toConnectError } from '../error-mapping.ts';
import { entryKey, plainId, requestIdHeader } from '../request-context.ts';

/** Where a call that brings messages says how many, and what became of them. */
export const tallyKey = createContextKey<Tally | undefined>(undefined, { description: 'tally' });

/** The request's id: the caller's, or a new one. */
export function callIdOf(header: Headers): string {
  const given = header.get(requestIdHeader) ?? '';
  return plainId.test(given) ? given : randomUUID();
}

/** How a call ended, in the words of its error. */
export function endOf(error: ConnectError | undefined, values: ContextValues): CallEnd {
  const caller = values.get(callerKey).id;
  const tally = values.get(tallyKey);
  if (error === undefined) return { code: 'OK', caller, tally };
  const [info] = error.findDetails(ErrorInfoSchema);
  return { code: statusNameOf(error.code), reason: info?.reason, cause: error.cause, caller, tally };
}

/** The outermost interceptor: the request's id, the only place where a thrown value becomes an error, and the line about the call. */
export function callInterceptor(events: Events): Interceptor {
  return (next) => async (request) => {
    const { header, contextValues } = request;
    const requestId = callIdOf(header);
    const entry = contextValues.get(entryKey);
    entry.called = true;
    const method = `${request.service.typeName}/${request.method.name}`;
    const call = events.callBegan({ requestId, method, protocol: entry.protocol, header });
    const ended = (error?: ConnectError) => call.ended(endOf(error, contextValues));
    const errorOut = (thrown: unknown) => {
      const error = errorOf(thrown, request);
      error.metadata.set(requestIdHeader, requestId);
      if (entry.protocol === 'grpc') setPushback(error.metadata, error);
      return error;
    };
    try {
      const response = await call.run(() => next(request));
      response.header.set(requestIdHeader, requestId);
      if (response.stream) {
        return { ...response, message: until(response.message, { error: errorOut, ended }) };
      }
      ended();
      return response;
    } catch (thrown) {
      const error = errorOut(thrown);
      ended(error);
      throw error;
    }
  };
}

/** A stream whose end is the call's end, and whose error is made one for callers as any call's is. */
async function* until<T>(
  messages: AsyncIterable<T>,
  call: { readonly error: (thrown: unknown) => ConnectError; readonly ended: (error?: ConnectError) => void },
): AsyncIterable<T> {
  // Where neither the end nor an error comes the reader has left.
  let error: ConnectError | undefined = new ConnectError('the caller disconnected', Code.Canceled);
  try {
    yield* messages;
    error = undefined;
  } catch (thrown) {
    error = call.error(thrown);
    throw error;
  } finally {
    call.ended(error);
  }
}

/** What a stream throws that was cut by its other end, or by its signal: read from it, or written to it while the cut came. */
const cuts: ReadonlySet<unknown> = new Set([
  'ABORT_ERR',
  'ECANCELED',
  'ECONNRESET',
  'EPIPE',
  'ERR_HTTP2_INVALID_STREAM',
  'ERR_STREAM_DESTROYED',
  'ERR_STREAM_PREMATURE_CLOSE',
  'ERR_STREAM_WRITE_AFTER_END',
]);

/** A thrown value as the error that goes out. A caller that hangs up is no defect of the service, whatever words that has in Node. */
function errorOf(thrown: unknown, { signal, stream }: { signal: AbortSignal; stream: boolean }): ConnectError {
  if (thrown instanceof ConnectError || thrown instanceof ServiceError) return toConnectError(thrown);
  const { code, name } = thrown as { code?: unknown; name?: unknown };
  const isCut = cuts.has(code) || name === 'AbortError';
  if (!(signal.aborted && (thrown === signal.reason || isCut)) && !(stream && isCut)) return toConnectError(thrown);
  return signal.reason instanceof ConnectError
    ? signal.reason
    : new ConnectError('the caller disconnected', Code.Canceled, undefined, undefined, thrown);
}

/**
 * Ends a call at its deadline, or after `longestMs` where it has none or a longer one. Connect only aborts the signal: a handler that waits for
 * the database would answer late. The work goes on; its outcome is for the retry to find.
 */
export function deadlineInterceptor(longestMs: number): Interceptor {
  return (next) => (request) => {
    if (request.stream) return next(request);
    const { signal } = request;
    return new Promise((resolve, reject) => {
      const expire = () => reject(deadlineExceeded());
      const aborted = () => {
        if (isDeadline(signal.reason)) expire();
      };
      const timer = setTimeout(expire, longestMs);
      signal.addEventListener('abort', aborted);
      if (signal.aborted) aborted();
      const release = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', aborted);
      };
      const failed = (error: unknown) => {
        release();
        reject(error);
      };
      try {
        next(request).then((response) => {
          release();
          resolve(response);
        }, failed);
      } catch (error) {
        failed(error);
      }
    });
  };
}

function deadlineExceeded(): ServiceError {
  return new ServiceError({
    reason: 'DEADLINE',
    message:
      'the deadline passed, and it is unknown whether the call was stored; retry with the same keys (client_msg_no or request_id)',
    metadata: {},
  });
}

function isDeadline(reason: unknown): boolean {
  return reason instanceof Error && 'code' in reason && reason.code === Code.DeadlineExceeded;
}
