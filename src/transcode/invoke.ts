import { create, type DescMethod, isMessage, type Message } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  type ContextValues,
  createContextKey,
  type HandlerContext,
  type Interceptor,
  type MethodImplSpec,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
  type UnaryResponse,
} from '@connectrpc/connect';

import { LightHeaders } from './light-headers.ts';
import type { CallController } from './options.ts';

/** A unary method and its implementation. */
export type UnaryMethod = MethodImplSpec & { kind: 'unary' };

/** Calls an implementation through interceptors, and returns its message. */
export type InvokeUnary = (method: UnaryMethod, context: UnaryContext, input: Message) => Promise<Message>;

type Init = Pick<
  HandlerContext,
  'method' | 'protocolName' | 'requestMethod' | 'url' | 'timeoutMs' | 'requestHeader' | 'values'
> & { readonly controller: CallController };

/** The context of a unary call. Trailers and signal are created on demand: few calls have any. */
export class UnaryContext implements HandlerContext {
  readonly service: HandlerContext['service'];
  readonly method: DescMethod;
  readonly protocolName: string;
  readonly requestMethod: string;
  readonly url: string;
  readonly timeoutMs: () => number | undefined;
  readonly requestHeader: Headers;
  readonly responseHeader: Headers = new LightHeaders();
  readonly values: ContextValues;
  readonly #controller: CallController;
  #trailer: Headers | undefined;

  constructor({ method, protocolName, requestMethod, url, controller, timeoutMs, requestHeader, values }: Init) {
    this.service = method.parent;
    this.method = method;
    this.protocolName = protocolName;
    this.requestMethod = requestMethod;
    this.url = url;
    this.#controller = controller;
    this.timeoutMs = timeoutMs;
    this.requestHeader = requestHeader;
    this.values = values;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get responseTrailer(): Headers {
    this.#trailer ??= new Headers();
    return this.#trailer;
  }

  /** The trailers; undefined while none were requested. */
  get usedTrailer(): Headers | undefined {
    return this.#trailer;
  }
}

interface Invocation {
  readonly method: UnaryMethod;
  readonly context: UnaryContext;
  readonly request: UnaryRequest;
  /** The response of the implementation. */
  response?: UnaryResponse;
}

const invocationKey = createContextKey<Invocation | undefined>(undefined, { description: 'invocation' });

/**
 * Like Connect's `invokeUnaryImplementation`, which builds the chain of interceptors per call and
 * copies the context.
 */
export function createInvokeUnary(interceptors: readonly Interceptor[]): InvokeUnary {
  const chained = interceptors.reduceRight((next, interceptor) => interceptor(next), invoke as Next);
  return async (method, context, input) => {
    const request = new Request(context, input);
    const invocation: Invocation = { method, context, request };
    context.values.set(invocationKey, invocation);
    const response = (await chained(request)) as UnaryResponse;
    if (response !== invocation.response) {
      replace(context.responseHeader, response.header);
      replace(context.responseTrailer, response.trailer);
    }
    return response.message as Message;
  };
}

type Next = Parameters<Interceptor>[0];

/**
 * The request that interceptors get. One that passes a copy on ({ ...request }) leaves the signal
 * out, whose getter is no property of the object; the implementation gets the call's own then.
 */
class Request implements UnaryRequest {
  readonly stream = false;
  readonly message: UnaryRequest['message'];
  readonly method: UnaryRequest['method'];
  readonly service: UnaryRequest['service'];
  readonly requestMethod: string;
  readonly url: string;
  readonly header: Headers;
  readonly contextValues: ContextValues;
  readonly #context: UnaryContext;

  constructor(context: UnaryContext, message: Message) {
    this.message = message;
    this.method = context.method as UnaryRequest['method'];
    this.service = context.service;
    this.requestMethod = context.requestMethod;
    this.url = context.url;
    this.header = context.requestHeader;
    this.contextValues = context.values;
    this.#context = context;
  }

