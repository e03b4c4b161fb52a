import { STATUS_CODES } from 'node:http';
import { constants, type ServerHttp2Stream } from 'node:http2';
import type { Readable } from 'node:stream';
import type { ConnectError } from '@connectrpc/connect';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import { endStreamFlag, endStreamToJson, errorToJson } from '@connectrpc/connect/protocol-connect';
import { detailRegistry, setPushback, toHttp } from '../rpc/error-mapping.ts';
import { type Request, type RequestContext, type Response, requestIdHeader } from '../rpc/request-context.ts';
import { closeAfter } from './closing.ts';
import { acceptsSse, canRetry, sseHeaders, toSseError } from './event-stream.ts';
import { setGrpcStatus } from './grpc-message.ts';
import { requestIdUnindexed } from './http2-headers.ts';

/** An error as each protocol writes it, for calls that are refused before their body is read. */
export type EarlyAnswers = Readonly<Record<Shape, Answer>>;

type Shape = 'grpc' | 'stream' | 'connect' | 'events' | 'json';

interface Answer {
  readonly status: number;
  /** Without a content-type, which then is the request's. */
  readonly headers: Readonly<Record<string, string>>;
  /** As text where it is text: Node writes it together with the headers, in one piece. */
  readonly body?: string | Uint8Array;
  readonly bodyBytes: number;
}

/** For how long the rest of a refused body is discarded when it does not end. */
interface DiscardBounds {
  /** Milliseconds without a byte. */
  readonly idleMs: number;
  /** Milliseconds in all, however it arrives. */
  readonly maxMs: number;
}

/**
 * On HTTP/1.1 the client has its answer, and loses it when the connection is closed while it still
 * sends: machines stand still for seconds. On HTTP/2 some answers wait for the end of the body, and
 * a closed stream loses none.
 */
const discardBounds: Readonly<Record<'http1' | 'http2', DiscardBounds>> = {
  http1: { idleMs: 5000, maxMs: 30_000 },
  http2: { idleMs: 2000, maxMs: 10_000 },
};

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
  // Connect adds the error's metadata to the first argument.
  const endOfStream = endStreamToJson(new Headers(), error, { registry: detailRegistry });
  const jsonAnswer = render(status, json, JSON.stringify(body));
  return {
    grpc: render(200, trailers),
    stream: render(200, new Headers(), encodeEnvelope(endStreamFlag, Buffer.from(JSON.stringify(endOfStream)))),
    connect: render(status, json, JSON.stringify(errorToJson(error, { registry: detailRegistry }))),
    events: canRetry(error) ? eventAnswer(error) : jsonAnswer,
    json: jsonAnswer,
  };
}

function eventAnswer(error: ConnectError): Answer {
  const headers = new Headers(error.metadata);
  for (const [name, value] of Object.entries(sseHeaders)) headers.set(name, value);
  return render(200, headers, toSseError(error));
}

function render(status: number, headers: Headers, body?: string | Uint8Array): Answer {
  const bodyBytes = body === undefined ? 0 : Buffer.byteLength(body);
  return { status, headers: Object.fromEntries(headers), bodyBytes, ...(body === undefined ? {} : { body }) };
}

/**
 * Refuses a request in its protocol before its body is read. All headers are written at once, on
 * HTTP/2 by the stream below the response: Node checks and copies those that are set singly.
 */
export function answerEarly(context: RequestContext, response: Response, answers: EarlyAnswers): void {
  const { request } = context;
  const { status, headers, body, bodyBytes } = answers[shapeOf(context)];
  const fields = fieldsOf(context, headers);
  const isHead = request.method === 'HEAD';
  if (!('stream' in response) || isHead) {
    response.writeHead(status, isHead ? fields : { ...fields, 'content-length': bodyBytes });
    if (body === undefined || isHead) response.end();
    else response.end(body);
    return;
  }
  const { stream } = response;
  afterBody(request, stream, () => {
    if (stream.destroyed || stream.closed) return;
    // Without a body only headers are written, and they end the stream: gRPC's Trailers-Only.
    stream.respond({ ...fields, ':status': status, ...requestIdUnindexed }, { endStream: body === undefined });
    if (body !== undefined) stream.end(body);
  });
}

/** All headers of an answer to one request. */
function fieldsOf(context: RequestContext, headers: Answer['headers']): Record<string, string> {
  return {
    ...context.answerHeaders,
    [requestIdHeader]: context.requestId,
    'content-type': context.request.headers['content-type'] ?? '',
    ...headers,
  };
}

/**
 * The bytes of an answer on HTTP/1.1, after which the connection is closed: for a request whose
 * response others may be writing to.
 */
