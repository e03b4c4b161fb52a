import { constants } from 'node:http2';
import type { DescMethod } from '@bufbuild/protobuf';
import type { ConnectError } from '@connectrpc/connect';
import { encodeEnvelope } from '@connectrpc/connect/protocol';
import { endStreamFlag, endStreamToJson, errorToJson } from '@connectrpc/connect/protocol-connect';
import { setTrailerStatus } from '@connectrpc/connect/protocol-grpc';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { type Load, type Overload, overloaded } from '../service/overload.ts';
import { scopeOf } from './authenticate.ts';
import type { Request, Response } from './exchange.ts';
import { detailRegistry, toConnectError, toHttp } from './failures.ts';

/** Answers a request that is too much; false: it goes on. */
export type Shed = (request: Request, response: Response) => boolean;

/**
 * Refuses calls before anything of them is parsed, when more comes than is done in good time: what sends and reads messages, never what operates the service (health,
 * channels, rules). The answers are made once: a refusal has to be cheap, or refusing is the overload.
 */
export function createShed(overload: Overload, methodOf: (request: Request) => DescMethod | undefined): Shed {
  const answers = answersOf(toConnectError(overloaded()));
  return (request, response) => {
    const method = methodOf(request);
    const kind = method === undefined ? undefined : loadOf(method);
    if (kind === undefined) return false;
    const ended = overload.admit(kind);
    if (ended !== undefined) {
      response.once('close', ended);
      return false;
    }
    const type = request.headers['content-type'] ?? '';
    const { status, headers, body } = answers[protocolOf(type, request, method)];
    response.statusCode = status;
    for (const [name, value] of headers) response.setHeader(name, value);
    if (!headers.has('content-type')) response.setHeader('content-type', type);
    afterBody(request, response, () => {
      // Without a body nothing is written but headers that end the stream: gRPC's Trailers-Only.
      if (body === undefined) response.end();
      else response.end(body);
    });
    return true;
  };
}

/** A body that takes longer is not waited for, and whoever has its answer and sends no more is let go after as long again. */
const bodyMs = 2000;

/**
 * Answers when the body has come, which is thrown away. A client of Node's counts what it could not send yet against its HTTP/2 connection, and takes no headers over 10 MB: an answer
 * in the middle of four refused batches of 3 MB would reach it as INTERNAL.
 */
function afterBody(request: Request, response: Response, answer: () => void): void {
  request.on('error', () => {});
  request.resume();
  if (!('stream' in response)) {
    answer();
    return;
  }
  const { stream } = response;
  let answered = false;
  const once = () => {
    if (!answered && !stream.destroyed) answer();
    answered = true;
  };
  let timer = setTimeout(() => {
    once();
    timer = setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), bodyMs).unref();
  }, bodyMs).unref();
  request.once('end', once);
  stream.once('close', () => clearTimeout(timer));
}

/** What a call is a load of; undefined: it operates the service, and is never refused. */
function loadOf(method: DescMethod): Load | undefined {
  if (method.parent === BatchService) return method === BatchService.method.cancelBatch ? undefined : 'other';
  const scope = scopeOf(method);
  return scope === 'send' ? 'send' : scope === 'read' ? 'other' : undefined;
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
