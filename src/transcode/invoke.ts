import { create, isMessage, type Message } from '@bufbuild/protobuf';
import {
  createContextKey,
  type HandlerContext,
  type Interceptor,
  type MethodImplSpec,
  type UnaryRequest,
  type UnaryResponse,
} from '@connectrpc/connect';

/** A unary method and its implementation. */
export type UnaryMethod = MethodImplSpec & { kind: 'unary' };

/** Calls an implementation through interceptors. The answer's headers and trailers are the context's. */
export type InvokeUnary = (method: UnaryMethod, context: HandlerContext, input: Message) => Promise<Message>;

interface Invocation {
  readonly method: UnaryMethod;
  readonly context: HandlerContext;
}

const invocationKey = createContextKey<Invocation | undefined>(undefined, { description: 'invocation' });

/** As Connect's `invokeUnaryImplementation`, which chains the interceptors anew for each call and copies its context. */
export function createInvokeUnary(interceptors: readonly Interceptor[]): InvokeUnary {
  const chained = interceptors.reduceRight((next, interceptor) => interceptor(next), invoke as Next);
  return async (method, context, input) => {
    context.values.set(invocationKey, { method, context });
    const { message, header, trailer } = (await chained({
      stream: false,
      message: input,
      method: method.method,
      service: method.method.parent,
      requestMethod: context.requestMethod,
      url: context.url,
      signal: context.signal,
      header: context.requestHeader,
      contextValues: context.values,
    } as UnaryRequest)) as UnaryResponse;
    replace(context.responseHeader, header);
    replace(context.responseTrailer, trailer);
    return message as Message;
  };
}

type Next = Parameters<Interceptor>[0];

async function invoke(request: UnaryRequest): Promise<UnaryResponse> {
  const invocation = request.contextValues.get(invocationKey);
  if (invocation === undefined) throw new Error('an interceptor has replaced the context values of its call');
  const { method, context } = invocation;
  const { parent: service, output } = method.method;
  const answer = await method.impl(request.message, contextFor(request, context));
  return {
    stream: false,
    service,
    method: method.method,
    header: context.responseHeader,
    trailer: context.responseTrailer,
    message: isMessage(answer, output) ? answer : create(output, answer),
  } as UnaryResponse;
}

/** The context as the interceptors left the request. */
function contextFor({ signal, header, contextValues }: UnaryRequest, context: HandlerContext): HandlerContext {
  const isSame = signal === context.signal && header === context.requestHeader && contextValues === context.values;
  return isSame ? context : { ...context, signal, requestHeader: header, values: contextValues };
}

function replace(into: Headers, from: Headers): void {
  if (from === into) return;
  for (const name of [...into.keys()]) into.delete(name);
  for (const [name, value] of from) into.append(name, value);
}
