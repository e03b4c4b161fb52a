import { randomUUID } from 'node:crypto';
import { Code, type ConnectError, type Interceptor } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { Failure } from '../domain/failure.ts';
import type { Events } from '../events.ts';
import { toConnectError } from './failures.ts';

/** Names the request in and out. A caller's id is kept when it is plain: it goes into the log and into a header. */
const requestIdHeader = 'x-request-id';
const plainId = /^[\w.:-]{1,128}$/;

/** The outermost interceptor: the request's id, the only place where a thrown value becomes an error, and the line about the call. */
export function callInterceptor(events: Events): Interceptor {
  return (next) => async (request) => {
    const given = request.header.get(requestIdHeader) ?? '';
    const requestId = plainId.test(given) ? given : randomUUID();
    const start = performance.now();
    const ended = (error?: ConnectError) => {
      const [info] = error?.findDetails(ErrorInfoSchema) ?? [];
      events.callEnded({
        requestId,
        method: `${request.service.typeName}/${request.method.name}`,
        protocol: request.header.get('content-type') ?? request.requestMethod,
        ms: Math.round((performance.now() - start) * 100) / 100,
        code: error === undefined ? 'OK' : Code[error.code],
        reason: info?.reason,
        cause: error?.cause,
      });
    };
    try {
      const response = await next(request);
      response.header.set(requestIdHeader, requestId);
      if (response.stream) return { ...response, message: until(response.message, requestId, ended) };
      ended();
      return response;
    } catch (thrown) {
      const error = toConnectError(thrown);
      error.metadata.set(requestIdHeader, requestId);
      ended(error);
      throw error;
    }
  };
}

/** A stream whose end is the call's end, and whose error is made one for callers as any call's is. */
async function* until<T>(
  messages: AsyncIterable<T>,
  requestId: string,
  ended: (error?: ConnectError) => void,
): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (thrown) {
    const error = toConnectError(thrown);
    error.metadata.set(requestIdHeader, requestId);
    ended(error);
    throw error;
  }
  ended();
}

/**
 * Ends a call at its deadline, or after `longestMs` where it has none or a longer one. Connect only aborts the signal: a handler that waits for
 * the database would answer late. The work goes on; its outcome is for the retry to find.
 */
export function deadlineInterceptor(longestMs: number): Interceptor {
  return (next) => async (request) => {
    if (request.stream) return await next(request);
    const { promise: tooLate, reject } = Promise.withResolvers<never>();
    const expire = () =>
      reject(
        new Failure({
          reason: 'DEADLINE',
          message:
            'the call took longer than its deadline; whether it was stored is not known: send it again with the same keys (client_msg_no or request_id)',
          metadata: {},
        }),
      );
    const timer = setTimeout(expire, longestMs);
    const aborted = () => {
      if (isDeadline(request.signal.reason)) expire();
    };
    request.signal.addEventListener('abort', aborted);
    if (request.signal.aborted) aborted();
    try {
      return await Promise.race([next(request), tooLate]);
    } finally {
      clearTimeout(timer);
      request.signal.removeEventListener('abort', aborted);
    }
  };
}

function isDeadline(reason: unknown): boolean {
  return reason instanceof Error && 'code' in reason && reason.code === Code.DeadlineExceeded;
}
