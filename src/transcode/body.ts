import { promisify } from 'node:util';
import { gunzip, type ZlibOptions } from 'node:zlib';
import type { DescField, DescMessage, Message } from '@bufbuild/protobuf';
import { ConnectError } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import type { Binding } from './binding.ts';
import { TranscodeError } from './error.ts';
import type { JsonBounds } from './json-scan.ts';
import { parseJsonInSlices } from './json-slices.ts';
import { type BodyNames, parseJson } from './json-text.ts';
import type { TranscoderOptions } from './options.ts';
import { quoted } from './scalar.ts';
import { concurrentDecompressions, Slices, withConcurrencyLimit } from './slices.ts';

const unpack: (bytes: Uint8Array, options: ZlibOptions) => Promise<Buffer> = withConcurrencyLimit(
  concurrentDecompressions,
  promisify(gunzip),
);

/** The limits of a body. */
export interface BodyBounds extends Omit<JsonBounds, 'listOf'> {
  /** The largest body in bytes, both as sent and uncompressed. */
  readonly maxBytes: number;
  /**
   * A compressed body may expand to this many times its size, and always to `unpackedFreeBytes`.
   */
  readonly unpackedRatio: number;
  readonly unpackedFreeBytes: number;
  /** The largest number of elements of a list field. */
  readonly maxElements: (field: DescField) => number;
}

/** A parsed body. */
export interface ReadBody {
  /** Undefined when the body is empty. */
  readonly json: unknown;
  /** Set for a large body, whose message must be read in slices too. */
  readonly slices?: Slices;
  /** The request message and its route, when `readQuickly` has read it; `json` is unset. */
  readonly quick?: { readonly binding: Binding; readonly message: Message };
}

/** Smaller bodies are parsed in one piece. */
const largeBytes = 64 * 1024;

function tooManyBytes(limit: number, actual: number, what = 'the body has'): TranscodeError {
  const description = `${what} ${actual} bytes, at most ${limit} are allowed; send fewer messages per call`;
  return new TranscodeError(413, description, [{ field: 'body', description }], {}, { limit, actual });
}

/** A body that has arrived whole; read without the steps of a stream. */
export class WholeBody implements AsyncIterable<Uint8Array> {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    yield this.bytes;
  }
}

/** The encoding of a body; throws for one that is not supported. */
function encodingOf({ header }: UniversalServerRequest): 'identity' | 'gzip' {
  const encoding = (header.get('content-encoding') ?? 'identity').trim().toLowerCase();
  if (encoding === 'identity' || encoding === 'gzip') return encoding;
  const description = `${quoted(encoding)} is not supported; use gzip or identity`;
  const fault = { field: 'Content-Encoding', description };
  throw new TranscodeError(415, `Content-Encoding: ${description}`, [fault], { 'accept-encoding': 'gzip, identity' });
}

/** Reads a body of at most `maxBytes`, both as sent and uncompressed. */
async function readBytes(
  request: UniversalServerRequest,
  bounds: BodyBounds,
  refused: () => Promise<void>,
): Promise<Uint8Array> {
  const { body, header } = request;
  if (!isStream(body)) throw new Error('the body is not a stream');
  const { maxBytes } = bounds;
  const declared = Number(header.get('content-length') ?? 0);
  if (declared > maxBytes) {
    await refused();
    throw tooManyBytes(maxBytes, declared);
  }
  const encoding = encodingOf(request);
  const chunks: Uint8Array[] = [];
  let length = 0;
  // Not `for await`: leaving it early ends the stream, and Node then closes the connection before
  // the 413 is sent.
  const stream = body[Symbol.asyncIterator]();
  for (;;) {
    let chunk: IteratorResult<Uint8Array>;
    try {
      chunk = await stream.next();
    } catch (error) {
      if (error instanceof ConnectError || request.signal.aborted) throw error;
      throw new TranscodeError(400, `the body was truncated after ${length} bytes`);
    }
    if (chunk.done === true) break;
    length += chunk.value.length;
    if (length > maxBytes) {
      await stream.return?.();
      await refused();
      throw tooManyBytes(maxBytes, length);
    }
    chunks.push(chunk.value);
  }
  if (declared > 0 && length < declared)
    throw new TranscodeError(400, `the body was truncated after ${length} of ${declared} bytes`);
  const [only] = chunks;
  const bytes = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, length);
  if (encoding === 'identity' || length === 0) return bytes;
  return await unpackGzip(bytes, bounds);
}

/**
 * Decompresses gzip, up to `unpackedRatio` times its size. Without that limit a kilobyte becomes a
 * megabyte of work.
 */
export async function unpackGzip(
  bytes: Uint8Array,
  { maxBytes, unpackedRatio, unpackedFreeBytes }: Pick<BodyBounds, 'maxBytes' | 'unpackedRatio' | 'unpackedFreeBytes'>,
): Promise<Uint8Array> {
  if (bytes.length === 0) return bytes;
  const byRatio = Math.max(unpackedFreeBytes, bytes.length * unpackedRatio);
  const limit = Math.min(maxBytes, byRatio);
  try {
    return await unpack(bytes, { maxOutputLength: limit });
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_BUFFER_TOO_LARGE')
      throw new TranscodeError(400, 'the body is not valid gzip, or is truncated');
    // The last four bytes of gzip are the uncompressed size, as claimed by the sender.
    const said = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).readUInt32LE(bytes.length - 4);
    const actual = Math.max(said, limit + 1);
    if (limit === maxBytes) throw tooManyBytes(limit, actual, 'the body expands to');
    const description = `the body expands to ${actual} bytes, more than ${unpackedRatio} times its ${bytes.length}, at most ${limit} are allowed; send it with less compression, or in parts`;
    throw new TranscodeError(413, description, [{ field: 'body', description }], {}, { limit, actual });
  }
}

