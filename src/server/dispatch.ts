import { Code, ConnectError, createConnectRouter } from '@connectrpc/connect';
import { parseTimeout as connectTimeout } from '@connectrpc/connect/protocol-connect';
import { parseTimeout as grpcTimeout } from '@connectrpc/connect/protocol-grpc';
import { universalRequestFromNodeRequest, universalResponseToNodeResponse } from '@connectrpc/connect-node';
import type { Protocol } from '../observability/events/index.ts';
import { toConnectError, toHttp } from '../rpc/error-mapping.ts';
import {
  callerSignal,
  contextValuesOf,
  entryKey,
  type Handler,
  isGone,
  longestTimerMs,
  type Request,
  type Response,
  rejectedRequestOf,
  textOf,
  universalRequest,
  writeAnswer,
} from '../rpc/request-context.ts';
import { type BodyBudget, wasEvicted } from './body-budget.ts';
import { endCutWrites } from './cut-writes.ts';
import { answerEarly, type EarlyAnswers, earlyAnswers, freeWhenAnsweredEarly } from './early-answer.ts';
import { encodeGrpcMessage } from './grpc-message.ts';
import type { LoadShedding } from './load-shedding.ts';
import type { OriginCheck } from './origin-check.ts';
import { assertSmallGet, withRequestBody } from './request-body.ts';
import type { Routes } from './routes.ts';
import { deferHead, endTrailersOnly } from './trailers-only.ts';

/** Which door a request goes through: probes, then the guard, then whoever refuses what is too much, then the RPC protocols, the pages, the JSON routes, and 404 in the caller's protocol. */
export function createServer(guard: OriginCheck, shed: LoadShedding, intake: BodyBudget, handlers: Routes): Handler {
  const { routes, options, unaryGrpc, probes, docs, eventStream, ndjson, metrics, transcoder, requestRejected } =
    handlers;
  const { admission } = handlers;
  const router = createConnectRouter(options);
  routes(router);
  const handlerByPath = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));

  /** gRPC, gRPC-Web and Connect, by Connect's handlers; anything else is a JSON route's. */
  async function rpc(request: Request, response: Response): Promise<void> {
    const handler = handlerByPath.get((request.url ?? '').split('?', 1)[0] ?? '');
    if (handler === undefined) return await json(request, response);
    endCutWrites(response);
    const values = contextValuesOf(request, protocolOf(request.headers['content-type']));
    response.once('close', () => {
      if (!values.get(entryKey).called && !wasEvicted(request))
        requestRejected('malformed', rejectedRequestOf(request));
    });
    try {
      if (request.method === 'GET') await assertSmallGet(request, handler.method);
    } catch (thrown) {
      const error = toConnectError(thrown);
      const answers = earlyAnswers(error, error.code === Code.ResourceExhausted ? 429 : undefined);
      answerEarly(request, response, handler.method, answers);
      return;
    }
    const universal = universalRequestFromNodeRequest(request, response, undefined, values);
    const answer = await handler(withRequestBody(universal, request, handler.method));
    // It fails when the connection does: the call has heard of that by its signal.
    await universalResponseToNodeResponse(answer, response).catch(() => {});
  }

  async function json(request: Request, response: Response): Promise<void> {
    const { controller, release } = callerSignal(response);
    const values = contextValuesOf(request, 'json');
    const universal = universalRequest(request, controller, values);
    try {
      const answer = await transcoder.handle(universal);
      if (answer === undefined) notFound(request, response);
      else await writeAnswer(answer, response);
      if (answer === undefined) requestRejected('not_found', rejectedRequestOf(request));
      else if (answer.status >= 400 && !values.get(entryKey).called && !wasEvicted(request))
        requestRejected('malformed', rejectedRequestOf(request));
    } catch (error) {
      // Nothing of a call's own failing comes here: this is the connection's end, or a defect of the edge.
      if (response.headersSent || response.writableEnded || request.destroyed) response.destroy();
      else end(response, toHttp(toConnectError(error)));
    } finally {
      release();
      universal.body.release();
    }
  }

  return (request, response) => {
    if (probes(request, response)) return;
    freeWhenAnsweredEarly(request, response);
    // Other sites may not embed what it answers, whatever it is; CORS is not concerned.
    response.setHeader('cross-origin-resource-policy', 'same-origin');
    const fault = headerFault(request);
    if (fault !== undefined) {
      requestRejected('malformed', rejectedRequestOf(request));
      response.setHeader('x-content-type-options', 'nosniff');
      const refusal = earlyAnswers(new ConnectError(fault.message, Code.InvalidArgument), fault.status);
      answerEarly(request, response, handlers.methodOf(request), fault.status === 415 ? asJson(refusal) : refusal);
      return;
    }
    const verdict = guard(request);
    if (verdict.kind === 'refuse') {
      requestRejected('origin', rejectedRequestOf(request));
      response.setHeader('x-content-type-options', 'nosniff');
      const refusal = new ConnectError(verdict.message, Code.PermissionDenied);
      answerEarly(request, response, handlers.methodOf(request), earlyAnswers(refusal, verdict.status));
      return;
    }
    for (const [name, value] of Object.entries(verdict.headers)) response.setHeader(name, value);
    response.setHeader('x-content-type-options', 'nosniff');
    if (verdict.kind === 'preflight') {
      response.writeHead(verdict.status);
      response.end();
      return;
    }
    if (shed(request, response)) return;
    boundDeadline(request.headers);
    const admitted = admission(request, response);
    if (admitted === undefined) serve(request, response);
    else
      void admitted.then((isIn) => {
        if (isIn && !isGone(response)) serve(request, response);
      });
  };

  function serve(request: Request, response: Response): void {
    // Who asks before it sends its body is asked for it here, when it was not refused by its headers.
    if (request.headers.expect !== undefined) response.writeContinue();
    intake(request, response);
    if (
      unaryGrpc(request, response) ||
      eventStream(request, response) ||
      ndjson(request, response) ||
      metrics(request, response) ||
      docs(request, response)
    )
      return;
    if (protocolOf(request.headers['content-type']) === 'grpc') deferHead(response);
    rpc(request, response);
  }
}

