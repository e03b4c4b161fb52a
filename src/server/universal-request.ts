// Converts Node requests and responses for the transcoder.
import type { UniversalServerResponse } from '@connectrpc/connect/protocol';
import { createValues, isGone, type Request, type RequestContext, type Response } from '../rpc/request-context.ts';
import { TextBody, type TranscodedRequest } from '../transcode/index.ts';

/**
 * Converts a Node request to Connect's universal one. Connect's own conversion (a web URL, a
 * generator around the body, an abort with a stack after each answer) took 15 % of a single JSON
 * send.
 */
export function universalRequest(
  context: RequestContext,
  controller: AbortController,
): TranscodedRequest & { readonly body: RequestBody } {
  const { request, header, route } = context;
  return {
    httpVersion: request.httpVersion,
    method: request.method ?? 'GET',
    url: request.url ?? '/',
    header,
    body: new RequestBody(request),
    signal: controller.signal,
    controller,
    contextValues: createValues(context),
    ...(route === undefined ? {} : { route }),
  };
}

/**
 * A body that is iterated once. Returning early does not close the connection, which has yet to
 * answer. A body that arrived with its headers is one chunk, without the listeners and queues of
 * Node's iterator.
 */
class RequestBody implements AsyncIterable<Uint8Array>, AsyncIterator<Uint8Array> {
  readonly #request: Request;
  #isRead = false;
  /** The part of a body that has not arrived yet. */
  #rest: AsyncIterator<Uint8Array> | undefined;

  constructor(request: Request) {
    this.#request = request;
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return this;
  }

  async next(): Promise<IteratorResult<Uint8Array>> {
    if (this.#rest !== undefined) return await this.#rest.next();
    if (this.#isRead) return { done: true, value: undefined };
    // HTTP/1.1 emits a request before the body that arrived with it; microtasks run after both.
    await undefined;
    const whole = readWhole(this.#request);
    if (whole !== undefined) {
      this.#isRead = true;
      return { done: false, value: whole };
    }
    this.#rest = this.#request.iterator({ destroyOnReturn: false }) as AsyncIterator<Uint8Array>;
    return await this.#rest.next();
  }

  async return(): Promise<IteratorResult<Uint8Array>> {
    await this.#rest?.return?.();
    return { done: true, value: undefined };
  }

  /** Ends a body that was read whole. Node releases the request only after its `end` event. */
  release(): void {
    if (this.#isRead) this.#request.read(0);
  }
}

/** The body, if it is of declared length, complete and unread. */
function readWhole(request: Request): Uint8Array | undefined {
  const { headers, readableLength } = request;
  if (readableLength === 0 || Number(headers['content-length']) !== readableLength) return undefined;
  return (request.read() as Uint8Array | null) ?? undefined;
}

/** Writes an answer in one piece: the JSON routes have no streams. */
export async function writeAnswer(
  { status, header, body }: UniversalServerResponse,
  response: Response,
): Promise<void> {
  if (body instanceof TextBody) {
    if (isGone(response)) return;
    response.writeHead(status, Object.fromEntries(header ?? []));
    // Node writes a string together with the headers.
    response.end(body.text);
    return;
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of body ?? []) chunks.push(chunk);
  if (isGone(response)) return;
  response.writeHead(status, Object.fromEntries(header ?? []));
  const [only] = chunks;
  if (only === undefined) response.end();
  else response.end(chunks.length === 1 ? only : Buffer.concat(chunks));
}
