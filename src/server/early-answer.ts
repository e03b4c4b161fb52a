import { constants } from 'node:http2';
import type { ConnectError } from '@connectrpc/connect';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import { endStreamFlag, endStreamToJson, errorToJson } from '@connectrpc/connect/protocol-connect';
import { detailRegistry, setPushback, toHttp } from '../rpc/error-mapping.ts';
import type { Request, RequestContext, Response } from '../rpc/request-context.ts';
import { errorEvent, eventHeaders, passes, takesEvents } from './event-stream.ts';
import { setGrpcStatus } from './grpc-message.ts';

/** An error as each protocol writes it, for calls that are refused before their body is read. */
export type EarlyAnswers = Readonly<Record<Shape, Answer>>;

type Shape = 'grpc' | 'stream' | 'connect' | 'events' | 'json';

interface Answer {
  readonly status: number;
  /** Without a content-type: it is the request's. */
  readonly headers: Headers;
  readonly body?: Uint8Array;
}

/**
 * Milliseconds that the rest of a refused body is read and discarded; after them the connection or the stream is closed. On HTTP/1.1 the next call of the connection waits for
 * it, on HTTP/2 none does.
 */
const discardMs = { http1: 1000, http2: 2000 };

/** Renders an error in every protocol, once for many refusals. `httpStatus`: instead of its code's, on Connect and the JSON routes. */
export function earlyAnswers(error: ConnectError, httpStatus?: number): EarlyAnswers {
  const { status, body } = toHttp(error, httpStatus);
  const trailers = new Headers();
  setGrpcStatus(trailers, error);
  setPushback(trailers, error);
  const json = new Headers(error.metadata);
  json.set('content-type', 'application/json');
  const bytes = (value: unknown) => Buffer.from(JSON.stringify(value));
  const end = endStreamToJson(error.metadata, error, { registry: detailRegistry });
  const jsonAnswer = { status, headers: json, body: bytes(body) };
  return {
    grpc: { status: 200, headers: trailers },
    stream: { status: 200, headers: new Headers(), body: encodeEnvelope(endStreamFlag, bytes(end)) },
    connect: { status, headers: json, body: bytes(errorToJson(error, { registry: detailRegistry })) },
    events: passes(error) ? eventAnswer(error) : jsonAnswer,
    json: jsonAnswer,
  };
}

function eventAnswer(error: ConnectError): Answer {
  const headers = new Headers(error.metadata);
  for (const [name, value] of Object.entries(eventHeaders)) headers.set(name, value);
  return { status: 200, headers, body: Buffer.from(errorEvent(error)) };
}

/** Refuses a request before its body is read, in its protocol; `method`: the RPC that it is for. */
export function answerEarly(context: RequestContext, response: Response, answers: EarlyAnswers): void {
  const { request } = context;
  const type = request.headers['content-type'] ?? '';
  const { status, headers, body } = answers[shapeOf(type, context)];
  response.statusCode = status;
  for (const [name, value] of headers) response.setHeader(name, value);
  if (!headers.has('content-type')) response.setHeader('content-type', type);
  afterBody(request, response, () => {
    // Without a body nothing is written but headers that end the stream: gRPC's Trailers-Only.
    if (body === undefined) response.end();
    else response.end(body);
  });
}

function shapeOf(type: string, { protocol, request }: RequestContext): Shape {
  if (type.startsWith('application/grpc')) return 'grpc';
  if (type.startsWith('application/connect+')) return 'stream';
  if (protocol === 'connect') return 'connect';
  return takesEvents(request) ? 'events' : 'json';
}

/**
 * Answers after the body has been discarded. Node's HTTP/2 client counts unsent bytes against its session and refuses headers above 10 MB: an answer in the middle of
 * four refused batches of 3 MB would reach it as INTERNAL or ENHANCE_YOUR_CALM.
 */
function afterBody(request: Request, response: Response, answer: () => void): void {
  // Who waits to be asked for its body sends none.
  if (!('stream' in response) || request.headers.expect !== undefined) {
    answer();
    return;
  }
  const { stream } = response;
  void discard(request).then(() => {
    if (!stream.destroyed) answer();
  });
}

/** Discards the rest of a body, for at most `discardMs`. */
export async function discard(request: Request): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, 'stream' in request ? discardMs.http2 : discardMs.http1).unref();
  request
    .on('error', () => {})
    .once('end', resolve)
    .once('close', resolve);
  if (request.complete) resolve();
  else request.resume();
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    request.off('end', resolve).off('close', resolve);
  }
}

/** A declared body of at most this many bytes is read to its end after a refusal, and its HTTP/1.1 connection is kept. */
const keptBytes = 1024 * 1024;

/**
 * Frees a connection from the rest of a body whose call was answered early. The rest is discarded for `discardMs`, then the stream or the connection is closed. Without it
 * a keep-alive connection hung until the upload time-out, and so did the next call on it.
 */
export function freeWhenAnsweredEarly(request: Request, response: Response): void {
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
  if ('stream' in response) {
    const { stream } = response;
    response.once('finish', () => {
      if (stream.destroyed || request.complete) return;
      request.on('error', () => {}).resume();
      const timer = setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), discardMs.http1).unref();
      stream.once('close', () => clearTimeout(timer));
    });
    return;
  }
  if (encoding === undefined && Number(length) <= keptBytes) return;
  const { socket } = request;
  const writeHead = response.writeHead;
  response.writeHead = ((...head: Parameters<typeof writeHead>) => {
    if (!request.complete) {
      // Node then writes `Connection: close`, and closes at once with this; unread bytes would reset the connection before the answer is read.
      response.shouldKeepAlive = false;
      const destroySoon = socket.destroySoon.bind(socket);
      socket.destroySoon = () => void discard(request).then(destroySoon);
    }
    return writeHead.apply(response, head);
  }) as typeof writeHead;
}

/** The same for what remains of a small body: called when an HTTP/1.1 answer was closed before its request had come. */
export function discardRest(request: Request, response: Response): void {
  if ('stream' in response || !response.shouldKeepAlive) return;
  void discard(request).then(() => {
    if (!request.complete) request.socket.destroy();
  });
}
