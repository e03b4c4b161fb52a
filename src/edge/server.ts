import { Code, ConnectError } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import {
  callerSignal,
  contextValuesOf,
  type Handler,
  type Request,
  type Response,
  universalRequest,
  writeAnswer,
} from './exchange.ts';
import { toConnectError, toHttp } from './failures.ts';
import type { Guard } from './guard.ts';
import type { Routes } from './routes.ts';
import type { Shed } from './shed.ts';

/** Which door a request goes through: the guard first, then whoever refuses what is too much, then the RPC protocols, then the JSON routes, then 404 in the caller's protocol. */
export function createServer(
  guard: Guard,
  shed: Shed,
  { routes, options, unaryGrpc, eventStream, transcoder }: Routes,
): Handler {
  const rpc = connectNodeAdapter({
    ...options,
    routes,
    contextValues: contextValuesOf,
    fallback: (request, response) => void json(request, response),
  });

  async function json(request: Request, response: Response): Promise<void> {
    const { controller, release } = callerSignal(response);
    try {
      const answer = await transcoder.handle(universalRequest(request, controller.signal));
      if (answer === undefined) notFound(request, response);
      else await writeAnswer(answer, response);
    } catch (error) {
      // Nothing of a call's own failing comes here: this is the connection's end, or a defect of the edge.
      if (response.headersSent || response.writableEnded || request.destroyed) response.destroy();
      else end(response, toHttp(toConnectError(error)));
    } finally {
      release();
    }
  }

  return (request, response) => {
    const verdict = guard(request);
    if (verdict.kind === 'refuse') {
      const refusal = new ConnectError(verdict.message, Code.PermissionDenied);
      end(response, toHttp(refusal, verdict.status));
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
    if (!unaryGrpc(request, response) && !eventStream(request, response)) rpc(request, response);
  };
}

/** A gRPC client reads a trailer, not a body; an RPC path in JSON is a Connect client's; everybody else gets the JSON routes' shape. */
function notFound(request: Request, response: Response): void {
  const path = (request.url ?? '/').split('?', 1)[0];
  const type = request.headers['content-type'] ?? '';
  const message = `${request.method} ${path} is not here; the routes are in the README, the RPCs in sendbatch.v1.MessageService`;
  if (type.startsWith('application/grpc')) {
    // Trailers-Only: one frame of headers that ends the stream. (writeHead would send them before it knows of the end, and a data frame after
    // them is "Stream removed" to gRPC's C core.)
    response.setHeader('content-type', type);
    response.setHeader('grpc-status', String(Code.Unimplemented));
    response.setHeader('grpc-message', encodeURIComponent(message));
    response.end();
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
