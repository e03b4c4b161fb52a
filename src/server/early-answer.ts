import { constants } from 'node:http2';
import type { ConnectError } from '@connectrpc/connect';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import { endStreamFlag, endStreamToJson, errorToJson } from '@connectrpc/connect/protocol-connect';
import { detailRegistry, setPushback, toHttp } from '../rpc/error-mapping.ts';
import { type Request, type RequestContext, type Response, requestIdHeader } from '../rpc/request-context.ts';
import { closeAfter } from './closing.ts';
import { acceptsSse, canRetry, sseHeaders, toSseError } from './event-stream.ts';
import { setGrpcStatus } from './grpc-message.ts';

/** An error as each protocol writes it, for calls that are refused before their body is read. */
export type EarlyAnswers = Readonly<Record<Shape, Answer>>;

type Shape = 'grpc' | 'stream' | 'connect' | 'events' | 'json';

interface Answer {
  readonly status: number;
  /** Without a content-type, which then is the request's. */
  readonly headers: Headers;
  /** As text where it is text: Node writes it together with the headers, in one piece. */
  readonly body?: string | Uint8Array;
}

/**
 * The rest of a refused body is discarded until it ends, or until no byte has arrived for this many
 * milliseconds: a client on a slow machine gets its answer before the connection or stream is
 * closed. On HTTP/1.1 the connection's next call waits meanwhile; on HTTP/2 none does.
 */
const discardIdleMs = { http1: 1000, http2: 2000 };
/** Milliseconds for which a body is discarded at most, however it arrives. */
const maxDiscardMs = 10_000;

/**
 * Renders an error for every protocol, once for many refusals. `httpStatus` overrides the status on
 * Connect and the JSON routes.
 */
export function earlyAnswers(error: ConnectError, httpStatus?: number): EarlyAnswers {
  const { status, body } = toHttp(error, httpStatus);
  const trailers = new Headers();
  setGrpcStatus(trailers, error);
  setPushback(trailers, error);
  const json = new Headers(error.metadata);
  json.set('content-type', 'application/json');
  const endOfStream = endStreamToJson(error.metadata, error, { registry: detailRegistry });
  const jsonAnswer = { status, headers: json, body: JSON.stringify(body) };
  return {
    grpc: { status: 200, headers: trailers },
    stream: {
      status: 200,
      headers: new Headers(),
      body: encodeEnvelope(endStreamFlag, Buffer.from(JSON.stringify(endOfStream))),
    },
    connect: { status, headers: json, body: JSON.stringify(errorToJson(error, { registry: detailRegistry })) },
    events: canRetry(error) ? eventAnswer(error) : jsonAnswer,
    json: jsonAnswer,
  };
}

function eventAnswer(error: ConnectError): Answer {
  const headers = new Headers(error.metadata);
  for (const [name, value] of Object.entries(sseHeaders)) headers.set(name, value);
  return { status: 200, headers, body: toSseError(error) };
}

/** Refuses a request in its protocol before its body is read. */
export function answerEarly(context: RequestContext, response: Response, answers: EarlyAnswers): void {
  const { request } = context;
  const type = request.headers['content-type'] ?? '';
  const { status, headers, body } = answers[shapeOf(type, context)];
  response.statusCode = status;
  for (const [name, value] of Object.entries(context.answerHeaders)) response.setHeader(name, value);
  response.setHeader(requestIdHeader, context.requestId);
  for (const [name, value] of headers) response.setHeader(name, value);
  if (!headers.has('content-type')) response.setHeader('content-type', type);
  afterBody(request, response, () => {
    // Without a body only headers are written, and they end the stream: gRPC's Trailers-Only.
    if (body === undefined) response.end();
    else response.end(body);
  });
}

function shapeOf(type: string, { protocol, request }: RequestContext): Shape {
  if (type.startsWith('application/grpc')) return 'grpc';
  if (type.startsWith('application/connect+')) return 'stream';
  if (protocol === 'connect') return 'connect';
  return acceptsSse(request) ? 'events' : 'json';
}

/**
 * Answers after the body is discarded. Node's HTTP/2 client counts unsent bytes against its session
 * and refuses headers above 10 MB: an answer amid four refused batches of 3 MB would reach it as
 * INTERNAL or ENHANCE_YOUR_CALM.
 */
function afterBody(request: Request, response: Response, answer: () => void): void {
  // A client that waits for `100 Continue` sends no body.
  if (!('stream' in response) || request.headers.expect !== undefined) {
    answer();
    return;
  }
  const { stream } = response;
  void discard(request).then(() => {
    if (!stream.destroyed) answer();
  });
}

/** Discards the rest of a body, within `discardIdleMs` and `maxDiscardMs`. */
export async function discard(request: Request): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = whenIdle(request, 'stream' in request ? discardIdleMs.http2 : discardIdleMs.http1, resolve);
  request
    .on('error', () => {})
    .once('end', resolve)
    .once('close', resolve);
  if (request.complete) resolve();
  else request.resume();
  try {
    await promise;
  } finally {
    stop();
    request.off('end', resolve).off('close', resolve);
  }
}

/**
 * Calls back when no byte has arrived for `idleMs`, or after `maxDiscardMs`. Returns what stops it.
 */
function whenIdle(request: Request, idleMs: number, onIdle: () => void): () => void {
  const idle = setTimeout(onIdle, idleMs).unref();
  const total = setTimeout(onIdle, maxDiscardMs).unref();
  const refresh = () => void idle.refresh();
  request.on('data', refresh);
  return () => {
    clearTimeout(idle);
    clearTimeout(total);
    request.off('data', refresh);
  };
}

/**
 * A refused body of at most this declared length is read to its end, and its HTTP/1.1 connection
 * kept.
 */
const maxKeptBytes = 1024 * 1024;

/**
 * Frees a connection after an early answer: discards the rest of the body, then closes the
 * stream or connection. Without it a kept-alive connection hung until the upload
 * timeout, and its next call with it.
 */
export function freeWhenAnsweredEarly(request: Request, response: Response): void {
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
  if ('stream' in response) {
    const { stream } = response;
    response.once('finish', () => {
      if (stream.destroyed || request.complete) return;
      request.on('error', () => {}).resume();
      const stop = whenIdle(request, discardIdleMs.http1, () => stream.close(constants.NGHTTP2_NO_ERROR));
      stream.once('close', stop);
    });
    return;
  }
  if (encoding === undefined && Number(length) <= maxKeptBytes) return;
  const { socket } = request;
  const writeHead = response.writeHead;
  response.writeHead = ((...head: Parameters<typeof writeHead>) => {
    if (!request.complete) {
      // Node then writes `Connection: close` and would close at once: unread bytes would reset the
      // connection before the client has read the answer.
      closeAfter(request, response);
      const destroySoon = socket.destroySoon.bind(socket);
      socket.destroySoon = () => void discard(request).then(destroySoon);
    }
    return writeHead.apply(response, head);
  }) as typeof writeHead;
}

/**
 * The same for the rest of a small body: called when an HTTP/1.1 answer ended before its request.
 */
export function discardRest(request: Request, response: Response): void {
  if ('stream' in response || !response.shouldKeepAlive) return;
  void discard(request).then(() => {
    if (!request.complete) request.socket.destroy();
  });
}
