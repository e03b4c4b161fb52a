import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { ServiceError } from '../../messages/service-error.ts';
import type { CallEnd, Events } from '../../observability/events/index.ts';
import { RefusalError, setPushback, statusNameOf, toConnectError } from '../error-mapping.ts';
import { type RequestContext, requestContextOf, requestIdHeader } from '../request-context.ts';

/** How a call ended, for the log, the metrics and the traces. */
export function callEndOf(error: ConnectError | undefined, { caller, counts }: RequestContext): CallEnd {
  if (error === undefined) return { code: 'OK', caller: caller.id, counts };
  const reason = error instanceof RefusalError ? error.refusal.reason : undefined;
  return { code: statusNameOf(error.code), reason, cause: error.cause, caller: caller.id, counts };
}

/**
 * The outermost interceptor: sets the request id, maps thrown values to errors (nowhere else), and
 * reports the call.
 */
export function callInterceptor(events: Events): Interceptor {
  const names = new Map<DescMethod, string>();
  const nameOf = (method: DescMethod): string => {
    let name = names.get(method);
    if (name === undefined) {
      name = `${method.parent.typeName}/${method.name}`;
      names.set(method, name);
    }
    return name;
  };
  return (next) => async (request) => {
    const { header, contextValues } = request;
    const context = requestContextOf(contextValues);
    const { requestId, protocol } = context;
    context.isCalled = true;
    const call = events.callBegan({ requestId, method: nameOf(request.method), protocol, header });
    const ended = (error?: ConnectError) => call.ended(callEndOf(error, context));
    const toCallError = (thrown: unknown) => {
      const error = errorOf(thrown, request);
      error.metadata.set(requestIdHeader, requestId);
      if (protocol === 'grpc') setPushback(error.metadata, error);
      return error;
    };
    try {
      const response = await call.run(() => next(request));
      response.header.set(requestIdHeader, requestId);
      if (response.stream) {
        return { ...response, message: whileRunning(response.message, { error: toCallError, ended }) };
      }
      ended();
      return response;
    } catch (thrown) {
      const error = toCallError(thrown);
      ended(error);
      throw error;
    }
  };
}

/**
 * A stream whose end ends the call, with its error mapped like any call's. Not a generator, which
 * takes three promises per message.
 */
function whileRunning<T>(
  messages: AsyncIterable<T>,
  call: { readonly error: (thrown: unknown) => ConnectError; readonly ended: (error?: ConnectError) => void },
): AsyncIterable<T> {
  const iterator = messages[Symbol.asyncIterator]();
  let isEnded = false;
  const ended = (error?: ConnectError) => {
    if (!isEnded) call.ended(error);
    isEnded = true;
  };
  const step = async (next: Promise<IteratorResult<T>>) => {
    try {
      const result = await next;
      if (result.done === true) ended();
      return result;
    } catch (thrown) {
      const error = call.error(thrown);
      ended(error);
      throw error;
    }
  };
  const done = { done: true, value: undefined } as const;
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => step(iterator.next()),
      throw: (error) => step(iterator.throw?.(error) ?? Promise.reject(error)),
      async return() {
        // Neither the end nor an error: the reader has left.
        await iterator.return?.().finally(() => ended(new ConnectError('the caller disconnected', Code.Canceled)));
        return done;
      },
    }),
  };
}

/**
 * Codes of errors that a read or a write throws when the other side, or the signal, has ended it.
 */
const disconnectCodes: ReadonlySet<unknown> = new Set([
  'ABORT_ERR',
  'ECANCELED',
  'ECONNRESET',
  'EPIPE',
  'ERR_HTTP2_INVALID_STREAM',
  'ERR_STREAM_DESTROYED',
  'ERR_STREAM_PREMATURE_CLOSE',
  'ERR_STREAM_WRITE_AFTER_END',
]);

/**
 * The error that is answered. A caller that disconnects is not a defect, whatever Node throws then.
 * Reads the signal here and not before: it is created on demand, for 2 kB per call.
 */
function errorOf(thrown: unknown, call: { readonly signal: AbortSignal; readonly stream: boolean }): ConnectError {
  if (thrown instanceof ConnectError || thrown instanceof ServiceError) return toConnectError(thrown);
  const { signal, stream } = call;
  const { code, name } = thrown as { code?: unknown; name?: unknown };
  const isDisconnect = disconnectCodes.has(code) || name === 'AbortError';
  if (!(signal.aborted && (thrown === signal.reason || isDisconnect)) && !(stream && isDisconnect))
    return toConnectError(thrown);
  return signal.reason instanceof ConnectError
    ? signal.reason
    : new ConnectError('the caller disconnected', Code.Canceled, undefined, undefined, thrown);
}
