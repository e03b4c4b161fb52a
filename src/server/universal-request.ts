// Node requests and responses as the transcoder takes and gives them.
import type { UniversalServerResponse } from '@connectrpc/connect/protocol';
import { createValues, isGone, type Request, type RequestContext, type Response } from '../rpc/request-context.ts';
import { TextBody, type TranscodedRequest } from '../transcode/index.ts';

/**
 * A Node request as Connect's universal one, without what Connect's own conversion costs a small call (a web URL, a generator around the body, and an abort at the end
 * of every answer, whose DOMException takes a stack: 15 % of a single JSON send together).
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
 * A body, which is iterated once. Returning early does not end the connection: the answer is to come.
 * A body that came with its headers is one chunk, without the listeners and queues of Node's iterator.
 */
class RequestBody implements AsyncIterable<Uint8Array>, AsyncIterator<Uint8Array> {
  readonly #request: Request;
  #isRead = false;
  /** Of a body that is still to come. */
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
    // A request of HTTP/1.1 is emitted before the body that came with it; microtasks run after both.
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

  /** Called when the call has ended. A body that was read whole emits its end, for which Node waits to let go of the request. */
  release(): void {
    if (this.#isRead) this.#request.read(0);
  }
}

/** A body of a declared length, when all of it is here and unread. */
function readWhole(request: Request): Uint8Array | undefined {
  const { headers, readableLength } = request;
  if (readableLength === 0 || Number(headers['content-length']) !== readableLength) return undefined;
  return (request.read() as Uint8Array | null) ?? undefined;
}

/** Answers, in one piece: the JSON routes have no streams. */
export async function writeAnswer(
  { status, header, body }: UniversalServerResponse,
  response: Response,
): Promise<void> {
  if (body instanceof TextBody) {
    if (isGone(response)) return;
    response.writeHead(status, Object.fromEntries(header ?? []));
    // Node writes a text together with the headers.
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