/** Parses a body. Large ones are parsed in slices, after a scan for their limits. */
export function parseBody(
  bytes: Uint8Array,
  bounds: BodyBounds,
  listOf: JsonBounds['listOf'],
  names: BodyNames = {},
): ReadBody | Promise<ReadBody> {
  if (bytes.length === 0) return { json: undefined };
  if (bytes.length < largeBytes) return { json: parseJson(bytes, names) };
  const slices = new Slices();
  return parseJsonInSlices(bytes, { ...bounds, listOf }, names, slices).then((json) => ({ json, slices }));
}

type BodyOptions = Pick<TranscoderOptions, 'readQuickly' | 'onRefusedBody'> & { readonly bounds: BodyBounds };

/** Reads the JSON of a body, whatever its Content-Type is. */
export function readBody(
  request: UniversalServerRequest,
  candidates: readonly Binding[],
  options: BodyOptions,
): ReadBody | Promise<ReadBody> {
  const { body } = request;
  // A framework has already parsed the body.
  if (!isStream(body)) return { json: body };
  const mostBytes = Math.min(largeBytes, options.bounds.maxBytes);
  if (body instanceof WholeBody && body.bytes.length < mostBytes && encodingOf(request) === 'identity')
    return parseBytes(body.bytes, request, candidates, options);
  return readStream(request, candidates, options);
}

async function readStream(
  request: UniversalServerRequest,
  candidates: readonly Binding[],
  options: BodyOptions,
): Promise<ReadBody> {
  const { bounds, onRefusedBody } = options;
  const bytes = await readBytes(request, bounds, () => onRefusedBody?.(request) ?? Promise.resolve());
  return await parseBytes(bytes, request, candidates, options);
}

function parseBytes(
  bytes: Uint8Array,
  request: UniversalServerRequest,
  candidates: readonly Binding[],
  { bounds, readQuickly }: BodyOptions,
): ReadBody | Promise<ReadBody> {
  if (readQuickly !== undefined)
    for (const binding of candidates) {
      const { body, method } = binding;
      const message = body.kind === 'field' ? readQuickly(method, body.field, bytes) : undefined;
      if (message !== undefined) return { json: undefined, quick: { binding, message } };
    }
  const failed = (error: unknown): never => {
    throw formError(request, error) ?? error;
  };
  try {
    const reading = parseBody(bytes, bounds, (key) => listOfBindings(candidates, key, bounds), namesOf(candidates));
    return reading instanceof Promise ? reading.catch(failed) : reading;
  } catch (error) {
    return failed(error);
  }
}

const formType = /^\s*(multipart\/form-data|application\/x-www-form-urlencoded)\b/i;

/**
 * The error of an unreadable body that is a form, which some libraries send by default; undefined
 * for other types and errors.
 */
function formError({ header }: UniversalServerRequest, error: unknown): TranscodeError | undefined {
  if (!(error instanceof TranscodeError) || error.size !== undefined) return undefined;
  const [, type] = formType.exec(header.get('content-type') ?? '') ?? [];
  if (type === undefined) return undefined;
  const description = `is a form (${type.toLowerCase()}), not JSON; send JSON with Content-Type: application/json`;
  return new TranscodeError(400, `body: ${description}`, [{ field: 'body', description }]);
}

/** Returns the name of a route's body in errors, by its JSON root. */
function namesOf(candidates: readonly Binding[]): BodyNames {
  const named = (root: Binding['root']) => {
    const body = candidates.find((each) => each.root === root)?.body;
    return body?.kind === 'field' ? body.field.name : undefined;
  };
  return { array: named('array'), object: named('object') };
}

/** Returns the list field at the root of a body, or in its root object. */
function listOfBindings(
  candidates: readonly Binding[],
  key: string | undefined,
  bounds: BodyBounds,
): ReturnType<JsonBounds['listOf']> {
  for (const { body, method } of candidates) {
    if (key === undefined) {
      if (body.kind === 'field' && body.field.fieldKind === 'list')
        return { field: body.field.name, most: Math.min(bounds.maxElements(body.field), bounds.listElements) };
      continue;
    }
    const within = body.kind === 'whole' ? method.input : body.kind === 'field' ? body.field.message : undefined;
    const list = within && listOfMessage(within, key, bounds);
    if (list !== undefined)
      return body.kind === 'field' ? { ...list, field: `${body.field.name}.${list.field}` } : list;
  }
  return undefined;
}

/** Returns the list field of a message by its name, with its limit. */
export function listOfMessage(
  { fields }: DescMessage,
  key: string,
  { maxElements, listElements }: Pick<BodyBounds, 'maxElements' | 'listElements'>,
): { field: string; most: number } | undefined {
  const field = fields.find((each) => each.name === key || each.jsonName === key);
  if (field?.fieldKind !== 'list') return undefined;
  return { field: field.name, most: Math.min(maxElements(field), listElements) };
}

function isStream(body: UniversalServerRequest['body']): body is AsyncIterable<Uint8Array> {
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body;
}
