import { Failure } from '../domain/failure.ts';
import { callerSignal, type Request, type Response } from './exchange.ts';
import { toConnectError, toHttp } from './failures.ts';

/** A reader that takes nothing for so long is cut: its EventSource comes back by itself, with the last id that it has. */
const slowMs = 60_000;
/** What EventSource waits before it comes back. */
const retryMs = 1000;

/** Opens a stream's events: who may read is asked first. They end when the signal is aborted. Undefined: there will never be another. */
export type OpenEvents = (request: Request, signal: AbortSignal) => Promise<AsyncIterable<string> | undefined>;

/** Answers with Server-Sent Events. */
export async function serveEvents(request: Request, response: Response, open: OpenEvents): Promise<void> {
  const { controller, release } = callerSignal(response);
  try {
    const opened = await open(request, controller.signal);
    if (opened === undefined) {
      // The one answer after which EventSource does not come back.
      response.writeHead(204);
      response.end();
      return;
    }
    const events = opened[Symbol.asyncIterator]();
    // The first event before the headers: what is refused is an error, not a stream.
    let next = await events.next();
    response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    });
    await write(response, `retry: ${retryMs}\n\n`);
    while (next.done !== true) {
      await write(response, next.value);
      next = await events.next();
    }
    response.end();
  } catch (error) {
    if (response.destroyed) return;
    const failure = toConnectError(error);
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

async function write(response: Response, text: string): Promise<void> {
  if (response.write(text)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    response.destroy();
    reject(new Failure({ reason: 'READER_TOO_SLOW', message: 'the reader takes nothing', metadata: {} }));
  }, slowMs);
  const done = () => resolve();
  response.once('drain', done).once('close', done);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    response.off('drain', done).off('close', done);
  }
}
