import type { DescField, DescMethod } from '@bufbuild/protobuf';
import { Code, type ConnectError, type Interceptor } from '@connectrpc/connect';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import {
  type GetMessageResponse,
  MessageService,
  type SendBatchResponse,
  type SendRequest,
} from '../../gen/sendbatch/v1/message_service_pb.ts';
import { malformed } from '../messages/service-error.ts';
import type { Answers } from '../openapi/parts.ts';
import type { Schema, Schemas } from '../openapi/schema.ts';
import { type RulesOf, type TranscodedCall, TranscodeError } from '../transcode/index.ts';
import { httpStatusOf, toConnectError, toHttp } from './error-mapping.ts';
import { PageResponse } from './page-response.ts';
import { StoredResponse } from './plain-batch/index.ts';
import { requestContextOf } from './request-context.ts';

/** Sender of a `Send` without from_uid, as legacy servers have it. */
const systemUid = '____system';

/**
 * Fills in a missing sender of a single send before validation: the user itself, else the system's
 * uid.
 */
export const legacySenderInterceptor: Interceptor = (next) => (request) => {
  if (!request.stream && request.method === MessageService.method.send) {
    const { message } = request.message as SendRequest;
    if (message?.fromUid === '') {
      const { kind, name } = requestContextOf(request.contextValues).caller;
      message.fromUid = kind === 'user' ? name : systemUid;
    }
  }
  return next(request);
};

/** Options that a route also takes as query parameters when its body is an array or NDJSON. */
const queryFields = new Map<DescMethod, readonly string[]>([
  [MessageService.method.broadcast, ['mode', 'validate_only', 'request_id']],
  [BatchService.method.submitBatch, ['request_id', 'send_at', 'priority', 'name', 'message_count']],
]);

/**
 * How each route reads its requests. Legacy routes take names in any case and ignore unknown
 * fields, as the legacy server does; the `/v1/` routes refuse unknown fields.
 */
export const rulesOf: RulesOf = ({ method, path }) => {
  const isLegacy = !path.startsWith('/v1/');
  return { strictFields: !isLegacy, anyCase: isLegacy, queryFields: queryFields.get(method) ?? [] };
};

/**
 * Whether answers include a field without presence that has its default. Only `duplicate` is left
 * out: the documented result of a batch has three fields.
 */
export function alwaysWritten(field: DescField): boolean {
  return field.name !== 'duplicate';
}

/** Adapts the JSON answer: a batch's status, and the body shapes of legacy callers. */
export function legacyAnswer(call: TranscodedCall): { status?: number; body?: string } {
  if (call.method === MessageService.method.sendBatch) {
    const { response } = call;
    if (response instanceof StoredResponse) return { status: 200, body: response.toJson() };
    return { status: batchStatus(response as SendBatchResponse) };
  }
  if (call.response instanceof PageResponse) {
    const body = call.response.toJson();
    return body === undefined ? {} : { body };
  }
  if (call.method === MessageService.method.send) {
    // TangSengDaoDao's library reads `data.message_id`; OpenChat and gowk read `message_id`.
    const json = call.json();
    return { body: `{"status":200,"data":${json},${json.slice(1)}` };
  }
  if (call.method === MessageService.method.getMessage && (call.response as GetMessageResponse).message === undefined)
    return { body: '{"status":404}' };
  // An empty answer is `{"status":200}` in the legacy API.
  if (call.method.output.fields.length === 0) return { body: '{"status":200}' };
  return {};
}

/** Describes in the OpenAPI document what `legacyAnswer` returns. */
export function legacyAnswers(method: DescMethod, plain: Schema, schemas: Schemas): Answers {
  // A batch of which nothing was accepted has the refusals' own status, and results too.
  if (method === MessageService.method.sendBatch) return { good: { 200: plain, 207: plain }, refused: plain };
  const status = { const: 200 };
  if (method === MessageService.method.send) {
    const fields = Object.fromEntries(
      method.output.fields.map((field) => [field.name, schemas.field(field, 'output')]),
    );
    const required = ['status', 'data', 'message_id', 'message_seq', 'client_msg_no'];
    return { good: { 200: { type: 'object', properties: { status, data: plain, ...fields }, required } } };
  }
  if (method === MessageService.method.getMessage) {
    const missing = { type: 'object', properties: { status: { const: 404 } }, required: ['status'] };
    return { good: { 200: { anyOf: [plain, missing] } } };
  }
  if (method.output.fields.length === 0)
    return { good: { 200: { type: 'object', properties: { status }, required: ['status'] } } };
  return { good: { 200: plain } };
}

/**
 * The status of a batch: 200 if no message was refused, 207 if some were. If all were, the reason's
 * own status, or 400 when the statuses differ.
 */
function batchStatus(response: SendBatchResponse): number {
  if (response.refusedCount === 0) return 200;
  if (response.refusedCount < response.results.length) return 207;
  const statuses = new Set(response.results.map(({ error }) => httpStatusOf(error?.reason ?? 'INTERNAL')));
  const [only] = statuses;
  return statuses.size === 1 && only !== undefined ? only : 400;
}

/**
 * Renders an error for the JSON routes, for legacy callers (`msg`, `status`) and new ones
 * (`error`).
 */
export function legacyFailure(error: ConnectError): { status: number; headers: Headers; body: string } {
  const { mapped, status } = mapTranscodeError(error);
  const http = toHttp(mapped, status);
  return { status: http.status, headers: mapped.metadata, body: JSON.stringify(http.body) };
}

/** Maps the transcoder's own errors (unreadable requests) to INVALID_FIELD or BATCH_TOO_LARGE. */
export function mapTranscodeError(error: ConnectError): { mapped: ConnectError; status?: number } {
  if (!(error instanceof TranscodeError)) return { mapped: error };
  if (error.code !== Code.InvalidArgument) return { mapped: error, status: error.httpStatus };
  const reason = error.httpStatus === 413 ? 'BATCH_TOO_LARGE' : 'INVALID_FIELD';
  const violations = error.faults.length > 0 ? error.faults : [{ field: 'body', description: error.rawMessage }];
  const [first] = violations;
  const metadata: Record<string, string> =
    error.size === undefined || first === undefined
      ? {}
      : { field: first.field, limit: String(error.size.limit), actual: String(error.size.actual) };
  return {
    mapped: toConnectError(
      malformed(
        violations.map((each) => ({ ...each, reason })),
        metadata,
      ),
    ),
    status: error.httpStatus,
  };
}
