// Serves server-streaming RPCs over gRPC, gRPC-Web and Connect, such as Subscribe.
//
// Entry point: `createServerStreams`. Connect reads the request, which is soon over. It does not
// write: per open stream it keeps a chain of eight async iterables, three abort signals and five
// header maps, which were 40 of 45 KB of heap per idle reader, and each message took 100 µs of CPU
// through them. Here one loop takes messages from the interceptors and writes envelopes.
// Invariants:
//  1. Interceptors and implementation run as for every call.
//  2. No message is taken from the implementation while the caller accepts no more.
//  3. A message that is yielded to many callers is encoded once (encode-once.ts).
import type { OutgoingHttpHeaders } from 'node:http';
import type { DescMethod, Message } from '@bufbuild/protobuf';
import { Code, ConnectError, createServiceImplSpec, type Interceptor, type ServiceImpl } from '@connectrpc/connect';
import {
  type Compression,
  createMethodSerializationLookup,
  encodeEnvelope,
  type MethodSerializationLookup,
  pipe,
  transformDecompressEnvelope,
  transformParseEnvelope,
  transformSplitEnvelope,
} from '@connectrpc/connect/protocol';
import { parseTimeout as connectTimeout, endStreamFlag, endStreamToJson } from '@connectrpc/connect/protocol-connect';
import { grpcStatusOk, parseTimeout as grpcTimeout, setTrailerStatus } from '@connectrpc/connect/protocol-grpc';
import { trailerFlag, trailerSerialize } from '@connectrpc/connect/protocol-grpc-web';
import { detailRegistry, toConnectError } from '../rpc/error-mapping.ts';
import {
  callerSignal,
  isGone,
  longestTimerMs,
  type RequestContext,
  type Response,
  requestIdHeader,
  type Taker,
  textOf,
} from '../rpc/request-context.ts';
import type { ServedService } from '../rpc/routes.ts';
import {
  createInvokeServerStream,
  type InvokeServerStream,
  type ServerStreamMethod,
  type UnaryContext,
} from '../transcode/index.ts';
import { acceptsEncoding, createCallContext } from './call-context.ts';
import { endAnsweredStream } from './early-answer.ts';
import { createEncodeOnce, type EncodeOnce } from './encode-once.ts';
import { setGrpcStatus } from './grpc-message.ts';
import { withRequestBody } from './request-body.ts';
import { endTrailersOnly, hasOwnHeaders } from './trailers-only.ts';

export interface ServerStreamOptions {
  readonly services: readonly ServedService[];
  /** The interceptors of all protocols, in the same order. */
  readonly interceptors: Interceptor[];
  /** Maximum bytes of a message. */
  readonly readMaxBytes: number;
  /** Smaller messages are not compressed. */
  readonly compressMinBytes: number;
  /** Used for callers that accept it. */
  readonly compression: Compression;
}

/** How a content type frames a stream. */
interface Framing {
  readonly protocolName: string;
  readonly contentType: string;
  readonly isJson: boolean;
  /** The header with the encoding of messages; the other one has what the caller accepts. */
  readonly encodingHeader: string;
  readonly acceptHeader: string;
  /** Flag of an envelope that is not a message. */
  readonly endFlag: number | undefined;
  readonly timeoutOf: (context: RequestContext) => ReturnType<typeof grpcTimeout>;
  /** Ends an answer; `failure` undefined: it is complete. */
  readonly end: (answer: Answer, failure: ConnectError | undefined) => void;
}

/** An answer that ends: its headers, which may be sent, and the trailers of the handler. */
interface Answer {
  readonly response: Response;
  readonly headers: OutgoingHttpHeaders;
  readonly trailer: Headers;
}