/**
 * What makes a request unreadable for every protocol: two Hosts, of which a proxy may have checked the other one; the base64 form of gRPC-Web. Encodings get the name by which the
 * rest knows them.
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

/** The same refusal as HTTP says it, whatever the request's protocol. */
function asJson({ json }: EarlyAnswers): EarlyAnswers {
  return { grpc: json, stream: json, connect: json, events: json, json };
}

/** A timer of Node's that is longer than 24.8 days ends at once, and with it the call: a longer deadline becomes that. */
function boundDeadline(headers: Request['headers']): void {
  const grpc = grpcTimeout(textOf(headers['grpc-timeout']), longestTimerMs);
  if ((grpc.timeoutMs ?? 0) > longestTimerMs) headers['grpc-timeout'] = `${Math.floor(longestTimerMs / 1000)}S`;
  const connect = connectTimeout(textOf(headers['connect-timeout-ms']), longestTimerMs);
  if ((connect.timeoutMs ?? 0) > longestTimerMs) headers['connect-timeout-ms'] = String(longestTimerMs);
}

/** By the content type, as Connect tells them apart. */
function protocolOf(type: string | undefined): Protocol {
  if (type === undefined || !type.startsWith('application/grpc')) return 'connect';
  return type.startsWith('application/grpc-web') ? 'grpc-web' : 'grpc';
}

/** A gRPC client reads a trailer, not a body; an RPC path in JSON is a Connect client's; everybody else gets the JSON routes' shape. */
function notFound(request: Request, response: Response): void {
  const path = (request.url ?? '/').split('?', 1)[0];
  const type = request.headers['content-type'] ?? '';
  const message = `${request.method} ${path} does not exist; /docs lists the routes, reflection the RPCs`;
  if (type.startsWith('application/grpc')) {
    endTrailersOnly(response, {
      'content-type': type,
      'grpc-status': String(Code.Unimplemented),
      'grpc-message': encodeGrpcMessage(message),
    });
    return;
  }
  const isRpcPath = /^\/[\w.]+\.\w+\/\w+$/.test(path ?? '');
  if (isRpcPath || type.startsWith('application/proto') || type.startsWith('application/connect+')) {
    end(response, { status: 404, body: { code: 'unimplemented', message } });
    return;
  }
  end(response, toHttp(new ConnectError(message, Code.NotFound)));
}

function end(response: Response, { status, body }: { status: number; body: object }): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'x-content-type-options': 'nosniff',
  });
  response.end(text);
}
