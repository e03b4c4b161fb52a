import type { ConnectError } from '@connectrpc/connect';
import { ServiceError } from '../messages/service-error.ts';
import type { Events } from '../observability/events/index.ts';
import { retryAfterMsOf, toConnectError, toHttp } from '../rpc/error-mapping.ts';
import { callEndOf } from '../rpc/interceptors/call-log.ts';
import { callerSignal, type Request, type RequestContext, type Response } from '../rpc/request-context.ts';

/**
 * A reader that accepts nothing for this long is disconnected. Its EventSource reconnects with the
 * last id that it has.
 */
const writeTimeoutMs = 60_000;
/** Time before EventSource reconnects. */
const retryMs = 1000;
const sseType = 'text/event-stream';

/**
 * Identifies the caller and opens its stream, which ends when the signal aborts. Undefined: the
 * stream has ended for good.
 */
export type OpenSse = (call: SseCall) => Promise<AsyncIterable<string> | undefined>;

/** The request for a stream. */
export interface SseCall {
  readonly context: RequestContext;
  readonly signal: AbortSignal;
}

/** A stream and the RPC that it stands for. */
export interface SseRoute {
  readonly method: string;
  readonly open: OpenSse;
}

/**
 * Whether the client accepts Server-Sent Events only: EventSource, which gives up on any other
 * answer.
 */
export function acceptsSse({ headers }: Pick<Request, 'headers'>): boolean {
  return String(headers.accept ?? '').includes(sseType);
}

/** Whether a retry can succeed. */
export function canRetry(error: ConnectError): boolean {
  return retryAfterMsOf(error) !== undefined;
}

/**
 * Renders an error as the last event of a stream, with the time to reconnect if a retry can help.
 */
export function toSseError(error: ConnectError): string {
  const askedMs = retryAfterMsOf(error);
  const retry = askedMs === undefined ? '' : `retry: ${Math.max(retryMs, Math.ceil(askedMs))}\n`;
  return `${retry}event: error\ndata: ${JSON.stringify(toHttp(error).body)}\n\n`;
}

/** Headers of every event stream. */
export const sseHeaders = {
  'content-type': `${sseType}; charset=utf-8`,
  'cache-control': 'no-store',
  'x-accel-buffering': 'no',
};

/** Answers with Server-Sent Events; answers HEAD with their headers. */
export async function serveSse(
  context: RequestContext,
  response: Response,
  { method, open }: SseRoute,
  events: Events,
): Promise<void> {
  const { controller, release } = callerSignal(response);
  const { request, requestId, header } = context;
  const call = events.callBegan({ requestId, method, protocol: 'sse', header });
  response.setHeader('x-request-id', requestId);
  let texts: AsyncIterator<string> | undefined;
  try {
    const opened = await call.run(() => open({ context, signal: controller.signal }));
    if (opened === undefined) {
      // The only answer after which EventSource does not reconnect.
      response.writeHead(204);
      response.end();
    } else {
      const iterator = opened[Symbol.asyncIterator]();
      texts = iterator;
      // Waits for the first event before it sends headers, so that a refusal is an error status.
      const first = await call.run(() => iterator.next());
      response.writeHead(200, sseHeaders);
      if (request.method !== 'HEAD') await writeAll(response, iterator, { first, disconnected: controller.signal });
      response.end();
    }
    call.ended(callEndOf(undefined, context));
  } catch (error) {
    const failure = toConnectError(error);
    call.ended(callEndOf(failure, context));
    if (!response.destroyed) endWith(failure, request, response);
  } finally {
    release();
    controller.abort(new ServiceError({ reason: 'STOPPING', message: 'the stream has ended', metadata: {} }));
    // The reader may have left during a write, between two events. Only this ends the generator
    // then.
    void texts?.return?.().catch(() => {});
  }
}

async function writeAll(
  response: Response,
  events: AsyncIterator<string>,
  { first, disconnected }: { first: IteratorResult<string>; disconnected: AbortSignal },
): Promise<void> {
  await write(response, `retry: ${retryMs}\n\n`, disconnected);
  for (let next = first; next.done !== true; next = await events.next())
    await write(response, next.value, disconnected);
}

/** Ends with an error, whether or not the stream has begun. */
function endWith(error: ConnectError, request: Request, response: Response): void {
  if (response.headersSent) {
    // EventSource reconnects by itself; other clients read the reason.
    response.end(toSseError(error));
    return;
  }
  for (const [name, value] of error.metadata) response.setHeader(name, value);
  const { status, body } = toHttp(error);
  const reconnects = canRetry(error) && acceptsSse(request);
  if (reconnects) response.writeHead(200, sseHeaders);
  else response.writeHead(status, { 'content-type': 'application/json' });
  if (request.method === 'HEAD') response.end();
  else response.end(reconnects ? toSseError(error) : JSON.stringify(body));
}

/**
 * Writes, and waits until the reader accepts more. `disconnected` aborts when the reader has
 * disconnected: a `close` event may have been emitted already.
 */
async function write(response: Response, text: string, disconnected: AbortSignal): Promise<void> {
  disconnected.throwIfAborted();
  if (response.write(text)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    response.destroy();
    reject(
      new ServiceError({
        reason: 'READER_TOO_SLOW',
        message: `the reader accepted nothing for ${writeTimeoutMs / 1000} s`,
        metadata: {},
      }),
    );
  }, writeTimeoutMs);
  const onAbort = () => reject(disconnected.reason);
  response.once('drain', resolve);
  disconnected.addEventListener('abort', onAbort);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    response.off('drain', resolve);
    disconnected.removeEventListener('abort', onAbort);
  }
}
