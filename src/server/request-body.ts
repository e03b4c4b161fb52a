// Reads the bodies of gRPC, gRPC-Web and Connect in place of Connect's adapters.
//
// Connect decompresses and parses in one step and counts nothing: 16 MiB of empty messages took 4.9
// s and 1.5 GB. So bodies are read here: bounded, decompressed, scanned, and parsed in slices.
// Connect gets an empty placeholder per message, and an interceptor replaces it
// (rpc/interceptors/parsed-messages.ts). Everything else of the protocols stays with Connect.
import type { DescMethod, Message } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import { limits } from '../limits.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import { detailRegistry, toConnectError } from '../rpc/error-mapping.ts';
import { parsedMessagesKey } from '../rpc/interceptors/parsed-messages.ts';
import { mapTranscodeError } from '../rpc/legacy.ts';
import { parseProtobuf } from '../rpc/protobuf-parse.ts';
import { maxElements } from '../rpc/protobuf-scan.ts';
import type { Request, RequestContext } from '../rpc/request-context.ts';
import { createJsonBodyReader, Slices, TranscodeError, unpackGzip } from '../transcode/index.ts';
import { discard } from './early-answer.ts';
import { messageTooLarge } from './message-too-large.ts';

/** The bounds of every body. */
export const bodyBounds = {
  maxBytes: limits.requestBytes,
  parsedBytes: limits.parsedBytes,
  listElements: limits.listElements,
  objectKeys: limits.objectKeys,
  unpackedRatio: limits.unpackedRatio,
  unpackedFreeBytes: limits.unpackedFreeBytes,
  maxElements,
};

const parseJson = createJsonBodyReader(bodyBounds, detailRegistry);

/**
 * A request for Connect's handlers, whose body yields placeholders while it parses the real one.
 */
export function withRequestBody(
  universal: UniversalServerRequest,
  context: RequestContext,
  method: DescMethod,
): UniversalServerRequest {
  const { request } = context;
  const values = universal.contextValues;
  if (values === undefined || request.method !== 'POST') return universal;
  const type = (request.headers['content-type'] ?? '').split(';', 1)[0] ?? '';
  const isJson = type.endsWith('json');
  const parse = (bytes: Uint8Array) => (isJson ? parseJson(method.input, bytes) : parseProtobuf(method.input, bytes));
  const parsed: Message[] = [];
  if (/^application\/(grpc|connect\+)/.test(type)) {
    const encoding = textHeader(
      request,
      type.startsWith('application/connect') ? 'connect-content-encoding' : 'grpc-encoding',
    );
    values.set(parsedMessagesKey, parsed);
    const isUnary = method.methodKind === 'unary';
    const onComplete = isUnary ? () => context.bodyComplete() : () => {};
    return {
      ...universal,
      body: readEnvelopes(request, { isJson, isGzip: encoding === 'gzip', parsed, parse, onComplete }),
    };
  }
  const encoding = textHeader(request, 'content-encoding');
  // Connect refuses other encodings before it reads.
  if (encoding !== undefined && encoding !== 'gzip' && encoding !== 'identity') return universal;
  values.set(parsedMessagesKey, parsed);
  const header = new Headers(universal.header);
  header.delete('content-encoding');
  header.delete('content-length');
  const body = readUnary(request, {
    isJson,
    isGzip: encoding === 'gzip',
    parsed,
    parse,
    onComplete: () => context.bodyComplete(),
  });
  return { ...universal, header, body };
}

function textHeader({ headers }: Request, name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
}

interface Reading {
  readonly isJson: boolean;
  readonly isGzip: boolean;
  readonly parsed: Message[];
  readonly parse: (bytes: Uint8Array) => Message | Promise<Message>;
  readonly onComplete: () => void;
}

/** An empty message in each encoding. */
const empty = { json: Buffer.from('{}'), binary: Buffer.alloc(0) };
const emptyEnvelope = { json: Buffer.from([0, 0, 0, 0, 2, 0x7b, 0x7d]), binary: Buffer.alloc(5) };

/** Reads a unary body of Connect, which is one message. */
async function* readUnary(
  request: Request,
  { isJson, isGzip, parsed, parse, onComplete }: Reading,
): AsyncIterable<Uint8Array> {
  const declared = Number(request.headers['content-length'] ?? 0);
  const chunks: Buffer[] = [];
  let length = 0;
  if (declared > limits.requestBytes) throw await refuseTooLarge(request, declared);
  for await (const chunk of chunksOf(request)) {
    length += chunk.length;
    if (length > limits.requestBytes) break;
    chunks.push(chunk);
  }
  // After the loop: the rest can be discarded only once the iteration has ended.
  if (length > limits.requestBytes) throw await refuseTooLarge(request, length);
  const [only] = chunks;
  const bytes = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, length);
  try {
    onComplete();
    parsed.push(await parse(isGzip ? await decompressed(bytes) : bytes));
  } catch (error) {
    throw toCallError(error);
  }
  yield isJson ? empty.json : empty.binary;
}

const envelopeBytes = 5;
const compressedFlag = 1;