const grpcFraming = {
  isJson: false,
  encodingHeader: 'grpc-encoding',
  acceptHeader: 'grpc-accept-encoding',
  timeoutOf: ({ request }: RequestContext) => grpcTimeout(textOf(request.headers['grpc-timeout']), longestTimerMs),
};
const connectFraming = {
  protocolName: 'connect',
  encodingHeader: 'connect-content-encoding',
  acceptHeader: 'connect-accept-encoding',
  endFlag: endStreamFlag,
  timeoutOf: ({ request }: RequestContext) =>
    connectTimeout(textOf(request.headers['connect-timeout-ms']), longestTimerMs),
  end: endConnect,
};
const grpc: Framing = {
  ...grpcFraming,
  protocolName: 'grpc',
  contentType: 'application/grpc+proto',
  endFlag: undefined,
  end: endGrpc,
};
const grpcWeb: Framing = {
  ...grpcFraming,
  protocolName: 'grpc-web',
  contentType: 'application/grpc-web+proto',
  endFlag: trailerFlag,
  end: endGrpcWeb,
};
const framings: Readonly<Record<string, Framing>> = {
  'application/grpc': grpc,
  'application/grpc+proto': grpc,
  'application/grpc-web': grpcWeb,
  'application/grpc-web+proto': grpcWeb,
  'application/connect+proto': { ...connectFraming, contentType: 'application/connect+proto', isJson: false },
  'application/connect+json': { ...connectFraming, contentType: 'application/connect+json', isJson: true },
};

interface ServedStream {
  readonly method: ServerStreamMethod;
  readonly serialization: MethodSerializationLookup<DescMethod['input'], DescMethod['output']>;
  readonly encode: EncodeOnce;
}

/** Connect serves all others: other methods, forms, and requests with an error. */
export function createServerStreams(options: ServerStreamOptions): Taker {
  const { readMaxBytes, compressMinBytes, compression } = options;
  const invoke = createInvokeServerStream(options.interceptors);
  const served = new Map<DescMethod, ServedStream>();
  const limits = { readMaxBytes, writeMaxBytes: 0xffffffff };
  for (const { service, implementation } of options.services) {
    const { methods } = createServiceImplSpec(service, implementation as Partial<ServiceImpl<typeof service>>);
    for (const method of Object.values(methods)) {
      if (method.kind !== 'server_streaming') continue;
      const serialization = createMethodSerializationLookup(
        method.method,
        undefined,
        { registry: detailRegistry },
        limits,
      );
      const encode = createEncodeOnce(method.method.output, {
        serialization: serialization.getO,
        compression,
        compressMinBytes,
      });
      served.set(method.method, { method, serialization, encode });
    }
  }
  return (context, response) => {
    const { request, method, protocol } = context;
    if (method === undefined || request.method !== 'POST') return undefined;
    const stream = served.get(method);
    const framing = framings[request.headers['content-type'] ?? ''];
    if (stream === undefined || framing === undefined) return undefined;
    // Connect answers that gRPC needs HTTP/2.
    if (protocol === 'grpc' && request.httpVersionMajor !== 2) return undefined;
    if ((request.headers[framing.encodingHeader] ?? 'identity') !== 'identity') return undefined;
    const { timeoutMs, error } = framing.timeoutOf(context);
    if (error !== undefined) return undefined;
    return serve({ stream, framing, context, response, timeoutMs, invoke, compression, readMaxBytes });
  };
}

interface StreamCall extends Pick<ServerStreamOptions, 'readMaxBytes' | 'compression'> {
  readonly stream: ServedStream;
  readonly framing: Framing;
  readonly context: RequestContext;
  readonly response: Response;
  readonly timeoutMs: number | undefined;
  readonly invoke: InvokeServerStream;
}

async function serve(call: StreamCall): Promise<void> {
  const { stream, framing, context, response, timeoutMs, compression } = call;
  const { controller, release } = callerSignal(response);
  const { signal } = controller;
  response.on('error', () => {});
  const onTimeout = () => controller.abort(new ConnectError('the operation timed out', Code.DeadlineExceeded));
  const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timeoutMs);
  const isGzip = acceptsEncoding(context, framing.acceptHeader, compression.name);
  const handlerContext = createCallContext(
    stream.method.method,
    { context, timeoutMs, protocolName: framing.protocolName },
    controller,
  );
  const headers = () => ({
    ...Object.fromEntries(handlerContext.responseHeader),
    'content-type': framing.contentType,
    ...(isGzip ? { [framing.encodingHeader]: compression.name } : {}),
  });
  let failure: ConnectError | undefined;
  try {
    const messages = await call.invoke(stream.method, handlerContext, readRequest(call, handlerContext));
    await writeAll(messages[Symbol.asyncIterator](), {
      response,
      signal,
      headers,
      encode: (message) => stream.encode(message, framing.isJson, isGzip),
    });
  } catch (error) {
    failure = toConnectError(error);
  }
  clearTimeout(timer);
  release();
  if (isGone(response) || response.writableEnded) return;
  // An error's metadata has it too: among the trailers, which gRPC alone writes as headers.
  if (!response.headersSent && (!context.isCalled || framing.endFlag !== undefined))
    response.setHeader(requestIdHeader, context.requestId);
  framing.end({ response, headers: headers(), trailer: handlerContext.responseTrailer }, failure);
  endAnsweredStream(context.request, response);
}

