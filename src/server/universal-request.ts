// Converts Node requests and responses for the transcoder.
import type { ContextValues } from '@connectrpc/connect';
import type { UniversalServerResponse } from '@connectrpc/connect/protocol';
import { createValues, isGone, type Request, type RequestContext, type Response } from '../rpc/request-context.ts';
import {
  type CallController,
  type Route,
  recordOf,
  TextBody,
  type TranscodedRequest,
  WholeBody,
} from '../transcode/index.ts';

/**
 * A Node request as Connect's universal one; a body that has arrived already is taken as a whole.
 * Connect's own conversion (a web URL, a generator around the body, an abort with a stack after
 * each answer) took 15 % of a single JSON send.
 */
export class UniversalRequest implements TranscodedRequest {
  readonly httpVersion: string;
  readonly method: string;
  readonly url: string;
  readonly header: Headers;
  readonly body: RequestBody | WholeBody;
  readonly controller: CallController;
  readonly contextValues: ContextValues;
  readonly route: Route | undefined;

  constructor(context: RequestContext, controller: CallController) {
    const { request, header, route } = context;
    const whole = readWhole(request);
    this.httpVersion = request.httpVersion;
    this.method = request.method ?? 'GET';
    this.url = request.url ?? '/';
    this.header = header;
    this.body = whole === undefined ? new RequestBody(request) : new WholeBody(whole);
    this.controller = controller;
    this.contextValues = createValues(context);
    this.route = route;
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }
}

/**
 * A body that is iterated once. Returning early does not close the connection, which has yet to
 * answer.
 */
class RequestBody implements AsyncIterable<Uint8Array> {
  readonly #request: Request;

  constructor(request: Request) {
    this.#request = request;
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return this.#request.iterator({ destroyOnReturn: false }) as AsyncIterator<Uint8Array>;
  }
}

/** Ends a body that was read whole. Node releases the request only after its `end` event. */
export function endWhole({ request }: RequestContext, { body }: UniversalRequest): void {
  if (body instanceof WholeBody) request.read(0);
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
  answerHeaders: Readonly<Record<string, string>>,
): Promise<void> {
  if (body instanceof TextBody) {
    if (isGone(response)) return;
    response.writeHead(status, recordOf(header, answerHeaders));
    // Node writes a string together with the headers.
    response.end(body.text);
    return;
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of body ?? []) chunks.push(chunk);
  if (isGone(response)) return;
  response.writeHead(status, recordOf(header, answerHeaders));
  const [only] = chunks;
  if (only === undefined) response.end();
  else response.end(chunks.length === 1 ? only : Buffer.concat(chunks));
}
