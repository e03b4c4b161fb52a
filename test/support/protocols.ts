import {
  create,
  createRegistry,
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
  toBinary,
  toJson,
} from '@bufbuild/protobuf';
import { anyUnpack } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import * as grpc from '@grpc/grpc-js';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { type Status, StatusSchema } from '../../gen/google/rpc/status_pb.ts';
import type { Refusal } from '../../gen/sendbatch/v1/message_pb.ts';
import {
  MessageService,
  SendBatchRequestSchema,
  SendBatchResponseSchema,
  SendMode,
} from '../../gen/sendbatch/v1/message_service_pb.ts';

type Request = MessageInitShape<typeof SendBatchRequestSchema>;

/** A refusal in the form that every protocol must give. */
export interface Refused {
  readonly code: string;
  readonly reason: string | undefined;
  readonly metadata: Record<string, string>;
  readonly message: string;
  readonly fields: string[];
  readonly retryMs: number | undefined;
}

/** The result of one message, in the same form for every protocol. */
export interface Result {
  readonly messageId: number;
  readonly messageSeq: number;
  readonly clientMsgNo: string;
  readonly duplicate: boolean;
  readonly refused: Refused | undefined;
}

/** The outcome of a batch. */
export type Answer = { readonly results: Result[] } | { readonly refused: Refused };

/**
 * Summarizes an answer: per message `ok`, `again` for a duplicate, or the reason; or the reason of
 * the whole call.
 */
export function said(answer: Answer): string {
  return 'refused' in answer
    ? `call: ${answer.refused.reason}`
    : answer.results.map((result) => result.refused?.reason ?? (result.duplicate ? 'again' : 'ok')).join(' ');
}

/** A client of the service: one protocol with one client library. */
export interface ProtocolClient {
  readonly name: string;
  send(request: Request, options?: { headers?: Record<string, string>; timeoutMs?: number }): Promise<Answer>;
  close(): void;
}

/** The types in google.protobuf.Any of a call's error; results need none. */
const registry = createRegistry(ErrorInfoSchema, BadRequestSchema, RetryInfoSchema);

/** Opens a client per protocol to a running service. */
export function openClients(url: string): ProtocolClient[] {
  return [
    openConnectClient('gRPC, connect-node', createGrpcTransport({ baseUrl: url })),
    openGrpcJsClient(url),
    openConnectClient('gRPC-Web', createGrpcWebTransport({ baseUrl: url, httpVersion: '1.1' })),
    openConnectClient(
      'Connect, binary',
      createConnectTransport({ baseUrl: url, httpVersion: '1.1', useBinaryFormat: true }),
    ),
    openConnectClient(
      'Connect, JSON',
      createConnectTransport({ baseUrl: url, httpVersion: '2', useBinaryFormat: false }),
    ),
    openJsonClient(url),
  ];
}

function openConnectClient(name: string, transport: Transport): ProtocolClient {
  const client = createClient(MessageService, transport);
  return {
    name,
    async send(request, { headers = {}, timeoutMs } = {}) {
      try {
        const response = await client.sendBatch(request, {
          headers,
          ...(timeoutMs === undefined ? {} : { timeoutMs }),
        });
        return { results: response.results.map(toResult) };
      } catch (error) {
        const failure = ConnectError.from(error);
        const [info] = failure.findDetails(ErrorInfoSchema);
        const [bad] = failure.findDetails(BadRequestSchema);
        const [retry] = failure.findDetails(RetryInfoSchema);
        return { refused: toRefused(Code[failure.code], failure.rawMessage, info, bad, retry) };
      }
    },
    close() {},
  };
}

function toResult(result: MessageShape<typeof SendBatchResponseSchema>['results'][number]): Result {
  return {
    messageId: Number(result.messageId),
    messageSeq: Number(result.messageSeq),
    clientMsgNo: result.clientMsgNo,
    duplicate: result.duplicate === true,
    refused: result.error === undefined ? undefined : ofRefusal(result.error),
  };
}

