// Reads the bodies of gRPC, gRPC-Web and Connect in place of Connect's adapters.
//
// Connect unpacks and parses in one piece, and counts nothing: 16 MiB of empty messages were 4.9 s and 1.5 GB. So a body is read here: bounded, unpacked, scanned and parsed in
// slices. Connect is handed a placeholder per message, an empty one, and an interceptor puts the message in its place. All else of the protocols stays Connect's.
import type { DescMethod, Message } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import { limits } from '../limits.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import { detailRegistry, toConnectError } from '../rpc/error-mapping.ts';
import { parsedMessagesKey } from '../rpc/interceptors/parsed-messages.ts';
import { ofTranscoder } from '../rpc/legacy.ts';
import { parseProtobuf } from '../rpc/protobuf-parse.ts';
import { mostElements } from '../rpc/protobuf-scan.ts';
import type { Request, RequestContext } from '../rpc/request-context.ts';
import { createJsonBodyReader, Slices, TranscodeError, unpackGzip } from '../transcode/index.ts';
import { discard } from './early-answer.ts';
import { messageTooLarge } from './message-too-large.ts';

/** What bounds every body. */
export const bodyBounds = {
  maxBytes: limits.requestBytes,
  parsedBytes: limits.parsedBytes,
  listElements: limits.listElements,
  objectKeys: limits.objectKeys,
  unpackedRatio: limits.unpackedRatio,
  unpackedFreeBytes: limits.unpackedFreeBytes,
  maxElements: mostElements,
};

const parseJson = createJsonBodyReader(bodyBounds, detailRegistry);

/** A request as Connect's handlers take it, with a body that reads the real one. */
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
  const read: Message[] = [];
  if (/^application\/(grpc|connect\+)/.test(type)) {
    const packed = textHeader(
      request,
      type.startsWith('application/connect') ? 'connect-content-encoding' : 'grpc-encoding',
    );
    values.set(parsedMessagesKey, read);
    const isUnary = method.methodKind === 'unary';
    const whole = isUnary ? () => context.bodyComplete() : () => {};
    return { ...universal, body: envelopes(request, { isJson, isGzip: packed === 'gzip', read, parse, whole }) };
  }
  const encoding = textHeader(request, 'content-encoding');
  // Connect refuses other encodings before it reads.
  if (encoding !== undefined && encoding !== 'gzip' && encoding !== 'identity') return universal;
  values.set(parsedMessagesKey, read);
  const header = new Headers(universal.header);
  header.delete('content-encoding');
  header.delete('content-length');
  const body = unary(request, {
    isJson,
    isGzip: encoding === 'gzip',
    read,
    parse,
    whole: () => context.bodyComplete(),
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
  readonly read: Message[];
  readonly parse: (bytes: Uint8Array) => Message | Promise<Message>;
  readonly whole: () => void;
}

/** An empty message, as an encoding writes it. */
const empty = { json: Buffer.from('{}'), binary: Buffer.alloc(0) };
const emptyEnvelope = { json: Buffer.from([0, 0, 0, 0, 2, 0x7b, 0x7d]), binary: Buffer.alloc(5) };

/** A unary body of Connect: all of it is one message. */
async function* unary(request: Request, { isJson, isGzip, read, parse, whole }: Reading): AsyncIterable<Uint8Array> {
  const declared = Number(request.headers['content-length'] ?? 0);
  const chunks: Buffer[] = [];
  let length = 0;
  if (declared > limits.requestBytes) throw await refused(request, declared);
  for await (const chunk of chunksOf(request)) {
    length += chunk.length;
    if (length > limits.requestBytes) break;
    chunks.push(chunk);
  }
  // After the loop: what reads the body in chunks has to leave it before the rest can be discarded.
  if (length > limits.requestBytes) throw await refused(request, length);
  const [only] = chunks;
  const bytes = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, length);
  try {
    whole();
    read.push(await parse(isGzip ? await unpacked(bytes) : bytes));
  } catch (error) {
    throw toCallError(error);
  }
  yield isJson ? empty.json : empty.binary;
}

const envelopeBytes = 5;
const compressedFlag = 1;

