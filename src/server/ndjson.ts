import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { create, type MessageShape } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  createHandlerContext,
  createMethodImplSpec,
  type Interceptor,
  type ServiceImpl,
} from '@connectrpc/connect';
import { transformInvokeImplementation } from '@connectrpc/connect/protocol';
import {
  BatchOptionsSchema,
  BatchService,
  type SubmitBatchStreamRequest,
  SubmitBatchStreamRequestSchema,
  SubmitBatchStreamResponseSchema,
} from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { type MessageDraft, MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { limits } from '../limits.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { legacyFailure } from '../rpc/legacy.ts';
import {
  callerSignal,
  createValues,
  type Request,
  type RequestContext,
  type Response,
  requestIdHeader,
  type Taker,
} from '../rpc/request-context.ts';
import { tooManyBytes } from '../rpc/services/batch-service.ts';
import { TranscodeError, type Transcoder } from '../transcode/index.ts';
import { discard } from './early-answer.ts';

export interface NdjsonParts {
  readonly implementation: ServiceImpl<typeof BatchService>;
  readonly interceptors: Interceptor[];
  readonly transcoder: Transcoder;
}

const path = /^\/v1\/batches(?:\?(.*))?$/;
const ndjsonTypes = /^application\/(x-ndjson|ndjson|jsonl|x-jsonlines|json-seq)\b/i;
/** Messages per frame: about 5 ms of decoding and validation between two yields. */
const frameMessages = 500;
/**
 * A frame also ends at this many bytes of lines. Decoded messages take up to 15 times as much: a
 * batch of large variables took 3.6 GB at once.
 */
const frameBytes = 1024 * 1024;

/** The query string of an NDJSON batch; undefined: another request. */
function searchOf({ method, url, headers }: Request): string | undefined {
  const match = method === 'POST' && ndjsonTypes.test(headers['content-type'] ?? '') ? path.exec(url ?? '') : null;
  return match === null ? undefined : (match[1] ?? '');
}

/** Whether a request's body is read line by line. */
export function isNdjson(request: Request): boolean {
  return searchOf(request) !== undefined;
}

/**
 * Serves batches as NDJSON, `POST /v1/batches` with one message per line: SubmitBatchStream in
 * another format, with the same interceptors.
 */
export function createNdjson(parts: NdjsonParts): Taker {
  const spec = createMethodImplSpec(BatchService.method.submitBatchStream, parts.implementation.submitBatchStream);

  async function serve(requestContext: RequestContext, response: Response, search: string): Promise<void> {
    const { request } = requestContext;
    const { controller, release } = callerSignal(response);
    const context = createHandlerContext({
      service: BatchService,
      method: spec.method,
      protocolName: 'http-json',
      requestMethod: 'POST',
      url: `http://localhost${request.url}`,
      requestSignal: controller.signal,
      requestHeader: requestContext.header,
      responseHeader: {},
      responseTrailer: {},
      contextValues: createValues(requestContext),
    });
    try {
      const invoke = transformInvokeImplementation(spec, context, parts.interceptors);
      for await (const answer of invoke(framesOf(request, search, parts.transcoder))) {
        for (const [name, value] of context.responseHeader) response.setHeader(name, value);
        const message = answer as MessageShape<typeof SubmitBatchStreamResponseSchema>;
        end(response, 200, parts.transcoder.write(SubmitBatchStreamResponseSchema, message));
      }
    } catch (error) {
      if (response.destroyed || response.writableEnded) return;
      const { status, headers, body } = legacyFailure(toConnectError(error));
      response.setHeader(requestIdHeader, requestContext.requestId);
      for (const [name, value] of [...context.responseHeader, ...headers]) response.setHeader(name, value);
      // On HTTP/2 before the answer; see early-answer.ts.
      if (!request.complete && request.httpVersionMajor === 2) await discard(request);
      if (response.destroyed) return;
      end(response, status, body);
    } finally {
      release();
    }
  }

  return (context, response) => {
    const search = searchOf(context.request);
    return search === undefined ? undefined : serve(context, response, search);
  };
}

function end(response: Response, status: number, body: string): void {
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

/** Yields the options of the query, then the lines in frames. */
async function* framesOf(
  request: Request,
  search: string,
  { read, readQuery }: Transcoder,
): AsyncGenerator<SubmitBatchStreamRequest> {
  yield create(SubmitBatchStreamRequestSchema, { options: readQuery(BatchOptionsSchema, search) });
  let messages: MessageDraft[] = [];
  let lines: number[] = [];
  let heldBytes = 0;
  let count = 0;
  for await (const { line, bytes } of linesOf(request)) {
    try {
      const draft = read(MessageDraftSchema, bytes, `messages[${count}]`);
      messages.push(draft instanceof Promise ? await draft : draft);
    } catch (error) {
      throw withLine(line, error);
    }
    lines.push(line);
    count++;
    heldBytes += bytes.length;
    if (messages.length < frameMessages && heldBytes < frameBytes) continue;
    yield create(SubmitBatchStreamRequestSchema, { messages, lines });
    messages = [];
    lines = [];
    heldBytes = 0;
  }
  yield create(SubmitBatchStreamRequestSchema, { messages, lines, last: true });
}

/** Adds the line number to an error. Lines count from 1, messages from 0. */
function withLine(line: number, error: unknown): unknown {
  if (!(error instanceof TranscodeError)) return error;
  const faults = error.faults.length > 0 ? error.faults : [{ field: 'body', description: error.rawMessage }];
  return new TranscodeError(
    error.httpStatus,
    `line ${line}: ${error.rawMessage}`,
    faults.map((each) => ({ ...each, description: `${each.description} (line ${line})` })),
    {},
    error.size,
  );
}

const lineFeed = 0x0a;
/** Bounds empty lines, which are ignored: a compressed body of nothing else would take hours. */
const maxLines = 2 * limits.submitMessages;

/** The non-empty lines, as bytes. */
async function* linesOf(request: Request): AsyncGenerator<{ line: number; bytes: Uint8Array }> {
  let line = 0;
  let totalBytes = 0;
  let rest: Uint8Array[] = [];
  let heldBytes = 0;
  for await (const chunk of decompressed(request)) {
    totalBytes += chunk.length;
    if (totalBytes > limits.submitBytes) throw tooManyBytes();
    let start = 0;
    for (let at = chunk.indexOf(lineFeed); at !== -1; at = chunk.indexOf(lineFeed, start)) {
      const bytes = Buffer.concat([...rest, chunk.subarray(start, at)]);
      rest = [];
      heldBytes = 0;
      start = at + 1;
      line++;
      if (line > maxLines)
        throw tooLarge(
          `the body has more than ${maxLines} lines; a batch has at most ${limits.submitMessages} messages`,
          { limit: maxLines, actual: line },
        );
      if (hasContent(bytes)) yield { line, bytes: textOfLine(bytes) };
    }
    rest.push(chunk.subarray(start));
    heldBytes += chunk.length - start;
    if (heldBytes > limits.requestBytes)
      throw tooLarge(`line ${line + 1} has more than ${limits.requestBytes} bytes; send one message per line`, {
        limit: limits.requestBytes,
        actual: heldBytes,
      });
  }
  const bytes = Buffer.concat(rest);
  if (hasContent(bytes)) yield { line: line + 1, bytes: textOfLine(bytes) };
}

/** The error of a body above a limit. What exceeds it may be longer than `actual`, which has arrived. */
function tooLarge(description: string, size: { readonly limit: number; readonly actual: number }): TranscodeError {
  return new TranscodeError(413, description, [{ field: 'body', description }], {}, size);
}

/** RFC 7464 begins each text of application/json-seq with this character. */
const recordSeparator = 0x1e;

/** A line without the record separator of a JSON text sequence. */
function textOfLine(line: Uint8Array): Uint8Array {
  return line[0] === recordSeparator ? line.subarray(1) : line;
}

function hasContent(bytes: Uint8Array): boolean {
  for (let index = 0; index < bytes.length; index++) if ((bytes[index] as number) > 0x20) return true;
  return false;
}

/**
 * The decompressed body. Iterated by hand: leaving a `for await` early would close the connection
 * before the answer is sent.
 */
async function* decompressed(request: Request): AsyncGenerator<Buffer> {
  const encoding = (request.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  if (encoding !== 'identity' && encoding !== 'gzip')
    throw new TranscodeError(
      415,
      'Content-Encoding must be gzip or identity',
      [{ field: 'Content-Encoding', description: 'must be gzip or identity' }],
      { 'accept-encoding': 'gzip, identity' },
    );
  const gunzip = encoding === 'gzip' ? pipeline(request, createGunzip(), () => {}) : undefined;
  const source = gunzip ?? request;
  // A truncated HTTP/2 body can read like a complete one.
  let packedBytes = 0;
  let length = 0;
  request.on('data', (chunk: Buffer) => {
    packedBytes += chunk.length;
  });
  const body = source.iterator({ destroyOnReturn: false })[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { done, value } = await body.next();
      if (done === true) return assertWhole(request, packedBytes);
      const chunk = value as Buffer;
      length += chunk.length;
      if (length > Math.max(limits.unpackedFreeBytes, packedBytes * limits.unpackedRatio))
        throw tooLarge(
          `the body expands to more than ${limits.unpackedRatio} times its ${packedBytes} bytes; send it with less compression`,
          { limit: packedBytes * limits.unpackedRatio, actual: length },
        );
      yield chunk;
    }
  } catch (error) {
    if (error instanceof TranscodeError) throw error;
    const { code } = error as { code?: string };
    if (code?.startsWith('Z_')) throw new TranscodeError(400, 'the body is not gzip, as its Content-Encoding says');
    throw new ConnectError('the body ended before its end', Code.Canceled, undefined, undefined, error);
  } finally {
    // The rest can be discarded now, compressed or not.
    await body.return?.();
    if (gunzip !== undefined) request.unpipe(gunzip);
  }
}

function assertWhole(request: Request, bytes: number): void {
  const declared = request.headers['content-length'];
  const isReset = 'stream' in request && request.stream.rstCode !== 0;
  if (isReset || (declared !== undefined && Number(declared) !== bytes))
    throw new Error(`the body was cut after ${bytes} bytes`);
}
