import { promisify } from 'node:util';
import { gunzip, type ZlibOptions } from 'node:zlib';
import type { DescField, DescMessage } from '@bufbuild/protobuf';
import { ConnectError } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import type { Binding } from './binding.ts';
import { TranscodeError } from './error.ts';
import type { JsonBounds } from './json-scan.ts';
import { parseJsonInSlices } from './json-slices.ts';
import { type BodyNames, parseJson } from './json-text.ts';
import { quoted } from './scalar.ts';
import { inTurns, Slices, unpackedAtOnce } from './turns.ts';

const unpack: (bytes: Uint8Array, options: ZlibOptions) => Promise<Buffer> = inTurns(unpackedAtOnce, promisify(gunzip));

/** What a body may be. */
export interface BodyBounds extends Omit<JsonBounds, 'listOf'> {
  /** Bytes of a body at most, as sent and unpacked. */
  readonly maxBytes: number;
  /** A body may unpack to this many times its bytes, and to `unpackedFreeBytes` in any case. */
  readonly unpackedRatio: number;
  readonly unpackedFreeBytes: number;
  /** Elements that a list field takes. */
  readonly maxElements: (field: DescField) => number;
}

/** A body that was parsed. */
export interface ReadBody {
  /** Undefined when the body is empty. */
  readonly json: unknown;
  /** Of a large body, whose message is read in slices, too. */
  readonly slices?: Slices;
}

/** Smaller bodies are parsed at once. */
const largeBytes = 64 * 1024;

function tooManyBytes(limit: number, actual: number, what = 'the body has'): TranscodeError {
  const description = `${what} ${actual} bytes, at most ${limit} are allowed; send fewer messages per call`;
  return new TranscodeError(413, description, [{ field: 'body', description }], {}, { limit, actual });
}

/** The bytes of a body of at most `maxBytes`, sent and unpacked. */
export async function readBytes(
  { body, header, signal }: UniversalServerRequest,
  bounds: BodyBounds,
  refused: () => Promise<void>,
): Promise<Uint8Array> {
  if (!isStream(body)) throw new Error('the body is no stream');
  const { maxBytes } = bounds;
  const declared = Number(header.get('content-length') ?? 0);
  if (declared > maxBytes) {
    await refused();
    throw tooManyBytes(maxBytes, declared);
  }
  const encoding = (header.get('content-encoding') ?? 'identity').trim().toLowerCase();
  if (encoding !== 'identity' && encoding !== 'gzip') {
    const message = `Content-Encoding ${quoted(encoding)} is not supported; use gzip or identity`;
    throw new TranscodeError(415, message, [], { 'accept-encoding': 'gzip, identity' });
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  // Not for await: leaving it early ends the stream, and Node then cuts the connection before the 413 is out.
  const stream = body[Symbol.asyncIterator]();
  for (;;) {
    let chunk: IteratorResult<Uint8Array>;
    try {
      chunk = await stream.next();
    } catch (error) {
      if (error instanceof ConnectError || signal.aborted) throw error;
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

/** Unpacks a body or a message, which may become `unpackedRatio` times as large: a kilobyte would else be a megabyte of work. */
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
    // The last four bytes of gzip are the unpacked size, as whoever packed it says.
    const said = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).readUInt32LE(bytes.length - 4);
    const actual = Math.max(said, limit + 1);
    if (limit === maxBytes) throw tooManyBytes(limit, actual, 'the body expands to');
    const description = `the body expands to ${actual} bytes, more than ${unpackedRatio} times its ${bytes.length}, at most ${limit} are allowed; send it with less compression, or in parts`;
    throw new TranscodeError(413, description, [{ field: 'body', description }], {}, { limit, actual });
  }
}

/** Parses the bytes of a body; large ones in slices, when it is known that they do not hold too much. */
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

/** The JSON of a body, whatever its Content-Type says. */
export async function readBody(
  request: UniversalServerRequest,
  bounds: BodyBounds,
  candidates: readonly Binding[],
  refused: () => Promise<void>,
): Promise<ReadBody> {
  // A framework that has parsed the body already.
  if (!isStream(request.body)) return { json: request.body };
  const bytes = await readBytes(request, bounds, refused);
  try {
    return await parseBody(bytes, bounds, (key) => listOfBindings(candidates, key, bounds), namesOf(candidates));
  } catch (error) {
    throw (error instanceof TranscodeError && error.size === undefined && asForm(request.header)) || error;
  }
}

const formType = /^\s*(multipart\/form-data|application\/x-www-form-urlencoded)\b/i;

/** What no JSON is may be a form, which a library sends by default. */
function asForm(header: Headers): TranscodeError | undefined {
  const [, type] = formType.exec(header.get('content-type') ?? '') ?? [];
  if (type === undefined) return undefined;
  const description = `is a form (${type.toLowerCase()}), not JSON; send JSON with Content-Type: application/json`;
  return new TranscodeError(400, `body: ${description}`, [{ field: 'body', description }]);
}

/** What the body of a route is called in faults, by its JSON root. */
function namesOf(candidates: readonly Binding[]): BodyNames {
  const named = (root: Binding['root']) => {
    const body = candidates.find((each) => each.root === root)?.body;
    return body?.kind === 'field' ? body.field.name : undefined;
  };
  return { array: named('array'), object: named('object') };
}

/** The list of a request that stands at the root of a body, or in its root object. */
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

/** A list that is a field of a message. */
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
