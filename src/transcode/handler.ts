import type { DescMethodUnary } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  createContextValues,
  createServiceImplSpec,
  type HandlerContext,
  type ServiceImpl,
} from '@connectrpc/connect';
import type { UniversalServerRequest, UniversalServerResponse } from '@connectrpc/connect/protocol';
import { dropFraming, jsonAnswer, merge } from './answer.ts';
import type { Binding } from './binding.ts';
import { type BodyBounds, type ReadBody, readBody } from './body.ts';
import { TranscodeError } from './error.ts';
import { isJsonObject } from './field.ts';
import { createInvokeUnary, UnaryContext, type UnaryMethod } from './invoke.ts';
import type { JsonReader } from './json-reader.ts';
import type { JsonWriter } from './json-writer.ts';
import type { CallController, TranscodedRequest, TranscodedRoute, TranscoderOptions } from './options.ts';
import { chooseByRoot, readRequest } from './request.ts';
import { type Route, type Router, splitUrl } from './router.ts';
import { quoted } from './scalar.ts';
import { statusFailure } from './status.ts';

/**
 * The abort reason of a failed call's signal. Shared, because the default reason is a DOMException
 * with a stack of its own.
 */
const ended = new ConnectError('the call has ended', Code.Canceled);

type Settled = Required<Pick<TranscoderOptions, 'registry' | 'interceptors'>> &
  TranscoderOptions & { readonly bounds: BodyBounds };

interface Engine {
  readonly router: Router;
  readonly readerOf: (binding: Binding) => JsonReader;
  readonly writer: JsonWriter;
}

/**
 * Returns the function that answers a request. Every error, in the call or before it, becomes an
 * answer.
 */
export function createHandler(options: Settled, { router, readerOf, writer }: Engine) {
  const implementations = implementationsOf(options.services);
  const invoke = createInvokeUnary(options.interceptors);

  return async (request: TranscodedRequest): Promise<UniversalServerResponse | undefined> => {
    const progress: Progress = {};
    try {
      const { path, search } = splitUrl(request.url);
      const route = request.route ?? router.find(request.method, path);
      if (route === undefined) return undefined;
      if ('allow' in route) return refuseVerb(request.method, route.allow);
      return await call(request, route, search, progress);
    } catch (thrown) {
      return fail(request, toError(thrown), progress);
    }
  };

  async function call(
    request: TranscodedRequest,
    { bindings, segments }: Extract<Route, { bindings: unknown }>,
    search: string,
    progress: Progress,
  ): Promise<UniversalServerResponse> {
    if (bindings.length === 1) progress.binding = bindings[0];
    const takesBody = bindings.some((each) => each.body.kind !== 'none' || refusesBody(each));
    const reading: ReadBody | Promise<ReadBody> = takesBody
      ? readBody(request, bindings, options)
      : { json: undefined };
    const { json, slices, quick } = reading instanceof Promise ? await reading : reading;
    options.onBody?.(request);
    const binding = quick?.binding ?? chooseByRoot(bindings, json);
    progress.binding = binding;
    if (refusesBody(binding) && json !== undefined && json !== null && !isEmptyObject(json))
      throw new TranscodeError(400, 'body: must be empty; all fields of this route are in its path and its query', [
        { field: 'body', description: 'must be empty; all fields of this route are in its path and its query' },
      ]);
    const building = readRequest(binding, { json, segments, search }, readerOf(binding), {
      strictQuery: options.unknownQuery === 'refuse',
      slices,
      message: quick?.message,
    });
    const input = building instanceof Promise ? await building : building;
    const spec = implementations.get(binding.method);
    if (spec === undefined) throw new Error(`${binding.method.name} has no implementation`);
    const { context, end } = contextOf(request, binding, options);
    progress.context = context;
    let failed = true;
    let isInvoked = false;
    try {
      const response = await invoke(spec, context, input);
      isInvoked = true;
      const plain = () =>
        binding.responseBody === undefined
          ? writer.message(binding.method.output, response)
          : writer.field(response, binding.responseBody);
      const chosen = options.answer?.({ method: binding.method, binding, response, json: plain }) ?? {};
      const headers = context.responseHeader;
      merge(headers, chosen.headers);
      // Like Connect's unary calls: a body that is not a stream has no trailers after it.
      merge(headers, context.usedTrailer, 'trailer-');
      if (chosen.headers !== undefined) dropFraming(headers);
      const answer = jsonAnswer(request.method, chosen.status ?? 200, chosen.body ?? plain(), headers);
      failed = false;
      return answer;
    } catch (error) {
      if (isInvoked) options.onWriteFailure?.(request, error);
      throw error;
    } finally {
      end(failed);
    }
  }

  function fail({ method }: UniversalServerRequest, error: ConnectError, progress: Progress): UniversalServerResponse {
    const { binding, context } = progress;
    const failed: TranscodedRoute | undefined = binding && { method: binding.method, binding };
    const { status, headers, body } = options.failure?.(error, failed) ?? statusFailure(error, options.registry);
    const all = new Headers(context?.responseHeader);
    merge(all, headers);
    if (error instanceof TranscodeError) merge(all, error.headers);
    dropFraming(all);
    return jsonAnswer(method, status, body, all);
  }
}

