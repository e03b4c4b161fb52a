// The request: from the port to the handler that answers it.
//
// A request passes, in this order: probes, the origin check and CORS (origin-check.ts), load
// shedding (load-shedding.ts), admission of the caller (admission.ts), the body budget
// (body-budget.ts), then the handlers (handlers.ts): plain unary gRPC, server streams, event
// streams, NDJSON, metrics, pages, the RPC protocols, JSON routes, and 404 in the caller's
// protocol. Entry point: `createDispatch`. Invariants:
//  1. One RequestContext per request, created here (rpc/request-context.ts).
//  2. No byte of a body is read before the caller is admitted.
//  3. A refusal before the call is answered in the caller's protocol (early-answer.ts).
//  4. What throws here is a defect: the port ends the request, and no other (port.ts).
import { Code, ConnectError, createConnectRouter } from '@connectrpc/connect';
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import { parseTimeout as connectTimeout } from '@connectrpc/connect/protocol-connect';
import { parseTimeout as grpcTimeout } from '@connectrpc/connect/protocol-grpc';
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from '@connectrpc/connect-node';
import { toConnectError, toHttp } from '../rpc/error-mapping.ts';
import {
  callerSignal,
  createValues,
  type Handler,
  isGone,
  longestTimerMs,
  type Request,
  type RequestContext,
  type Response,
  rejectedRequestOf,
  requestIdHeader,
  safeAnswerHeaders,
  type Taker,
  textOf,
} from '../rpc/request-context.ts';
import type { BodyBudget } from './body-budget.ts';
import { endCutWrites } from './cut-writes.ts';
import {
  answerEarly,
  discardBeforeError,
  type EarlyAnswers,
  earlyAnswers,
  endAnsweredStream,
  freeWhenAnsweredEarly,
} from './early-answer.ts';
import { encodeGrpcMessage } from './grpc-message.ts';
import type { Handlers } from './handlers.ts';
import type { LoadShedding } from './load-shedding.ts';
import { isNdjson } from './ndjson.ts';
import type { OriginCheck } from './origin-check.ts';
import { assertSmallGet, withRequestBody } from './request-body.ts';
import { deferHead, endTrailersOnly } from './trailers-only.ts';
import { endWhole, UniversalRequest, writeAnswer } from './universal-request.ts';

export interface DispatchParts {
  readonly handlers: Handlers;
  readonly originCheck: OriginCheck;
  readonly loadShedding: LoadShedding;
  readonly bodyBudget: BodyBudget;
}

/** Handles every request of the port. */
export function createDispatch({ handlers, originCheck, loadShedding, bodyBudget }: DispatchParts): Handler {
  const { admission, contextOf, probes, requestRejected } = handlers;
  const serve = createServe(handlers, bodyBudget);

  /** Refuses a request before it is a call. */
  function reject(
    context: RequestContext,
    response: Response,
    { reason, answers }: { readonly reason: 'malformed' | 'origin'; readonly answers: EarlyAnswers },
  ): void {
    requestRejected(reason, rejectedRequestOf(context));
    answerEarly(context, response, answers);
  }

  return (request, response) => {
    if (request.url?.startsWith('/') === false) toOriginForm(request);
    if (probes(request, response)) return;
    const context = contextOf(request);
    freeWhenAnsweredEarly(request, response);
    const fault = headerFault(request);
    if (fault !== undefined) {
      const answers = earlyAnswers(new ConnectError(fault.message, Code.InvalidArgument), fault.status);
      reject(context, response, { reason: 'malformed', answers: fault.status === 415 ? asJson(answers) : answers });
      return;
    }
    const verdict = originCheck(request);
    if (verdict.kind === 'refuse') {
      const error = new ConnectError(verdict.message, Code.PermissionDenied);
      reject(context, response, { reason: 'origin', answers: earlyAnswers(error, verdict.status) });
      return;
    }
    context.answerHeaders = { ...safeAnswerHeaders, ...verdict.headers };
    if (verdict.kind === 'preflight') {
      response.writeHead(verdict.status, { ...context.answerHeaders, [requestIdHeader]: context.requestId });
      response.end();
      return;
    }
    if (loadShedding(context, response)) return;
    boundDeadline(request.headers);
    const admitted = admission(context, response);
    if (admitted === undefined) return serve(context, response);
    return admitted.then((isAdmitted) => (isAdmitted && !isGone(response) ? serve(context, response) : undefined));
  };
}

