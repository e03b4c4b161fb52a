import type { ConnectError } from '@connectrpc/connect';
import { ServiceError } from '../messages/service-error.ts';
import type { Events } from '../observability/events/index.ts';
import { retryMsOf, toConnectError, toHttp } from '../rpc/error-mapping.ts';
import { endOf } from '../rpc/interceptors/call-log.ts';
import { callerSignal, type Request, type RequestContext, type Response } from '../rpc/request-context.ts';

/**
 * A reader that accepts nothing for this long is disconnected. Its EventSource reconnects with the
 * last id that it has.
 */
const slowMs = 60_000;
/** Time before EventSource reconnects. */
const retryMs = 1000;
const eventsType = 'text/event-stream';

/**
 * Identifies the caller and opens its stream, which ends when the signal aborts. Undefined: the
 * stream has ended for good.
 */
export type OpenEvents = (call: EventsCall) => Promise<AsyncIterable<string> | undefined>;

/** The request for a stream. */
export interface EventsCall {
  readonly context: RequestContext;
  readonly signal: AbortSignal;
}

/** A stream and the RPC that it stands for. */
export interface EventsRoute {
  readonly method: string;
  readonly open: OpenEvents;
}

/**
 * Whether the client accepts Server-Sent Events only: EventSource, which gives up on any other
 * answer.
 */
export function takesEvents({ headers }: Pick<Request, 'headers'>): boolean {
  return String(headers.accept ?? '').includes(eventsType);
}

/** Whether a retry can succeed. */
export function passes(error: ConnectError): boolean {
  return retryMsOf(error) !== undefined;
}

/**
 * Renders an error as the last event of a stream, with the time to reconnect if a retry can help.
 */
export function errorEvent(error: ConnectError): string {
  const askedMs = retryMsOf(error);
  const retry = askedMs === undefined ? '' : `retry: ${Math.max(retryMs, Math.ceil(askedMs))}\n`;
  return `${retry}event: error\ndata: ${JSON.stringify(toHttp(error).body)}\n\n`;
}

/** Headers of every event stream. */
export const eventHeaders = {
  'content-type': `${eventsType}; charset=utf-8`,
  'cache-control': 'no-store',
  'x-accel-buffering': 'no',
};

/** Answers with Server-Sent Events; answers HEAD with their headers. */
export async function serveEvents(
  context: RequestContext,
  response: Response,
  { method, open }: EventsRoute,
  watch: Events,
): Promise<void> {
  const { controller, release } = callerSignal(response);
  const { request, requestId, header } = context;
  const call = watch.callBegan({ requestId, method, protocol: 'sse', header });
  response.setHeader('x-request-id', requestId);
  let events: AsyncIterator<string> | undefined;
  try {
    const opened = await call.run(() => open({ context, signal: controller.signal }));
    if (opened === undefined) {
      // The only answer after which EventSource does not reconnect.
      response.writeHead(204);
      response.end();
    } else {
      const iterator = opened[Symbol.asyncIterator]();
      events = iterator;
      // Waits for the first event before it sends headers, so that a refusal is an error status.
      const first = await call.run(() => iterator.next());
      response.writeHead(200, eventHeaders);
      if (request.method !== 'HEAD') await pour(response, iterator, { first, gone: controller.signal });
      response.end();
    }
    call.ended(endOf(undefined, context));
  } catch (error) {
    const failure = toConnectError(error);
    call.ended(endOf(failure, context));
    if (!response.destroyed) endWith(failure, request, response);
  } finally {
    release();
    controller.abort(new ServiceError({ reason: 'STOPPING', message: 'the stream has ended', metadata: {} }));
    // The reader may have left during a write, between two events. Only this ends the generator
    // then.
    void events?.return?.().catch(() => {});
  }
}

async function pour(
  response: Response,
  events: AsyncIterator<string>,
  { first, gone }: { first: IteratorResult<string>; gone: AbortSignal },
): Promise<void> {
  await write(response, `retry: ${retryMs}\n\n`, gone);
  for (let next = first; next.done !== true; next = await events.next()) await write(response, next.value, gone);
}

/** Ends with an error, whether or not the stream has begun. */
function endWith(error: ConnectError, request: Request, response: Response): void {
  if (response.headersSent) {
    // EventSource reconnects by itself; other clients read the reason.
    response.end(errorEvent(error));
    return;
  }
  for (const [name, value] of error.metadata) response.setHeader(name, value);
  const { status, body } = toHttp(error);
  const comesBack = passes(error) && takesEvents(request);
  if (comesBack) response.writeHead(200, eventHeaders);
  else response.writeHead(status, { 'content-type': 'application/json' });
  if (request.method === 'HEAD') response.end();
  else response.end(comesBack ? errorEvent(error) : JSON.stringify(body));
}

/**
 * Writes, and waits until the reader accepts more. `gone` aborts when the reader has disconnected:
 * a `close` event may have been emitted already.
 */
async function write(response: Response, text: string, gone: AbortSignal): Promise<void> {
  gone.throwIfAborted();
  if (response.write(text)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    response.destroy();
    reject(
      new ServiceError({
        reason: 'READER_TOO_SLOW',
        message: `the reader accepted nothing for ${slowMs / 1000} s`,
        metadata: {},
      }),
    );
  }, slowMs);
  const hungUp = () => reject(gone.reason);
  response.once('drain', resolve);
  gone.addEventListener('abort', hungUp);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    response.off('drain', resolve);
    gone.removeEventListener('abort', hungUp);
  }
}