function ofRefusal({ code, message, reason, metadata, retryAfter }: Refusal): Refused {
  return {
    code: Code[code] ?? String(code),
    message,
    reason,
    metadata,
    fields: [],
    retryMs: retryAfter === undefined ? undefined : Number(retryAfter.seconds) * 1000,
  };
}

function ofStatus(status: Status): Refused {
  const find = <D extends DescMessage>(schema: D): MessageShape<D> | undefined =>
    status.details.map((any) => anyUnpack(any, schema)).find((each) => each !== undefined);
  return toRefused(
    Code[status.code] ?? String(status.code),
    status.message,
    find(ErrorInfoSchema),
    find(BadRequestSchema),
    find(RetryInfoSchema),
  );
}

function toRefused(
  code: string,
  message: string,
  info: MessageShape<typeof ErrorInfoSchema> | undefined,
  bad: MessageShape<typeof BadRequestSchema> | undefined,
  retry: MessageShape<typeof RetryInfoSchema> | undefined,
): Refused {
  return {
    code,
    message,
    reason: info?.reason,
    metadata: info?.metadata ?? {},
    fields: bad?.fieldViolations.map((each) => each.field) ?? [],
    retryMs: retry?.retryDelay === undefined ? undefined : Number(retry.retryDelay.seconds) * 1000,
  };
}

/**
 * grpc-js: an independent client, which reads google.rpc.Status from the trailer like any gRPC
 * library.
 */
function openGrpcJsClient(url: string): ProtocolClient {
  const client = new grpc.Client(new URL(url).host, grpc.credentials.createInsecure());
  return {
    name: 'gRPC, grpc-js',
    send: (request, { headers = {}, timeoutMs } = {}) =>
      new Promise((resolve) => {
        const metadata = new grpc.Metadata();
        for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
        client.makeUnaryRequest(
          '/sendbatch.v1.MessageService/SendBatch',
          (message: Request) => Buffer.from(toBinary(SendBatchRequestSchema, create(SendBatchRequestSchema, message))),
          (bytes: Buffer) => fromBinary(SendBatchResponseSchema, bytes),
          request,
          metadata,
          timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs },
          (error, response) => {
            if (error === null && response !== undefined) return resolve({ results: response.results.map(toResult) });
            const [trailer] = error?.metadata.get('grpc-status-details-bin') ?? [];
            const status = Buffer.isBuffer(trailer)
              ? fromBinary(StatusSchema, trailer)
              : create(StatusSchema, { code: error?.code ?? 2, message: error?.details ?? '' });
            resolve({ refused: ofStatus(status) });
          },
        );
      }),
    close: () => client.close(),
  };
}

/**
 * The documented route: an array in, an array out. Batch options go into the query, which has no
 * field for conditions.
 */
function openJsonClient(url: string): ProtocolClient {
  return {
    name: 'JSON route',
    async send(request, { headers = {}, timeoutMs } = {}) {
      const message = create(SendBatchRequestSchema, request);
      const json = toJson(SendBatchRequestSchema, message, { useProtoFieldName: true }) as { messages?: JsonValue };
      const query = new URLSearchParams();
      if (message.mode !== SendMode.UNSPECIFIED)
        query.set('mode', message.mode === SendMode.ATOMIC ? 'atomic' : 'best_effort');
      if (message.validateOnly) query.set('validate_only', 'true');
      if (message.requestId !== '') query.set('request_id', message.requestId);
      const response = await fetch(`${url}/message/sendbatch?${query}`, {
        method: 'POST',
        body: JSON.stringify(json.messages ?? []),
        headers: { ...headers, ...(timeoutMs === undefined ? {} : { 'connect-timeout-ms': String(timeoutMs) }) },
      });
      const body = (await response.json()) as JsonValue;
      if (Array.isArray(body)) {
        const answer = fromJson(SendBatchResponseSchema, { results: body });
        return { results: answer.results.map(toResult) };
      }
      const { error } = body as { error: { code: number; message: string; details: JsonValue } };
      return {
        refused: ofStatus(
          fromJson(StatusSchema, { code: error.code, message: error.message, details: error.details }, { registry }),
        ),
      };
    },
    close() {},
  };
}