/** Serves an admitted request by the first handler that takes it. */
function createServe(handlers: Handlers, bodyBudget: BodyBudget): Taker {
  const { unaryGrpc, serverStreams, sse, ndjson, metrics, docs, console, requestRejected, transcoder } = handlers;
  const router = createConnectRouter(handlers.routerOptions);
  handlers.register(router);
  const rpcHandlers = new Map(router.handlers.map((handler) => [handler.method, handler]));

  /** gRPC, gRPC-Web and Connect, by Connect's handlers. */
  async function rpc(context: RequestContext, response: Response, handler: UniversalHandler): Promise<void> {
    const { request } = context;
    endCutWrites(response);
    // Connect's adapter does not return after an answer, and Node's response finishes with the
    // stream.
    if ('stream' in response) response.stream.once('finish', () => endAnsweredStream(request, response));
    response.once('close', () => {
      if (!context.isCalled && !context.isEvicted) requestRejected('malformed', rejectedRequestOf(context));
    });
    try {
      if (request.method === 'GET') await assertSmallGet(request, handler.method);
    } catch (thrown) {
      const error = toConnectError(thrown);
      answerEarly(context, response, earlyAnswers(error, error.code === Code.ResourceExhausted ? 429 : undefined));
      return;
    }
    const universal = universalRequestFromNodeRequest(request, response, undefined, createValues(context));
    const answer = await handler(withRequestBody(universal, context, handler.method));
    if (!context.isCalled) response.setHeader(requestIdHeader, context.requestId);
    await discardBeforeError(request, response, answer.status);
    // Fails when the connection does; the call's signal has reported that.
    await universalResponseToNodeResponse(answer, response).catch(() => {});
  }

  /** Answers a request that no handler takes: its path does not exist, or can only be read. */
  function refusePath(context: RequestContext, response: Response): void {
    const isReadable = handlers.isReadable(context);
    if (isReadable) refuseVerb(context, response);
    else notFound(context, response);
    if (!isReadable || context.request.method !== 'OPTIONS')
      requestRejected(isReadable ? 'malformed' : 'not_found', rejectedRequestOf(context));
  }

  async function json(context: RequestContext, response: Response): Promise<void> {
    const { request } = context;
    const { controller, release } = callerSignal(response);
    context.cancellation = controller;
    // HTTP/1.1 emits a request before the body that arrived with it; microtasks run after both.
    await undefined;
    const universal = new UniversalRequest(context, controller);
    try {
      const answer = await transcoder.handle(universal);
      if (!context.isCalled) answer?.header?.set(requestIdHeader, context.requestId);
      await discardBeforeError(request, response, answer?.status ?? 404);
      if (answer === undefined) {
        refusePath(context, response);
        return;
      }
      await writeAnswer(answer, response, context.answerHeaders);
      if (answer.status >= 400 && !context.isCalled && !context.isEvicted)
        requestRejected('malformed', rejectedRequestOf(context));
    } catch (error) {
      // Not a call's error, which is an answer: the connection has failed, or the server has a
      // defect.
      if (response.headersSent || response.writableEnded || request.destroyed) response.destroy();
      else end(context, response, toHttp(toConnectError(error)));
    } finally {
      release();
      endWhole(context, universal);
    }
  }

  return (context, response) => {
    const { request, method, protocol } = context;
    // Asks for the body of `Expect: 100-continue` now that the headers were not refused.
    if (request.headers.expect !== undefined) response.writeContinue();
    bodyBudget(context, response);
    const plain = unaryGrpc.serve(context, response);
    if (plain !== undefined) return plain;
    if (protocol === 'json' && method !== undefined && !isNdjson(request)) return json(context, response);
    // Not for the two above: with headers set singly, Node takes a slower path to write the head.
    for (const [name, value] of Object.entries(context.answerHeaders)) response.setHeader(name, value);
    const stream = serverStreams(context, response) ?? sse(context, response) ?? ndjson(context, response);
    if (stream !== undefined) return stream;
    if (method === undefined) {
      response.setHeader(requestIdHeader, context.requestId);
      const measured = metrics(context, response);
      if (measured !== undefined) return measured;
      if (docs(request, response) || console?.(request, response) === true) return undefined;
    }
    const isRpc = protocol !== 'json' && protocol !== 'sse' && method !== undefined;
    const handler = isRpc ? rpcHandlers.get(method) : undefined;
    if (isGrpc(request)) deferHead(response);
    return handler === undefined ? json(context, response) : rpc(context, response, handler);
  };
}