export function lastAnswer(context: RequestContext, answers: EarlyAnswers): Buffer {
  const { status, headers, body = '', bodyBytes } = answers[shapeOf(context)];
  const head = Object.entries({ ...fieldsOf(context, headers), connection: 'close', 'content-length': bodyBytes });
  return Buffer.concat([
    Buffer.from(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n`),
    ...head.map(([name, value]) => Buffer.from(`${name}: ${value}\r\n`)),
    Buffer.from('\r\n'),
    Buffer.from(body),
  ]);
}

function shapeOf({ protocol, request }: RequestContext): Shape {
  const type = request.headers['content-type'] ?? '';
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
function afterBody(request: Request, stream: ServerHttp2Stream, answer: () => void): void {
  // A client that waits for `100 Continue` sends no body.
  if (request.complete || stream.readableEnded || request.headers.expect !== undefined) {
    answer();
    return;
  }
  let isAnswered = false;
  const once = () => {
    if (isAnswered) return;
    isAnswered = true;
    stop();
    answer();
  };
  const stop = whenIdle(stream, discardBounds.http2, once);
  stream.once('end', once).once('close', once).resume();
}

/** Discards the rest of a body, within the bounds of its protocol. */
export async function discard(request: Request): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = whenIdle(request, discardBounds[request.httpVersionMajor === 2 ? 'http2' : 'http1'], resolve);
  request
    .on('error', () => {})
    .once('end', resolve)
    .once('close', resolve);
  // An iterator that was left amid the body still listens, and nothing would flow.
  request.removeAllListeners('readable');
  if (request.complete) resolve();
  else request.resume();
  try {
    await promise;
  } finally {
    stop();
    request.off('end', resolve).off('close', resolve);
  }
}

/** A body that is being discarded. */
interface Discarding {
  readonly bounds: DiscardBounds;
  readonly since: number;
  readonly onIdle: () => void;
  /** Milliseconds without a byte, as of the last check. */
  quietMs: number;
}

/**
 * Interval between two checks. A pause of the event loop counts as one interval, since what has
 * arrived meanwhile is read after it.
 */
const discardCheckMs = 100;
const discarding = new Set<Discarding>();
let checks: NodeJS.Timeout | undefined;

/**
 * Calls back when a body is beyond these bounds. Returns what stops it. One timer serves all
 * bodies: two of its own cost a refusal 5 to 8 µs.
 */
function whenIdle(body: Readable, bounds: DiscardBounds, onIdle: () => void): () => void {
  const each: Discarding = { bounds, since: performance.now(), onIdle, quietMs: 0 };
  const onData = () => {
    each.quietMs = 0;
  };
  body.on('data', onData);
  discarding.add(each);
  checks ??= setInterval(checkDiscarding, discardCheckMs).unref();
  return () => {
    discarding.delete(each);
    body.off('data', onData);
  };
}

function checkDiscarding(): void {
  if (discarding.size === 0) {
    clearInterval(checks);
    checks = undefined;
    return;
  }
  const now = performance.now();
  for (const each of discarding) {
    each.quietMs += discardCheckMs;
    if (each.quietMs <= each.bounds.idleMs && now - each.since < each.bounds.maxMs) continue;
    discarding.delete(each);
    each.onIdle();
  }
}

/**
 * A refused body of at most this declared length is read to its end, and its HTTP/1.1 connection
 * kept.
 */
const maxKeptBytes = 1024 * 1024;

/**
 * Frees an HTTP/1.1 connection after an early answer: discards the rest of the body, then closes
 * it. Without it a kept-alive connection hung until the upload timeout, and its next call with it.
 */
export function freeWhenAnsweredEarly(request: Request, response: Response): void {
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
  if ('stream' in response || (encoding === undefined && Number(length) <= maxKeptBytes)) return;
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
 * Ends an HTTP/2 stream whose answer ended before its request: discards the rest of the body, then
 * resets the stream without an error (RFC 9113, section 8.1). Without it the stream stayed open,
 * and its bytes took the window of the connection.
 */
export function endAnsweredStream(request: Request, response: Response): void {
  if (!('stream' in response) || request.complete) return;
  const { stream } = response;
  void discard(request).then(() => {
    if (!stream.closed) stream.close(constants.NGHTTP2_NO_ERROR);
  });
}

/** Discards the rest of a body before its error is answered on HTTP/2, as `afterBody` does. */
export async function discardBeforeError(request: Request, response: Response, status: number): Promise<void> {
  if ('stream' in response && status >= 400 && !request.complete) await discard(request);
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
