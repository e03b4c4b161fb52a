// One request, from its headers to its answer.
//
// server/dispatch creates a RequestContext for each request and passes it to all that decides about
// it: load shedding, admission, body budget, handlers. Where Connect is in between, the context is
// in the call's context values, under one key. Invariants:
//  1. Protocol, RPC and JSON route are resolved once, from path, verb and content type.
//  2. `caller` is set once the credential was accepted, before the body is read. Without
//     authentication it is the trusted caller.

import { randomUUID } from 'node:crypto';
import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError, type ContextKey, type ContextValues, createContextKey } from '@connectrpc/connect';
import type { connectNodeAdapter } from '@connectrpc/connect-node';
import { certificateOf } from '../auth/identity.ts';
import { type Caller, trustedCaller } from '../messages/caller.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import type { CallCounts, Protocol, RejectedRequest } from '../observability/events/index.ts';
import { LightHeaders, type Route } from '../transcode/index.ts';
import { CallSignal } from './call-signal.ts';

/** Longest delay of a Node timer; a longer one fires immediately. */
export const longestTimerMs = 2 ** 31 - 1;

/** A header as Connect's parsers take it: null unless it was sent once. */
export function textOf(header: string | string[] | undefined): string | null {
  return typeof header === 'string' ? header : null;
}

type ConnectHandler = ReturnType<typeof connectNodeAdapter>;
export type Request = Parameters<ConnectHandler>[0];
export type Response = Parameters<ConnectHandler>[1];
/** Throws, or returns a promise that rejects, only for a defect of the service. */
export type Handler = (request: Request, response: Response) => unknown;
/** Serves a request that it takes; undefined: it does not. */
export type Taker = (context: RequestContext, response: Response) => Promise<void> | undefined;

/** Names the request, in both directions. */
export const requestIdHeader = 'x-request-id';
/** A caller's id is kept if it has this form: it appears in the log and in a header. */
const plainId = /^[\w.:-]{1,128}$/;

/** Forbids other sites to embed an answer (independent of CORS), and browsers to guess its type. */
export const safeAnswerHeaders: Readonly<Record<string, string>> = {
  'cross-origin-resource-policy': 'same-origin',
  'x-content-type-options': 'nosniff',
};

/** What a request leads to, by its path, verb and content type. */
export interface Destination {
  readonly protocol: Protocol;
  /** The RPC; undefined: none. A JSON body may still select another RPC of the same path. */
  readonly method: DescMethod | undefined;
  /** The JSON route; undefined for other protocols. */
  readonly route: Route | undefined;
}

/** What is known of one request. */
export class RequestContext implements Destination {
  readonly request: Request;
  readonly protocol: Protocol;
  readonly method: DescMethod | undefined;
  readonly route: Route | undefined;
  caller: Caller = trustedCaller;
  /** Whether a credential was accepted. */
  isAdmitted = false;
  /** When that was, by performance.now(). */
  admittedAt = 0;
  /** Whether the request became a call, which is logged as such. */
  isCalled = false;
  /** Whether it was refused to make room for others. A read error that follows is not its fault. */
  isEvicted = false;
  /** Messages of the call by outcome. */
  counts: CallCounts | undefined = undefined;
  /** Cancels the call when its caller leaves. Unset: only the signal of its context does. */
  cancellation: Cancellation | undefined = undefined;
  /**
   * Headers of every answer to the request: of its origin check, and what keeps other sites out.
   */
  answerHeaders: Readonly<Record<string, string>> = safeAnswerHeaders;
  /** Counts a chunk of the body (null: its end); false: the body was dropped. */
  onBodyChunk: ((chunk: Buffer | null) => boolean) | undefined = undefined;
  /** Counts the call in load shedding, once its body is complete. */
  onBodyComplete: (() => void) | undefined = undefined;
  #header: Headers | undefined;
  #requestId: string | undefined;
  #certificate: { readonly subject: string | undefined } | undefined;

  constructor(request: Request, { protocol, method, route }: Destination) {
    this.request = request;
    this.protocol = protocol;
    this.method = method;
    this.route = route;
  }

  /**
   * The subject of the client's certificate, if the TLS layer has verified it. Looked up only when
   * the caller is identified: on HTTP/2, Node creates a proxy of the socket per request.
   */
  get certificate(): string | undefined {
    this.#certificate ??= { subject: certificateOf(this.request.socket) };
    return this.#certificate.subject;
  }

  get header(): Headers {
    this.#header ??= new LightHeaders(this.request.headers);
    return this.#header;
  }

