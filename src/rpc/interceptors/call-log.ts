import { Code, ConnectError, type Interceptor } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../../../gen/google/rpc/error_details_pb.ts';
import { ServiceError } from '../../messages/service-error.ts';
import type { CallEnd, Events } from '../../observability/events/index.ts';
import { setPushback, statusNameOf, toConnectError } from '../error-mapping.ts';
import { type RequestContext, requestContextOf, requestIdHeader } from '../request-context.ts';

/** How a call ended, in the words of its error. */
export function endOf(error: ConnectError | undefined, { caller, counts }: RequestContext): CallEnd {
  if (error === undefined) return { code: 'OK', caller: caller.id, counts };
  const [info] = error.findDetails(ErrorInfoSchema);
  return { code: statusNameOf(error.code), reason: info?.reason, cause: error.cause, caller: caller.id, counts };
}

/** The outermost interceptor: the request's id, the only place where a thrown value becomes an error, and the line about the call. */
export function callInterceptor(events: Events): Interceptor {
  return (next) => async (request) => {
    const { header, contextValues } = request;
    const context = requestContextOf(contextValues);
    const { requestId, protocol } = context;
    context.isCalled = true;
    const method = `${request.service.typeName}/${request.method.name}`;
    const call = events.callBegan({ requestId, method, protocol, header });
    const ended = (error?: ConnectError) => call.ended(endOf(error, context));
    const errorOut = (thrown: unknown) => {
      const error = errorOf(thrown, request);
      error.metadata.set(requestIdHeader, requestId);
      if (protocol === 'grpc') setPushback(error.metadata, error);
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