  get signal(): AbortSignal {
    return this.#context.signal;
  }
}

async function invoke(request: UnaryRequest): Promise<UnaryResponse> {
  const invocation = request.contextValues.get(invocationKey);
  if (invocation === undefined) throw new Error('an interceptor has replaced the context values of its call');
  const { method, context } = invocation;
  const { output } = method.method;
  const own = request === invocation.request ? context : contextFor(request, context);
  const answer = await method.impl(request.message, own);
  invocation.response = new Response(context, isMessage(answer, output) ? answer : create(output, answer));
  return invocation.response;
}

class Response implements UnaryResponse {
  readonly stream = false;
  readonly service: UnaryResponse['service'];
  readonly method: UnaryResponse['method'];
  readonly header: Headers;
  readonly message: Message;
  readonly #context: UnaryContext;

  constructor(context: UnaryContext, message: Message) {
    this.service = context.service;
    this.method = context.method as UnaryResponse['method'];
    this.header = context.responseHeader;
    this.message = message;
    this.#context = context;
  }

  get trailer(): Headers {
    return this.#context.responseTrailer;
  }
}

/** Returns the context with the values that the interceptors left in the request. */
function contextFor(request: UnaryRequest | StreamRequest, context: UnaryContext): HandlerContext {
  const { header, contextValues } = request;
  // Undefined in a copy; see Request.
  const signal = (request.signal as AbortSignal | undefined) ?? context.signal;
  if (signal === context.signal && header === context.requestHeader && contextValues === context.values) return context;
  const { responseTrailer } = context;
  return { ...context, responseTrailer, signal, requestHeader: header, values: contextValues };
}

function replace(into: Headers, from: Headers): void {
  if (from === into) return;
  for (const name of [...into.keys()]) into.delete(name);
  for (const [name, value] of from) into.append(name, value);
}

/** A server-streaming method and its implementation. */
export type ServerStreamMethod = MethodImplSpec & { kind: 'server_streaming' };

/** Calls an implementation through interceptors, and returns its messages. */
export type InvokeServerStream = (
  method: ServerStreamMethod,
  context: UnaryContext,
  input: AsyncIterable<Message>,
) => Promise<AsyncIterable<Message>>;

interface StreamInvocation {
  readonly method: ServerStreamMethod;
  readonly context: UnaryContext;
}

const streamInvocationKey = createContextKey<StreamInvocation | undefined>(undefined, {
  description: 'stream invocation',
});

/** Like `createInvokeUnary`, for server-streaming methods. */
export function createInvokeServerStream(interceptors: readonly Interceptor[]): InvokeServerStream {
  const chained = interceptors.reduceRight((next, interceptor) => interceptor(next), invokeServerStream as Next);
  return async (method, context, input) => {
    context.values.set(streamInvocationKey, { method, context });
    const response = (await chained({
      stream: true,
      message: input,
      method: context.method,
      service: context.service,
      requestMethod: context.requestMethod,
      url: context.url,
      signal: context.signal,
      header: context.requestHeader,
      contextValues: context.values,
    } as StreamRequest)) as StreamResponse;
    replace(context.responseHeader, response.header);
    return response.message as AsyncIterable<Message>;
  };
}

async function invokeServerStream(request: StreamRequest): Promise<StreamResponse> {
  const invocation = request.contextValues.get(streamInvocationKey);
  if (invocation === undefined) throw new Error('an interceptor has replaced the context values of its call');
  const { method, context } = invocation;
  const input = await onlyMessage(request.message as AsyncIterable<Message>);
  return {
    stream: true,
    service: context.service,
    method: context.method,
    header: context.responseHeader,
    trailer: context.responseTrailer,
    message: method.impl(input, contextFor(request, context)),
  } as StreamResponse;
}

/** The message of a request that must have exactly one. */
async function onlyMessage(messages: AsyncIterable<Message>): Promise<Message> {
  const iterator = messages[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done === true)
    throw new ConnectError('protocol error: missing input message for server-streaming method', Code.Unimplemented);
  const second = await iterator.next();
  if (second.done !== true)
    throw new ConnectError(
      'protocol error: received extra input message for server-streaming method',
      Code.Unimplemented,
    );
  return first.value;
}
