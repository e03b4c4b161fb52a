import type { DescField, DescMethod } from '@bufbuild/protobuf';
import { Code, type ConnectError, type Interceptor } from '@connectrpc/connect';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import {
  type GetMessageResponse,
  MessageService,
  type SendBatchResponse,
  type SendRequest,
} from '../../gen/sendbatch/v1/message_service_pb.ts';
import { callerKey } from '../auth/identity.ts';
import { malformed } from '../messages/service-error.ts';
import type { Answers } from '../openapi/parts.ts';
import type { Schema, Schemas } from '../openapi/schema.ts';
import { type RulesOf, type TranscodedCall, TranscodeError } from '../transcode/index.ts';
import { httpStatusOf, toConnectError, toHttp } from './error-mapping.ts';

/** Who sends when a caller of `Send` names nobody, as the servers that legacy callers were written for have it. */
const systemUid = '____system';

/** Gives a single send without a sender the system's uid, and a user's its own, before the rules are checked. */
export const legacySenderInterceptor: Interceptor = (next) => (request) => {
  if (!request.stream && request.method === MessageService.method.send) {
    const { message } = request.message as SendRequest;
    if (message?.fromUid === '') {
      const { kind, name } = request.contextValues.get(callerKey);
      message.fromUid = kind === 'user' ? name : systemUid;
    }
  }
  return next(request);
};

/** Options that a route takes in its query beside the object in its body, as the array form and NDJSON do. */
const queryFields = new Map<DescMethod, readonly string[]>([
  [MessageService.method.broadcast, ['mode', 'validate_only', 'request_id']],
  [BatchService.method.submitBatch, ['request_id', 'send_at', 'priority', 'name', 'message_count']],
]);

/**
 * How the routes read their requests. Bodies of the legacy routes are read as the legacy server reads them: names in any case, what it does not know passed over.
 * The new routes refuse what they do not know.
 */
export const rulesOf: RulesOf = ({ method, path }) => {
  const isLegacy = !path.startsWith('/v1/');
  return { strictFields: !isLegacy, anyCase: isLegacy, queryFields: queryFields.get(method) ?? [] };
};

/** Whether answers have a field without presence also when it has its default. The documented answer of a batch has three fields. */
export function alwaysWritten(field: DescField): boolean {
  return field.name !== 'duplicate';
}

/** What the JSON routes answer beyond the plain body: the status of a batch, and the shape that callers of `/message/send` read. */
export function legacyAnswer(call: TranscodedCall): { status?: number; body?: string } {
  if (call.method === MessageService.method.sendBatch)
    return { status: batchStatus(call.response as SendBatchResponse) };
  if (call.method === MessageService.method.send) {
    // TangSengDaoDao's library reads `data.message_id`, OpenChat and gowk read `message_id`.
    const json = call.json();
    return { body: `{"status":200,"data":${json},${json.slice(1)}` };
  }
  if (call.method === MessageService.method.getMessage && (call.response as GetMessageResponse).message === undefined)
    return { body: '{"status":404}' };
  // Nothing to say: the legacy API says so.
  if (call.method.output.fields.length === 0) return { body: '{"status":200}' };
  return {};
}

/** What `legacyAnswer` makes of a method's plain body, for the document about the routes. */
export function legacyAnswers(method: DescMethod, plain: Schema, schemas: Schemas): Answers {
  // When none was accepted it is the refusals' own status, and the results all the same.
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

/** 200 when all went in, 207 when some did, and when none did the refusals' own status, or 400 when they differ. */
function batchStatus(response: SendBatchResponse): number {
  if (response.refusedCount === 0) return 200;
  if (response.refusedCount < response.results.length) return 207;
  const statuses = new Set(response.results.map(({ error }) => httpStatusOf(error?.reason ?? 'INTERNAL')));
  const [only] = statuses;
  return statuses.size === 1 && only !== undefined ? only : 400;
}

/** Every error of a JSON route, in the one shape that legacy callers (`msg`, `status`) and new ones (`error`) read. */
export function legacyFailure(error: ConnectError): { status: number; headers: Headers; body: string } {
  const { mapped, status } = ofTranscoder(error);
  const http = toHttp(mapped, status);
  return { status: http.status, headers: mapped.metadata, body: JSON.stringify(http.body) };
}

/** A request that never became a call: the transcoder's violations are ours by another name. */
export function ofTranscoder(error: ConnectError): { mapped: ConnectError; status?: number } {
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