/** Reads the envelopes of gRPC, gRPC-Web and Connect's streams: flags, length, message. */
async function* readEnvelopes(
  request: Request,
  { isJson, isGzip, parsed, parse, onComplete }: Reading,
): AsyncIterable<Uint8Array> {
  let pending: Buffer[] = [];
  let length = 0;
  let isFirst = true;
  let tooLarge = 0;
  // Yields between millions of empty messages: none of them is large enough to be parsed in slices.
  const slices = new Slices();
  for await (const chunk of chunksOf(request)) {
    pending.push(chunk);
    length += chunk.length;
    for (;;) {
      if (length < envelopeBytes) break;
      if (slices.isOver()) await slices.rest();
      if ((pending[0] as Buffer).length < envelopeBytes) pending = [Buffer.concat(pending, length)];
      const head = pending[0] as Buffer;
      const size = head.readUInt32BE(1);
      if (size > limits.requestBytes) {
        tooLarge = size;
        break;
      }
      if (length < envelopeBytes + size) break;
      const bytes = pending.length === 1 ? head : Buffer.concat(pending, length);
      const envelope = bytes.subarray(0, envelopeBytes + size);
      length -= envelope.length;
      pending = length === 0 ? [] : [bytes.subarray(envelope.length)];
      const flags = head.readUInt8(0);
      // Connect refuses other flags, and compressed messages without a declared encoding.
      if (flags > compressedFlag || (flags === compressedFlag && !isGzip)) {
        yield envelope;
        continue;
      }
      const message = envelope.subarray(envelopeBytes);
      try {
        if (isFirst) onComplete();
        isFirst = false;
        parsed.push(await parse(flags === compressedFlag ? await decompressed(message) : message));
      } catch (error) {
        throw toCallError(error);
      }
      yield isJson ? emptyEnvelope.json : emptyEnvelope.binary;
    }
    if (tooLarge > 0) break;
  }
  if (tooLarge > 0) throw await refuseTooLarge(request, tooLarge);
  // An incomplete message; Connect reports it.
  if (length > 0) yield Buffer.concat(pending, length);
}

async function decompressed(bytes: Uint8Array, maxBytes: number = limits.requestBytes): Promise<Uint8Array> {
  try {
    return await unpackGzip(bytes, { ...bodyBounds, maxBytes });
  } catch (error) {
    const size = error instanceof TranscodeError ? error.size : undefined;
    throw size === undefined ? error : messageTooLarge(size.actual, size.limit);
  }
}

/** The error of a body that is too large, once its rest is discarded. */
async function refuseTooLarge(request: Request, actual: number): Promise<ConnectError> {
  await discard(request);
  return messageTooLarge(actual);
}

/** Maps an error of reading or parsing for the caller. */
function toCallError(error: unknown): ConnectError {
  if (error instanceof TranscodeError) return toConnectError(mapTranscodeError(error).mapped);
  if (error instanceof ConnectError || error instanceof ServiceError) return toConnectError(error);
  return toConnectError(invalidField('body', `cannot be read: ${(error as Error).message}`));
}

/**
 * The chunks of a body; throws if it is truncated. Leaving the iteration does not close the
 * connection.
 */
async function* chunksOf(request: Request): AsyncGenerator<Buffer> {
  let length = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      length += chunk.length;
      yield chunk;
    }
  } catch (error) {
    throw new ConnectError('the body was cut', Code.Canceled, undefined, undefined, error);
  }
  const declared = request.headers['content-length'];
  // A truncated HTTP/2 body can read like a complete one.
  const isReset = 'stream' in request && request.stream.rstCode !== 0;
  if (isReset) throw new ConnectError('the body was cut', Code.Canceled);
  if (declared !== undefined && Number(declared) !== length)
    throw new ConnectError(`protocol error: promised ${declared} bytes, received ${length}`, Code.InvalidArgument);
}

/** Base64 of RFC 4648, sections 4 and 5, with or without padding; no length has a rest of 1. */
const base64 = /^(?:[\w+/-]{4})*(?:[\w+/-]{2,3}={0,2})?$/;

/** Checks the message of a Connect GET, which is in the URL: at most 8 KiB, compressed or not. */
export async function assertSmallGet({ url = '' }: Request, { input }: DescMethod): Promise<void> {
  const query = new URL(url, 'http://localhost').searchParams;
  const message = query.get('message') ?? '';
  const isBase64 = query.get('base64') === '1';
  const bytes = isBase64 ? Buffer.from(message, 'base64url') : Buffer.from(message);
  const limit = limits.getMessageBytes;
  if (bytes.length > limit) throw messageTooLarge(bytes.length, limit);
  // Connect would report it as INTERNAL.
  if (isBase64 && !base64.test(message))
    throw toConnectError(invalidField('message', 'must be base64, without spaces'));
  const isCompressed = query.get('compression') === 'gzip';
  try {
    const plain = isCompressed ? await decompressed(bytes, limit) : bytes;
    // Connect would report an invalid message as INTERNAL.
    if (query.get('encoding') === 'proto') await parseProtobuf(input, plain);
  } catch (error) {
    throw toCallError(error);
  }
}