const absoluteForm = /^https?:\/\/([^/?#]*)([^#]*)/i;

/**
 * Reads a URL in the form that is meant for proxies, `http://host/path`; its host replaces the
 * header (RFC 9112, section 3.2.2).
 */
function toOriginForm(request: Request): void {
  const [form, authority = '', path = ''] = absoluteForm.exec(request.url ?? '') ?? [];
  if (form === undefined || request.httpVersionMajor !== 1) return;
  request.url = path.startsWith('/') ? path : `/${path}`;
  request.headers.host = authority;
}

/** Also on paths without an RPC, whose 404 is an answer in the request's protocol. */
function isGrpc({ headers }: Request): boolean {
  const type = headers['content-type'] ?? '';
  return type.startsWith('application/grpc') && !type.startsWith('application/grpc-web');
}

/**
 * What makes a request unreadable on every protocol: two Hosts, of which a proxy may have checked
 * the other one; gRPC-Web's base64 form. Also rewrites `x-gzip` to `gzip`.
 */
function headerFault({ headers, rawHeaders }: Request): { status: number; message: string } | undefined {
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && /^\s*(?:x-)?gzip\s*$/i.test(encoding)) headers['content-encoding'] = 'gzip';
  const authority = headers[':authority'];
  if (hasTwoHosts(rawHeaders)) return { status: 400, message: 'the header Host must be sent only once' };
  if (authority !== undefined && headers.host !== undefined && headers.host !== authority)
    return { status: 400, message: 'the headers Host and :authority must be the same' };
  if (headers['content-type']?.startsWith('application/grpc-web-text'))
    return {
      status: 415,
      message:
        'application/grpc-web-text is not supported; send application/grpc-web+proto (for protoc-gen-grpc-web: mode=grpcweb)',
    };
  return undefined;
}

function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index];
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts++;
  }
  return hosts > 1;
}

/** The refusal as plain HTTP, whatever the request's protocol. */
function asJson({ json }: EarlyAnswers): EarlyAnswers {
  return { grpc: json, stream: json, connect: json, events: json, json };
}

/**
 * Shortens deadlines above 24.8 days: a longer Node timer fires immediately and would end the call.
 */
function boundDeadline(headers: Request['headers']): void {
  if (headers['grpc-timeout'] === undefined && headers['connect-timeout-ms'] === undefined) return;
  const grpc = grpcTimeout(textOf(headers['grpc-timeout']), longestTimerMs);
  if ((grpc.timeoutMs ?? 0) > longestTimerMs) headers['grpc-timeout'] = `${Math.floor(longestTimerMs / 1000)}S`;
  const connect = connectTimeout(textOf(headers['connect-timeout-ms']), longestTimerMs);
  if ((connect.timeoutMs ?? 0) > longestTimerMs) headers['connect-timeout-ms'] = String(longestTimerMs);
}

/** Answers a request that would change a page, a probe or an event stream, which are read only. */
function refuseVerb(context: RequestContext, response: Response): void {
  const { method } = context.request;
  const allow = 'GET, HEAD, OPTIONS';
  if (method === 'OPTIONS') {
    response.writeHead(204, { ...context.answerHeaders, [requestIdHeader]: context.requestId, allow });
    response.end();
    return;
  }
  const error = new ConnectError(`${method} is not allowed on this path; use ${allow}`, Code.Unimplemented);
  end(context, response, { ...toHttp(error, 405), headers: { allow } });
}

/**
 * Answers 404 in the caller's protocol: as a gRPC status, as Connect's JSON on an RPC path, else in
 * the shape of the JSON routes.
 */
function notFound(context: RequestContext, response: Response): void {
  const { request } = context;
  const path = (request.url ?? '/').split('?', 1)[0];
  const type = request.headers['content-type'] ?? '';
  const message = `${request.method} ${path} does not exist; /docs lists the routes, reflection the RPCs`;
  if (type.startsWith('application/grpc')) {
    endTrailersOnly(response, {
      ...context.answerHeaders,
      [requestIdHeader]: context.requestId,
      'content-type': type,
      'grpc-status': String(Code.Unimplemented),
      'grpc-message': encodeGrpcMessage(message),
    });
    return;
  }
  const isRpcPath = /^\/[\w.]+\.\w+\/\w+$/.test(path ?? '');
  if (isRpcPath || type.startsWith('application/proto') || type.startsWith('application/connect+')) {
    end(context, response, { status: 404, body: { code: 'unimplemented', message } });
    return;
  }
  end(context, response, toHttp(new ConnectError(message, Code.NotFound)));
}

function end(
  { answerHeaders, requestId }: RequestContext,
  response: Response,
  { status, body, headers }: { status: number; body: object; headers?: Readonly<Record<string, string>> },
): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    ...answerHeaders,
    ...headers,
    [requestIdHeader]: requestId,
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}