  /** The caller's request id, or a new one. */
  get requestId(): string {
    this.#requestId ??= givenRequestId(this.request) ?? randomUUID();
    return this.#requestId;
  }

  /** The same for all requests of one sender: its caller if known, else its connection. */
  get peer(): unknown {
    const { request } = this;
    if (this.isAdmitted) return this.caller.id;
    return 'stream' in request ? request.stream.session : request.socket;
  }

  /** Counts a chunk of the body; false: the body was dropped, and so is the chunk. */
  takesChunk(chunk: Buffer | null): boolean {
    return this.onBodyChunk === undefined || this.onBodyChunk(chunk);
  }

  /** Reports that the body is complete. Throws when load shedding refuses the call. */
  bodyComplete(): void {
    const { onBodyComplete } = this;
    this.onBodyComplete = undefined;
    onBodyComplete?.();
  }
}

const requestContextKey = createContextKey<RequestContext | undefined>(undefined, { description: 'request context' });

/** The context values of a call. */
export function createValues(context: RequestContext): ContextValues {
  return new CallValues().set(requestContextKey, context);
}

/** A value of a call, and the one that was set before it. */
interface CallValue {
  readonly id: symbol;
  value: unknown;
  readonly before: CallValue | undefined;
}

/**
 * As Connect's, whose methods are created for each call. A call has two or three values: arrays for
 * them would take 300 bytes more.
 */
class CallValues implements ContextValues {
  #last: CallValue | undefined;

  get<T>(key: ContextKey<T>): T {
    const found = this.#find(key);
    return found === undefined ? key.defaultValue : (found.value as T);
  }

  set<T>(key: ContextKey<T>, value: T): this {
    const found = this.#find(key);
    if (found === undefined) this.#last = { id: key.id, value, before: this.#last };
    else found.value = value;
    return this;
  }

  delete(key: ContextKey<unknown>): this {
    const found = this.#find(key);
    if (found !== undefined) this.#last = without(this.#last, found);
    return this;
  }

  #find({ id }: ContextKey<unknown>): CallValue | undefined {
    let each = this.#last;
    while (each !== undefined && each.id !== id) each = each.before;
    return each;
  }
}

function without(last: CallValue | undefined, found: CallValue): CallValue | undefined {
  if (last === undefined || last === found) return last?.before;
  return { ...last, before: without(last.before, found) };
}

/** The request of a call. */
export function requestContextOf(values: ContextValues): RequestContext {
  const context = values.get(requestContextKey);
  if (context === undefined) throw new Error('a call without its request context');
  return context;
}

/**
 * What cancels a call: as the signal of its context does, but without creating it for unary gRPC
 * and the JSON routes.
 */
export function cancellationOf(values: ContextValues, call: { readonly signal: AbortSignal }): Cancellation {
  return requestContextOf(values).cancellation ?? call.signal;
}

/** The caller of a call. */
export function callerOf({ values }: { readonly values: ContextValues }): Caller {
  return requestContextOf(values).caller;
}

function givenRequestId({ headers }: Request): string | undefined {
  const id = headers[requestIdHeader];
  return typeof id === 'string' && plainId.test(id) ? id : undefined;
}

const pathChars = 200;

/** Describes a request that did not become a call, for the log. */
export function rejectedRequestOf({ request }: Pick<RequestContext, 'request'>): RejectedRequest {
  const { method = '', url = '' } = request;
  const path = (url.split('?', 1)[0] ?? '').slice(0, pathChars);
  return { httpMethod: method, path, requestId: givenRequestId(request) };
}

/** What tells that a caller leaves: a response of Node, or of a call on its HTTP/2 stream. */
type Answer = {
  readonly writableEnded: boolean;
  once(event: 'close', listener: () => void): unknown;
  off(event: 'close', listener: () => void): unknown;
} & ({ readonly stream: { readonly destroyed: boolean } } | { readonly destroyed: boolean });

/**
 * Whether the caller has disconnected. HTTP/2 responses have no `destroyed`; a `close` event may
 * have been emitted already, so waiting for one could wait for ever.
 */
export function isGone(response: Answer): boolean {
  return 'stream' in response ? response.stream.destroyed : response.destroyed;
}

/** Aborts when the caller disconnects before its answer. Call `release` at the end of the call. */
export function callerSignal(response: Answer): { controller: CallSignal; release: () => void } {
  const controller = new CallSignal();
  const gone = () => {
    if (!response.writableEnded) controller.abort(new ConnectError('the caller disconnected', Code.Canceled));
  };
  // The caller may have disconnected while it was identified.
  if (isGone(response)) gone();
  else response.once('close', gone);
  return { controller, release: () => response.off('close', gone) };
}