/** The messages of the request, read by Connect from a body that is bounded and parsed here. */
function readRequest(
  { stream, framing, context, readMaxBytes }: StreamCall,
  { method, url, signal, values }: UnaryContext,
): AsyncIterable<Message> {
  const { request, header } = context;
  const { httpVersion } = request;
  const serialization = stream.serialization.getI(!framing.isJson);
  const universal = { httpVersion, method: 'POST', url, header, body: request, signal, contextValues: values };
  return pipe(
    withRequestBody(universal, context, method).body as AsyncIterable<Uint8Array>,
    transformSplitEnvelope(readMaxBytes),
    transformDecompressEnvelope(null, readMaxBytes),
    framing.endFlag === undefined
      ? transformParseEnvelope(serialization)
      : transformParseEnvelope(serialization, framing.endFlag),
  );
}

interface Writing {
  readonly response: Response;
  /** Aborted when the caller disconnects or its deadline passes. */
  readonly signal: AbortSignal;
  /** The headers of the answer. A handler may add some until its first message. */
  readonly headers: () => OutgoingHttpHeaders;
  readonly encode: (message: Message) => Uint8Array | Promise<Uint8Array>;
}

/** Writes messages as the caller accepts them. A write that fails ends the implementation. */
async function writeAll(
  messages: AsyncIterator<Message>,
  { response, signal, headers, encode }: Writing,
): Promise<void> {
  for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
    try {
      const encoded = encode(next.value);
      const bytes = encoded instanceof Uint8Array ? encoded : await encoded;
      signal.throwIfAborted();
      if (!response.headersSent) response.writeHead(200, headers());
      if (!response.write(bytes)) await untilDrained(response, signal);
    } catch (error) {
      await messages.throw?.(error);
      throw error;
    }
  }
}

/** Waits until the caller accepts more; throws when the signal is aborted. */
async function untilDrained(response: Response, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = () => reject(signal.reason);
  response.once('drain', resolve);
  signal.addEventListener('abort', onAbort);
  try {
    await promise;
  } finally {
    response.off('drain', resolve);
    signal.removeEventListener('abort', onAbort);
  }
}

function endGrpc({ response, headers, trailer }: Answer, failure: ConnectError | undefined): void {
  if (failure === undefined) trailer.set('grpc-status', grpcStatusOk);
  else setGrpcStatus(trailer, failure);
  const trailers = Object.fromEntries(trailer);
  if (failure !== undefined && !response.headersSent && !hasOwnHeaders(headers)) {
    endTrailersOnly(response, { ...headers, ...trailers });
    return;
  }
  if (!response.headersSent) response.writeHead(200, headers);
  response.addTrailers(trailers);
  response.end();
}

function endGrpcWeb({ response, headers, trailer }: Answer, failure: ConnectError | undefined): void {
  if (failure === undefined) trailer.set('grpc-status', grpcStatusOk);
  else setTrailerStatus(trailer, failure);
  endWithEnvelope(response, headers, encodeEnvelope(trailerFlag, trailerSerialize(trailer)));
}

function endConnect({ response, headers, trailer }: Answer, failure: ConnectError | undefined): void {
  const end = endStreamToJson(trailer, failure, { registry: detailRegistry });
  endWithEnvelope(response, headers, encodeEnvelope(endStreamFlag, Buffer.from(JSON.stringify(end))));
}

function endWithEnvelope(response: Response, headers: OutgoingHttpHeaders, envelope: Uint8Array): void {
  if (!response.headersSent) response.writeHead(200, headers);
  response.end(envelope);
}