/** The messages of gRPC, gRPC-Web, and Connect's streams: each has its flags and its length before it. */
async function* envelopes(
  request: Request,
  { isJson, isGzip, read, parse, whole }: Reading,
): AsyncIterable<Uint8Array> {
  let held: Buffer[] = [];
  let length = 0;
  let isFirst = true;
  let tooLarge = 0;
  // Of millions of empty messages none is large enough to be parsed in slices, and all of their awaits together let nobody else have a turn.
  const slices = new Slices();
  for await (const chunk of chunksOf(request)) {
    held.push(chunk);
    length += chunk.length;
    for (;;) {
      if (length < envelopeBytes) break;
      if (slices.isOver()) await slices.rest();
      if ((held[0] as Buffer).length < envelopeBytes) held = [Buffer.concat(held, length)];
      const head = held[0] as Buffer;
      const size = head.readUInt32BE(1);
      if (size > limits.requestBytes) {
        tooLarge = size;
        break;
      }
      if (length < envelopeBytes + size) break;
      const bytes = held.length === 1 ? head : Buffer.concat(held, length);
      const envelope = bytes.subarray(0, envelopeBytes + size);
      length -= envelope.length;
      held = length === 0 ? [] : [bytes.subarray(envelope.length)];
      const flags = head.readUInt8(0);
      // Other flags, and what is packed by an encoding that was not named, are for Connect to refuse.
      if (flags > compressedFlag || (flags === compressedFlag && !isGzip)) {
        yield envelope;
        continue;
      }
      const message = envelope.subarray(envelopeBytes);
      try {
        if (isFirst) whole();
        isFirst = false;
        read.push(await parse(flags === compressedFlag ? await unpacked(message) : message));
      } catch (error) {
        throw toCallError(error);
      }
      yield isJson ? emptyEnvelope.json : emptyEnvelope.binary;
    }
    if (tooLarge > 0) break;
  }
  if (tooLarge > 0) throw await refused(request, tooLarge);
  // A part of a message: Connect says so.
  if (length > 0) yield Buffer.concat(held, length);
}

async function unpacked(bytes: Uint8Array, maxBytes: number = limits.requestBytes): Promise<Uint8Array> {
  try {
    return await unpackGzip(bytes, { ...bodyBounds, maxBytes });
  } catch (error) {
    const size = error instanceof TranscodeError ? error.size : undefined;
    throw size === undefined ? error : messageTooLarge(size.actual, size.limit);
  }
}

/** What a body was refused for, when the rest of it has come and was discarded. */
async function refused(request: Request, actual: number): Promise<ConnectError> {
  await discard(request);
  return messageTooLarge(actual);
}

/** An error of reading or parsing, for the caller. */
function toCallError(error: unknown): ConnectError {
  if (error instanceof TranscodeError) return toConnectError(ofTranscoder(error).mapped);
  if (error instanceof ConnectError || error instanceof ServiceError) return toConnectError(error);
  return toConnectError(invalidField('body', `cannot be read: ${(error as Error).message}`));
}

/** The chunks of a body; throws when it is cut. Leaving it early does not end the connection. */
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
  // Over HTTP/2 a body that was cut can read like one that has ended.
  const isReset = 'stream' in request && request.stream.rstCode !== 0;
  if (isReset) throw new ConnectError('the body was cut', Code.Canceled);
  if (declared !== undefined && Number(declared) !== length)
    throw new ConnectError(`protocol error: promised ${declared} bytes, received ${length}`, Code.InvalidArgument);
}

/** The message of a Connect GET stands in its URL; it is small, packed or not. */
export async function assertSmallGet({ url = '' }: Request, { input }: DescMethod): Promise<void> {
  const query = new URL(url, 'http://localhost').searchParams;
  const message = query.get('message') ?? '';
  const bytes = query.get('base64') === '1' ? Buffer.from(message, 'base64url') : Buffer.from(message);
  const limit = limits.getMessageBytes;
  if (bytes.length > limit) throw messageTooLarge(bytes.length, limit);
  const isPacked = query.get('compression') === 'gzip';
  try {
    const plain = isPacked ? await unpacked(bytes, limit) : bytes;
    // Connect would say INTERNAL of what is no message.
    if (query.get('encoding') === 'proto') await parseProtobuf(input, plain);
  } catch (error) {
    throw toCallError(error);
  }
}
