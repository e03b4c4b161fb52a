import { constants } from 'node:http2';
import type { DescMethod } from '@bufbuild/protobuf';
import type { ConnectError } from '@connectrpc/connect';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import { endStreamFlag, endStreamToJson, errorToJson } from '@connectrpc/connect/protocol-connect';
import { setTrailerStatus } from '@connectrpc/connect/protocol-grpc';
import { type Overload, overloaded } from '../service/overload.ts';
import { scopeOf } from './authenticate.ts';
import type { Request, Response } from './exchange.ts';
import { detailRegistry, toConnectError, toHttp } from './failures.ts';

/** Answers a request that is too much; false: it goes on. */
export type Shed = (request: Request, response: Response) => boolean;

/**
 * Refuses calls before anything of them is read or parsed, when more comes than is done in good time: what sends and reads messages, never what operates the service (health,
 * channels, rules). The answers are made once: a refusal has to be cheap, or refusing is the overload.
 */
export function createShed(overload: Overload, methodOf: (request: Request) => DescMethod | undefined): Shed {
  const answers = answersOf(toConnectError(overloaded()));
  return (request, response) => {
    if (!overload.arrives()) return false;
    const method = methodOf(request);
    const kind = method === undefined ? undefined : scopeOf(method);
    if ((kind !== 'send' && kind !== 'read') || !overload.refuses(kind)) return false;
    const type = request.headers['content-type'] ?? '';
    const { status, headers, body } = answers[protocolOf(type, request, method)];
    response.statusCode = status;
    for (const [name, value] of headers) response.setHeader(name, value);
    if (!headers.has('content-type')) response.setHeader('content-type', type);
    // Without a body nothing is written but headers that end the stream: gRPC's Trailers-Only.
    if (body === undefined) response.end();
    else response.end(body);
    dismiss(request, response, body !== undefined);
    return true;
  };
}

/**
 * What is still to come of the request is thrown away on HTTP/1.1. On HTTP/2 the caller is told to send no more of it (RST_STREAM with NO_ERROR): else one that has stopped
 * to send, having its answer, leaves the stream open for a minute. Node does so behind a body, if nobody has touched the request's; behind headers alone it does not.
 */
function dismiss(request: Request, response: Response, hasBody: boolean): void {
  request.on('error', () => {});
  if (!('stream' in response)) request.resume();
  else if (!hasBody) response.stream.close(constants.NGHTTP2_NO_ERROR);
}

type Protocol = 'grpc' | 'stream' | 'connect' | 'json';

function protocolOf(type: string, { url = '' }: Request, method: DescMethod | undefined): Protocol {
  if (type.startsWith('application/grpc')) return 'grpc';
  if (type.startsWith('application/connect+')) return 'stream';
  return url.startsWith(`/${method?.parent.typeName}/`) ? 'connect' : 'json';
}

interface Answer {
  readonly status: number;
  /** Without a content-type: it is the request's. */
  readonly headers: Headers;
  readonly body?: Uint8Array;
}

function answersOf(error: ConnectError): Record<Protocol, Answer> {
  const { status, body } = toHttp(error);
  const trailers = new Headers();
  setTrailerStatus(trailers, error);
  const json = new Headers(error.metadata);
  json.set('content-type', 'application/json');
  const bytes = (value: unknown) => Buffer.from(JSON.stringify(value));
  const end = endStreamToJson(error.metadata, error, { registry: detailRegistry });
  return {
    grpc: { status: 200, headers: trailers },
    stream: { status: 200, headers: new Headers(), body: encodeEnvelope(endStreamFlag, bytes(end)) },
    connect: { status, headers: json, body: bytes(errorToJson(error, { registry: detailRegistry })) },
    json: { status, headers: json, body: bytes(body) },
  };
}
