import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import { TranscodeError } from './error.ts';

const unpack = promisify(gunzip);

/** Reads a body of at most `maxBytes`, sent and unpacked, whatever its Content-Type says; undefined when it is empty. */
export async function readBody<T>(
  request: UniversalServerRequest,
  maxBytes: number,
  parse: (bytes: Uint8Array) => T,
): Promise<T | undefined> {
  const tooLarge = (actual: string) =>
    new TranscodeError(413, `the body has ${actual} bytes, at most ${maxBytes} are taken: send fewer messages at once`);
  const declared = Number(request.header.get('content-length') ?? 0);
  if (declared > maxBytes) throw tooLarge(String(declared));
  const encoding = (request.header.get('content-encoding') ?? 'identity').trim().toLowerCase();
  if (encoding !== 'identity' && encoding !== 'gzip')
    throw new TranscodeError(415, `Content-Encoding ${JSON.stringify(encoding)} is not taken: gzip and identity are`);
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of request.body as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > maxBytes) throw tooLarge(`over ${maxBytes}`);
    chunks.push(chunk);
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
      throw new TranscodeError(400, 'the body is not gzip, as its Content-Encoding says');
    }
  }
  return parse(bytes);
}
