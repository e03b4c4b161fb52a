import type { IncomingHttpHeaders } from 'node:http2';
import type { DescService, Message } from '@bufbuild/protobuf';
import { Code, ConnectError, createServiceImplSpec, type Interceptor, type ServiceImpl } from '@connectrpc/connect';
import { type Compression, createMethodUrl } from '@connectrpc/connect/protocol';
import { parseTimeout } from '@connectrpc/connect/protocol-grpc';
import { encodeResponse } from '../rpc/encode-response.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { parseProtobuf } from '../rpc/protobuf-parse.ts';
import {
  callerSignal,
  longestTimerMs,
  type RequestContext,
  requestIdHeader,
  type Taker,
  textOf,
} from '../rpc/request-context.ts';
import { createInvokeUnary, type InvokeUnary, recordOf, type UnaryMethod } from '../transcode/index.ts';
import { acceptsEncoding, createCallContext } from './call-context.ts';
import { discard } from './early-answer.ts';
import { setGrpcStatus } from './grpc-message.ts';
import { requestIdUnindexed } from './http2-headers.ts';
import { messageTooLarge } from './message-too-large.ts';
import { StreamResponse, type TakesStream } from './stream-exchange.ts';

export interface UnaryGrpcOptions {
  readonly services: readonly { readonly service: DescService; readonly implementation: object }[];
  /** The interceptors of all protocols, in the same order. */
  readonly interceptors: Interceptor[];
  /** Maximum bytes of a message. */
  readonly readMaxBytes: number;
  /** Smaller answers are not compressed. */
  readonly compressMinBytes: number;
  /** Used for callers that list it in grpc-accept-encoding. */
  readonly compression: Compression;
  /** Called for a request that did not become a call. */
  readonly onMalformed: (context: RequestContext) => void;
}

/** One byte of flags, four of length. */
const envelopeBytes = 5;
const compressedFlag = 1;

/** Serves plain unary gRPC. */
export interface UnaryGrpc {
  /** By its headers, whether a call is plain: then its stream is all that is needed. */
  readonly takes: TakesStream;
  /** Serves a call that `takes` has accepted. */
  readonly serve: Taker;
}

/**
 * Serves the plain case of gRPC: one uncompressed message in and out, over HTTP/2. Connect serves
 * all else. Its general path (chained async iterables, a web request) takes most of a single send's
 * time: 340 µs of CPU per call; bench/RESULTS.md has today's figure in the row "Single messages".
 */
export function createUnaryGrpc(options: UnaryGrpcOptions): UnaryGrpc {
  const serving = { ...options, invoke: createInvokeUnary(options.interceptors) };
  const methods = new Map<string, UnaryMethod>();
  for (const { service, implementation } of options.services) {
    const specs = createServiceImplSpec(service, implementation as Partial<ServiceImpl<DescService>>).methods;
    for (const spec of Object.values(specs))
      if (spec.kind === 'unary') methods.set(createMethodUrl('/', spec.method), spec as UnaryMethod);
  }
  return {
    takes: (headers) => isPlain(headers) && methods.has(headers[':path'] ?? ''),
    serve(context, given) {
      const response: unknown = given;
      const { url = '', headers } = context.request;
      const method = methods.get(url);
      if (!(response instanceof StreamResponse) || method === undefined) return undefined;
      const { timeoutMs } = parseTimeout(textOf(headers['grpc-timeout']), longestTimerMs);
      return serve(method, serving, { context, response, timeoutMs });
    },
  };
}

function isPlain(headers: IncomingHttpHeaders): boolean {
  const type = headers['content-type'];
  return (
    headers[':method'] === 'POST' &&
    (type === 'application/grpc' || type === 'application/grpc+proto') &&
    (headers['grpc-encoding'] ?? 'identity') === 'identity' &&
    headers.expect === undefined &&
    parseTimeout(textOf(headers['grpc-timeout']), longestTimerMs).error === undefined
  );
}

interface Call {
  readonly context: RequestContext;
  readonly response: StreamResponse;
  readonly timeoutMs: number | undefined;
}

