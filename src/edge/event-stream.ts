import type { ContextValues } from '@connectrpc/connect';
import { Failure } from '../domain/failure.ts';
import type { Events } from '../events.ts';
import { callIdOf, endOf } from './calls.ts';
import { callerSignal, contextValuesOf, type Request, type Response, webHeaders } from './exchange.ts';
import { toConnectError, toHttp } from './failures.ts';

/** A reader that takes nothing for so long is cut: its EventSource comes back by itself, with the last id that it has. */
const slowMs = 60_000;
/** What EventSource waits before it comes back. */
const retryMs = 1000;

/** Opens a stream's events: who may read is asked first. They end when the signal is aborted. Undefined: there will never be another. */
export type OpenEvents = (call: EventsCall) => Promise<AsyncIterable<string> | undefined>;

/** Who asks for events. */
export interface EventsCall {
  readonly header: Headers;
  readonly values: ContextValues;
  readonly signal: AbortSignal;
}

/** A stream, and the RPC that it is another dress of. */
export interface EventsRoute {
  readonly method: string;
  readonly open: OpenEvents;
}

/** Answers with Server-Sent Events. */
export async function serveEvents(
  request: Request,
  response: Response,
  { method, open }: EventsRoute,
  watch: Events,
): Promise<void> {
  const { controller, release } = callerSignal(response);
  const header = webHeaders(request.headers);
  const values = contextValuesOf(request, 'sse');
  const requestId = callIdOf(header);
  const call = watch.callBegan({ requestId, method, protocol: 'sse', header });
  response.setHeader('x-request-id', requestId);
  try {
    const opened = await call.run(() => open({ header, values, signal: controller.signal }));
    if (opened === undefined) {
      // The one answer after which EventSource does not come back.
      response.writeHead(204);
      response.end();
      call.ended(endOf(undefined, values));
      return;
    }
    const events = opened[Symbol.asyncIterator]();
    // The first event before the headers: what is refused is an error, not a stream.
    let next = await call.run(() => events.next());
    response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    });
    await write(response, `retry: ${retryMs}\n\n`, controller.signal);
    while (next.done !== true) {
      await write(response, next.value, controller.signal);
      next = await events.next();
    }
    response.end();
    call.ended(endOf(undefined, values));
  } catch (error) {
    const failure = toConnectError(error);
    call.ended(endOf(failure, values));
    if (response.destroyed) return;
    const { status, body } = toHttp(failure);
    if (response.headersSent) {
      // EventSource comes back by itself; others read why.
      response.end(`event: error\ndata: ${JSON.stringify(body)}\n\n`);
      return;
    }
    for (const [name, value] of failure.metadata) response.setHeader(name, value);
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  } finally {
    release();
    controller.abort(new Failure({ reason: 'STOPPING', message: 'the stream has ended', metadata: {} }));
  }
}

/** Writes, and waits while the reader takes nothing. `gone`: it has hung up; then there is no event to wait for, for it may have come before. */
async function write(response: Response, text: string, gone: AbortSignal): Promise<void> {
  gone.throwIfAborted();
  if (response.write(text)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    response.destroy();
    reject(new Failure({ reason: 'READER_TOO_SLOW', message: 'the reader takes nothing', metadata: {} }));
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
