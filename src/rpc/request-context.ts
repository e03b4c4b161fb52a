import type { IncomingHttpHeaders } from 'node:http';
import { Code, ConnectError, type ContextValues, createContextKey, createContextValues } from '@connectrpc/connect';
import type { UniversalServerResponse } from '@connectrpc/connect/protocol';
import type { connectNodeAdapter } from '@connectrpc/connect-node';
import { callerKey, certificateKey, certificateOf } from '../auth/identity.ts';
import type { Caller } from '../messages/caller.ts';
import type { Protocol, RejectedRequest } from '../observability/events/index.ts';
import { TextBody, type TranscodedRequest } from '../transcode/index.ts';

/** What a timer of Node's takes; one that is longer ends at once. */
export const longestTimerMs = 2 ** 31 - 1;

/** A header that comes once, as Connect's parsers take it. */
export function textOf(header: string | string[] | undefined): string | null {
  return typeof header === 'string' ? header : null;
}

export type Handler = ReturnType<typeof connectNodeAdapter>;
export type Request = Parameters<Handler>[0];
export type Response = Parameters<Handler>[1];

/** Names the request in and out. A caller's id is kept when it is plain: it goes into the log and into a header. */
export const requestIdHeader = 'x-request-id';
export const plainId = /^[\w.:-]{1,128}$/;

/** Where a request came in, and whether a call was made of it. */
export interface CallEntry {
  readonly protocol: Protocol;
  /** Whether its credential was accepted. */
  readonly admitted: boolean;
  readonly request?: Request;
  called: boolean;
}

/** Callers whose credential was accepted, by their request: before its body is read. */
export const admittedCallers: WeakMap<Request, Caller> = new WeakMap();

export const entryKey = createContextKey<CallEntry>(
  { protocol: 'connect', admitted: false, called: false },
  { description: 'entry' },
);

/**
 * A Node request as Connect's universal one, without what Connect's own conversion costs a small call (a web URL, a generator around the body, and an abort at the end
 * of every answer, whose DOMException takes a stack: 15 % of a single JSON send together).
 */
export function universalRequest(
  request: Request,
  controller: AbortController,
  contextValues: ContextValues,
): TranscodedRequest & { readonly body: RequestBody } {
  return {
    httpVersion: request.httpVersion,
    method: request.method ?? 'GET',
    url: request.url ?? '/',
    header: webHeaders(request.headers),
    body: new RequestBody(request),
    signal: controller.signal,
    controller,
    contextValues,
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

/** What is known of a call before its body is read: its protocol, its caller, and the client's certificate. */
export function contextValuesOf(request: Request, protocol: Protocol): ContextValues {
  const caller = admittedCallers.get(request);
  const values = createContextValues().set(entryKey, {
    protocol,
    request,
    admitted: caller !== undefined,
    called: false,
  });
  if (caller !== undefined) values.set(callerKey, caller);
  const certificate = certificateOf(request.socket);
  return certificate === undefined ? values : values.set(certificateKey, certificate);
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

/** Who sends a request: its caller where that is known, else its connection. */
export function peerOf(request: Request): unknown {
  return admittedCallers.get(request)?.id ?? ('stream' in request ? request.stream.session : request.socket);
}

const pathChars = 200;

/** What is told of a request that became no call. */
export function rejectedRequestOf({ method = '', url = '', headers }: Request): RejectedRequest {
  const id = headers[requestIdHeader];
  const path = (url.split('?', 1)[0] ?? '').slice(0, pathChars);
  return { httpMethod: method, path, requestId: typeof id === 'string' && plainId.test(id) ? id : undefined };
}

/** Whether nobody takes the answer any more. `destroyed` is of HTTP/1.1 alone, and a `close` that was is not told again: who waits for one then waits for ever. */
export function isGone(response: Response): boolean {
  return 'stream' in response ? response.stream.destroyed : response.destroyed;
}

/** Aborts when the caller hangs up before it is answered. `release` when the call has ended. */
export function callerSignal(response: Response): { controller: AbortController; release: () => void } {
  const controller = new AbortController();
  const gone = () => {
    if (!response.writableEnded) controller.abort(new ConnectError('the caller disconnected', Code.Canceled));
  };
  // Where the caller is identified first, it may have left meanwhile.
  if (isGone(response)) gone();
  else response.once('close', gone);
  return { controller, release: () => response.off('close', gone) };
}

export function webHeaders(headers: IncomingHttpHeaders): Headers {
  const result = new Headers();
  for (const name of Object.keys(headers)) {
    const value = headers[name];
    if (name.startsWith(':') || value === undefined) continue;
    if (typeof value === 'string') result.append(name, value);
    else for (const each of value) result.append(name, each);
  }
  return result;
}