async function serve(
  method: UnaryMethod,
  options: UnaryGrpcOptions & { readonly invoke: InvokeUnary },
  call: Call,
): Promise<void> {
  const { context, response, timeoutMs } = call;
  const { stream } = response;
  const { controller, release } = callerSignal(response);
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(
          () => controller.abort(new ConnectError('the operation timed out', Code.DeadlineExceeded)),
          timeoutMs,
        );
  context.cancellation = controller;
  const unary = createCallContext(method.method, { context, timeoutMs, protocolName: 'grpc' }, controller);
  let frame: Uint8Array | undefined;
  try {
    const body = await readBody(call, options.readMaxBytes);
    context.bodyComplete();
    const parsing = parseEnvelope(method, body);
    const input = parsing instanceof Promise ? await parsing : parsing;
    const output = await options.invoke(method, unary, input);
    const envelope = encodeResponse(method.method.output, output, envelopeBytes);
    frame =
      envelope.length >= options.compressMinBytes + envelopeBytes &&
      acceptsEncoding(context, 'grpc-accept-encoding', options.compression.name)
        ? await compressedEnvelope(envelope.subarray(envelopeBytes), unary.responseHeader, options.compression)
        : withHead(envelope, 0);
  } catch (thrown) {
    if (!context.isCalled) options.onMalformed(context);
    setGrpcStatus(unary.responseTrailer, toConnectError(thrown));
  } finally {
    clearTimeout(timer);
    release();
  }
  if (stream.destroyed || stream.closed) return;
  response.writableEnded = true;
  const headers = recordOf(unary.responseHeader, context.answerHeaders);
  headers['content-type'] = 'application/grpc+proto';
  if (!context.isCalled) headers[requestIdHeader] = context.requestId;
  const trailers = recordOf(unary.usedTrailer);
  if (frame === undefined) {
    // Trailers-Only: gRPC's retry policies never retry a call whose headers came before them.
    stream.respond({ ...headers, ...trailers, ...requestIdUnindexed }, { endStream: true });
    return;
  }
  stream.respond(Object.assign(headers, requestIdUnindexed), { waitForTrailers: true });
  trailers['grpc-status'] = '0';
  stream.once('wantTrailers', () => stream.sendTrailers(trailers));
  stream.end(frame);
}

/** Reads the whole body; throws once the length of its message is known to be too large. */
async function readBody({ context, response: { stream } }: Call, maxBytes: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let length = 0;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onData = (chunk: Buffer) => {
    if (!context.takesChunk(chunk)) return;
    chunks.push(chunk);
    length += chunk.length;
    if (length < envelopeBytes) return;
    if (chunks[0] !== undefined && chunks[0].length < envelopeBytes)
      chunks.splice(0, chunks.length, Buffer.concat(chunks));
    const size = chunks[0]?.readUInt32BE(1) ?? 0;
    if (size > maxBytes) {
      reject(messageTooLarge(size, maxBytes));
    } else if (length > size + envelopeBytes) {
      reject(new ConnectError('protocol error: received more than one message for a unary method', Code.Unimplemented));
    }
  };
  const onEnd = () => {
    // A dropped body has no end: its stream is closed next.
    if (context.takesChunk(null)) resolve();
  };
  const onCut = () => reject(new ConnectError('the request was cut', Code.Canceled));
  // Each error is followed by the stream's close.
  stream.on('data', onData).on('end', onEnd).on('close', onCut);
  try {
    await promise;
  } catch (error) {
    stream.off('data', onData);
    // Before the answer: Node's HTTP/2 client accepts no headers while over 10 MB are unsent.
    await discard(context.request);
    throw error;
  } finally {
    // Node frees a stream late; with these it would keep the call's objects that long.
    stream.off('data', onData).off('end', onEnd).off('close', onCut);
  }
  const [first] = chunks;
  return chunks.length === 1 && first !== undefined ? first : Buffer.concat(chunks, length);
}

function parseEnvelope({ method }: UnaryMethod, body: Uint8Array): Message | Promise<Message> {
  if (body.length === 0)
    throw new ConnectError('protocol error: missing input message for a unary method', Code.Unimplemented);
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  if (body.length < envelopeBytes || body.length !== view.getUint32(1) + envelopeBytes)
    throw new ConnectError('protocol error: incomplete envelope', Code.InvalidArgument);
  const flags = view.getUint8(0);
  if (flags > compressedFlag)
    throw new ConnectError(`protocol error: invalid envelope flags ${flags}`, Code.InvalidArgument);
  if (flags === compressedFlag)
    throw new ConnectError('received compressed envelope, but do not know how to decompress', Code.Internal);
  return parseProtobuf(method.input, body.subarray(envelopeBytes));
}

async function compressedEnvelope(
  message: Uint8Array,
  header: Headers,
  { name, compress }: Compression,
): Promise<Uint8Array> {
  header.set('grpc-encoding', name);
  return withHead(Buffer.concat([emptyHead, await compress(message)]), compressedFlag);
}

const emptyHead = Buffer.alloc(envelopeBytes);

/** Writes the head of an envelope into its first bytes. */
function withHead(envelope: Buffer, flags: number): Buffer {
  envelope.writeUInt8(flags, 0);
  envelope.writeUInt32BE(envelope.length - envelopeBytes, 1);
  return envelope;
}