/**
 * Whether a route takes no body and a given one would be ignored: `{"version": 2}` for a DELETE of
 * all versions. GET requests may carry a body by accident.
 */
function refusesBody({ body, strictFields, verb }: Binding): boolean {
  return body.kind === 'none' && strictFields && ['POST', 'PUT', 'PATCH', 'DELETE'].includes(verb);
}

function isEmptyObject(json: unknown): boolean {
  return isJsonObject(json) && Object.keys(json).length === 0;
}

/** How far a request got, to explain why it failed. */
interface Progress {
  binding?: Binding | undefined;
  context?: HandlerContext;
}

function implementationsOf(services: TranscoderOptions['services']): Map<DescMethodUnary, UnaryMethod> {
  const implementations = new Map<DescMethodUnary, UnaryMethod>();
  for (const { service, implementation } of services) {
    const { methods } = createServiceImplSpec(service, implementation as Partial<ServiceImpl<typeof service>>);
    for (const spec of Object.values(methods))
      if (spec.kind === 'unary') implementations.set(spec.method as DescMethodUnary, spec as UnaryMethod);
  }
  return implementations;
}

/**
 * Creates the context of a call with one AbortController. Connect's has three, linked by listeners
 * that a call without a deadline pays for too.
 *
 * `end` stops the timer, and aborts the work that a failed call left behind.
 */
function contextOf(
  request: TranscodedRequest,
  { method }: Binding,
  options: TranscoderOptions,
): { readonly context: UnaryContext; readonly end: (failed: boolean) => void } {
  const timeoutMs = timeoutOf(request.header, options.timeoutMs);
  const endsAt = performance.now() + timeoutMs;
  const controller: CallController = request.controller ?? new AbortController();
  const unlink = link(
    controller,
    request.controller === undefined ? request.signal : undefined,
    options.shutdownSignal,
  );
  const timer = setTimeout(
    () => controller.abort(new ConnectError('the operation timed out', Code.DeadlineExceeded)),
    timeoutMs,
  );
  const context = new UnaryContext({
    method,
    protocolName: 'http-json',
    requestMethod: request.method,
    url: request.url.startsWith('/') ? `http://localhost${request.url}` : request.url,
    controller,
    timeoutMs: () => Math.ceil(endsAt - performance.now()),
    requestHeader: request.header,
    values: request.contextValues ?? createContextValues(),
  });
  return {
    context,
    end(failed) {
      clearTimeout(timer);
      unlink?.();
      if (failed) controller.abort(ended);
    },
  };
}

/** Aborts the controller with each of these signals. Returns the function that unlinks them. */
function link(controller: CallController, ...signals: (AbortSignal | undefined)[]): (() => void) | undefined {
  if (signals.every((each) => each === undefined)) return undefined;
  const linked = signals.filter((each) => each !== undefined);
  const undo = linked.map((signal) => {
    const abort = () => controller.abort(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort);
    return () => signal.removeEventListener('abort', abort);
  });
  return () => {
    for (const each of undo) each();
  };
}

function refuseVerb(verb: string, allow: readonly string[]): UniversalServerResponse {
  const headers = { allow: allow.join(', ') };
  if (verb === 'OPTIONS') return { status: 204, header: new Headers(headers) };
  throw new TranscodeError(405, `${verb} is not allowed on this path; use ${headers.allow}`, [], headers);
}

function timeoutOf(header: Headers, longest: number): number {
  const text = header.get('connect-timeout-ms');
  if (text === null) return longest;
  if (!/^\d{1,10}$/.test(text)) {
    const description = `must be milliseconds in at most ten digits, not ${quoted(text)}`;
    throw new TranscodeError(400, `Connect-Timeout-Ms: ${description}`, [{ field: 'Connect-Timeout-Ms', description }]);
  }
  return Math.min(Number(text), longest);
}

/**
 * Converts a thrown value for the caller. The text of an error that was not meant for callers stays
 * in the cause.
 */
function toError(thrown: unknown): ConnectError {
  const error = ConnectError.from(thrown, Code.Internal);
  if (error === thrown || error.code !== Code.Internal) return error;
  return new ConnectError('internal error', Code.Internal, undefined, undefined, thrown);
}
