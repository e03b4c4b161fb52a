import { promisify } from 'node:util';
import { gunzip, type ZlibOptions } from 'node:zlib';
import { ConnectError } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import { TranscodeError } from './error.ts';
import { parseJson } from './json-text.ts';
import { quoted } from './scalar.ts';
import { inTurns, unpackedAtOnce } from './turns.ts';

const unpack: (bytes: Uint8Array, options: ZlibOptions) => Promise<Buffer> = inTurns(unpackedAtOnce, promisify(gunzip));

/** The JSON of a body of at most `maxBytes`, sent and unpacked, whatever its Content-Type says; undefined when it is empty. */
export async function readBody({ body, header, signal }: UniversalServerRequest, maxBytes: number): Promise<unknown> {
  const tooLarge = (actual: string) =>
    new TranscodeError(413, `the body has ${actual} bytes, at most ${maxBytes} are taken: send fewer messages at once`);
  // A framework that has parsed the body already.
  if (!isStream(body)) return body;
  const declared = Number(header.get('content-length') ?? 0);
  if (declared > maxBytes) throw tooLarge(String(declared));
  const encoding = (header.get('content-encoding') ?? 'identity').trim().toLowerCase();
  if (encoding !== 'identity' && encoding !== 'gzip') {
    const message = `Content-Encoding ${quoted(encoding)} is not taken: gzip and identity are`;
    throw new TranscodeError(415, message, [], { 'accept-encoding': 'gzip, identity' });
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  // Not for await: leaving it early ends the stream, and Node then cuts the connection before the 413 is out.
  const stream = body[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await stream.next().catch((error: unknown) => {
      if (error instanceof ConnectError || signal.aborted) throw error;
      throw new TranscodeError(400, `the body ended after ${length} bytes, before its end`);
    });
    if (done === true) break;
    length += value.length;
    if (length > maxBytes) throw tooLarge(`over ${maxBytes}`);
    chunks.push(value);
  }
  if (declared > 0 && length < declared)
    throw new TranscodeError(400, `the body ended after ${length} of ${declared} bytes`);
  if (length === 0) return undefined;
  const [only] = chunks;
  let bytes = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks, length);
  if (encoding === 'gzip') {
    try {
      bytes = await unpack(bytes, { maxOutputLength: maxBytes });
    } catch (error) {
      if ((error as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge(`unpacked over ${maxBytes}`);
      throw new TranscodeError(400, 'the body is not gzip, as its Content-Encoding says, or it is cut');
    }
  }
  return bytes.length === 0 ? undefined : parseJson(bytes);
}

function isStream(body: UniversalServerRequest['body']): body is AsyncIterable<Uint8Array> {
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body;
}
