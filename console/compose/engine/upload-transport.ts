import { Code, ConnectError, type Interceptor, type Transport } from '@connectrpc/connect';
import type { Compression, UniversalClientRequest, UniversalClientResponse } from '@connectrpc/connect/protocol';
import { createTransport } from '@connectrpc/connect/protocol-connect';

/** Sends a complete body; the answer is read whole. Rejects when there is no answer. */
export type SendBody = (request: {
  readonly url: string;
  readonly header: Headers;
  readonly body: Blob;
  readonly signal: AbortSignal | undefined;
}) => Promise<{ readonly status: number; readonly header: Headers; readonly body: Uint8Array }>;

export interface UploadOptions {
  readonly baseUrl: string;
  readonly interceptors: readonly Interceptor[];
  readonly send: SendBody;
}

/** The request had no answer. */
export class ConnectionLost extends Error {
  constructor(cause: unknown) {
    super('the connection was lost', { cause });
  }
}

/** Frames below this size are not worth compressing. */
const compressMinBytes = 1024;
const maxAnswerBytes = 16 * 1024 * 1024;

/**
 * A Connect transport for client streams in a browser. `fetch` cannot stream a request over
 * HTTP/1.1, so the frames are collected, each compressed, and sent as one body: 50,000 personal
 * messages are about 1 MB.
 */
export function createUploadTransport({ baseUrl, interceptors, send }: UploadOptions): Transport {
  return createTransport({
    baseUrl,
    httpClient: (request) => exchange(request, send),
    useBinaryFormat: true,
    interceptors: [...interceptors],
    // The service answers in the encoding of the request.
    acceptCompression: [gzip],
    sendCompression: gzip,
    compressMinBytes,
    readMaxBytes: maxAnswerBytes,
    writeMaxBytes: maxAnswerBytes,
  });
}

async function exchange(request: UniversalClientRequest, send: SendBody): Promise<UniversalClientResponse> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for await (const part of request.body ?? []) parts.push(part as Uint8Array<ArrayBuffer>);
  const { url, header, signal } = request;
  try {
    const answer = await send({ url, header, body: new Blob(parts), signal });
    return { status: answer.status, header: answer.header, body: once(answer.body), trailer: new Headers() };
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ConnectError(
      'the connection was lost',
      Code.Unavailable,
      undefined,
      undefined,
      new ConnectionLost(error),
    );
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  if (bytes.length > 0) yield bytes;
}

const gzip: Compression = {
  name: 'gzip',
  compress: (bytes) => through(bytes, new CompressionStream('gzip')),
  decompress: (bytes) => through(bytes, new DecompressionStream('gzip')),
};

async function through(
  bytes: Uint8Array,
  transform: CompressionStream | DecompressionStream,
): Promise<Uint8Array<ArrayBuffer>> {
  const changed = new Blob([bytes as Uint8Array<ArrayBuffer>]).stream().pipeThrough(transform);
  return new Uint8Array(await new Response(changed).arrayBuffer());
}
