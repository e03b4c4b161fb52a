// Maps errors to what callers see: reasons to codes, HTTP statuses and details, on every protocol.
//
// `table` is the only mapping from reasons to codes and statuses. Every 403 of a call is one of its
// rows (SCOPE_MISSING is thrown in interceptors/authenticate.ts and server/metrics-endpoint.ts, the
// others by the capability); the 403 of a web page's request comes from server/origin-check.ts,
// before a call exists.
// Entry points: `toConnectError` (any thrown value), `refusalOf` (one message's refusal), `toHttp`
// (JSON routes). An unexpected error becomes INTERNAL, which discloses nothing of its cause.
import { create, createRegistry, type JsonObject, type MessageInitShape, toJson } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import type { RefusalSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { limits } from '../limits.ts';
import { type Reason, type Refusal, ServiceError, type Violation } from '../messages/service-error.ts';
import { httpStatuses } from '../transcode/index.ts';

/** The code and the HTTP status of every reason. */
const table: Record<Reason, { code: Code; http: number }> = {
  INVALID_FIELD: { code: Code.InvalidArgument, http: 400 },
  EMPTY_BATCH: { code: Code.InvalidArgument, http: 400 },
  BATCH_TOO_LARGE: { code: Code.InvalidArgument, http: 413 },
  PAYLOAD_TOO_LARGE: { code: Code.InvalidArgument, http: 413 },
  CREDENTIAL_MISSING: { code: Code.Unauthenticated, http: 401 },
  CREDENTIAL_INVALID: { code: Code.Unauthenticated, http: 401 },
  SCOPE_MISSING: { code: Code.PermissionDenied, http: 403 },
  SENDER_NOT_YOURS: { code: Code.PermissionDenied, http: 403 },
  NOT_SUBSCRIBER: { code: Code.PermissionDenied, http: 403 },
  IN_DENYLIST: { code: Code.PermissionDenied, http: 403 },
  CHANNEL_NOT_EXIST: { code: Code.NotFound, http: 404 },
  NOT_ALLOWED: { code: Code.PermissionDenied, http: 403 },
  NOT_IN_ALLOWLIST: { code: Code.PermissionDenied, http: 403 },
  CHANNEL_BANNED: { code: Code.PermissionDenied, http: 403 },
  CHANNEL_DISBANDED: { code: Code.PermissionDenied, http: 403 },
  SENDER_BANNED: { code: Code.PermissionDenied, http: 403 },
  CONTENT_REFUSED: { code: Code.PermissionDenied, http: 403 },
  MESSAGE_NOT_FOUND: { code: Code.NotFound, http: 404 },
  MESSAGE_RECALLED: { code: Code.FailedPrecondition, http: 400 },
  RECALL_WINDOW_OVER: { code: Code.FailedPrecondition, http: 400 },
  REVISION_MISMATCH: { code: Code.Aborted, http: 409 },
  RULE_NOT_FOUND: { code: Code.NotFound, http: 404 },
  SEQ_EXPIRED: { code: Code.OutOfRange, http: 400 },
  SEQ_AHEAD: { code: Code.OutOfRange, http: 400 },
  TOO_MANY_CHANNELS: { code: Code.FailedPrecondition, http: 400 },
  READER_TOO_SLOW: { code: Code.ResourceExhausted, http: 429 },
  STOPPING: { code: Code.Unavailable, http: 503 },
  NOT_THE_SENDER: { code: Code.PermissionDenied, http: 403 },
  READER_NOT_YOURS: { code: Code.PermissionDenied, http: 403 },
  TEMPLATE_NOT_FOUND: { code: Code.NotFound, http: 404 },
  TEMPLATE_FAILED: { code: Code.InvalidArgument, http: 400 },
  BATCH_NOT_FOUND: { code: Code.NotFound, http: 404 },
  REQUEST_ID_REUSED: { code: Code.AlreadyExists, http: 409 },
  REACH_IN_PROGRESS: { code: Code.ResourceExhausted, http: 429 },
  BATCH_NOT_RETRYABLE: { code: Code.FailedPrecondition, http: 400 },
  TOO_MANY_BATCHES: { code: Code.ResourceExhausted, http: 429 },
  WEBHOOK_NOT_FOUND: { code: Code.NotFound, http: 404 },
  WEBHOOK_EXISTS: { code: Code.AlreadyExists, http: 409 },
  KEY_NOT_FOUND: { code: Code.NotFound, http: 404 },
  RATE_LIMITED: { code: Code.ResourceExhausted, http: 429 },
  CLIENT_MSG_NO_REUSED: { code: Code.AlreadyExists, http: 409 },
  SEQ_MISMATCH: { code: Code.Aborted, http: 409 },
  STORE_BUSY: { code: Code.Unavailable, http: 503 },
  OVERLOADED: { code: Code.Unavailable, http: 503 },
  DEADLINE: { code: Code.DeadlineExceeded, http: 504 },
  INTERNAL: { code: Code.Internal, http: 500 },
};

/**
 * Statuses of errors without a reason, those of the protocols. An unknown RPC is an unknown path.
 */
const httpByCode: Record<Code, number> = { ...httpStatuses, [Code.Unimplemented]: 404 };

const domain = 'sendbatch';

/** The details that any answer can carry. JSON needs their types to write an Any. */
export const detailRegistry = createRegistry(ErrorInfoSchema, BadRequestSchema, RetryInfoSchema);

/** The error of a refusal. Status, retry time and log read the refusal, not its encoded details. */
export class RefusalError extends ConnectError {
  readonly #refusal: Refusal;

  constructor(
    refusal: Refusal,
    { code = table[refusal.reason].code, violations = [], cause }: RefusalErrorOptions = {},
  ) {
    const { retryAfterMs } = refusal;
    const headers: Record<string, string> = {
      ...(retryAfterMs === undefined ? {} : { 'retry-after': String(Math.ceil(retryAfterMs / 1000)) }),
      ...(code === Code.Unauthenticated ? { 'www-authenticate': 'Bearer realm="sendbatch"' } : {}),
    };
    const details = [
      { desc: ErrorInfoSchema, value: errorInfo(refusal) },
      ...(violations.length > 0 ? [{ desc: BadRequestSchema, value: badRequest(violations) }] : []),
      ...(retryAfterMs === undefined ? [] : [{ desc: RetryInfoSchema, value: retryInfo(retryAfterMs) }]),
    ];
    super(refusal.message, code, headers, details, cause);
    this.#refusal = refusal;
  }

  get refusal(): Refusal {
    return this.#refusal;
  }

  /** ConnectError's own check, which this would inherit, accepts any ConnectError. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && #refusal in value;
  }
}

interface RefusalErrorOptions {
  /** Default: the code of the reason. */
  readonly code?: Code;
  readonly violations?: readonly Violation[];
  readonly cause?: unknown;
}

/**
 * Maps any thrown value to the error that is answered. Unexpected errors become INTERNAL without
 * their cause.
 */
export function toConnectError(thrown: unknown): ConnectError {
  if (thrown instanceof ConnectError) return thrown;
  if (thrown instanceof ServiceError) {
    const { refusal, violations, cause } = thrown;
    return new RefusalError(refusal, { violations, cause });
  }
  const message = 'internal error; the cause is in the log under x-request-id';
  return new RefusalError({ reason: 'INTERNAL', message, metadata: {} }, { cause: thrown });
}

/** Milliseconds after which a retry can succeed; undefined: a retry does not help. */
export function retryAfterMsOf(error: ConnectError): number | undefined {
  return error instanceof RefusalError ? error.refusal.retryAfterMs : undefined;
}

/** Header read by gRPC retry policies (gRFC A6): whole milliseconds in 32 bits. */
const pushbackHeader = 'grpc-retry-pushback-ms';
const longestPushbackMs = 2 ** 31 - 1;

/** Repeats an error's RetryInfo in gRPC's pushback header. For gRPC only. */
export function setPushback(headers: Headers, error: ConnectError): void {
  const milliseconds = retryAfterMsOf(error);
  if (milliseconds === undefined) return;
  headers.set(pushbackHeader, String(Math.min(Math.ceil(milliseconds), longestPushbackMs)));
}

/** Maps a refusal to the `error` of a message's result. */
export function refusalOf({
  reason,
  message,
  metadata,
  retryAfterMs,
}: Refusal): MessageInitShape<typeof RefusalSchema> {
  return {
    code: table[reason].code,
    reason,
    message,
    metadata: { ...metadata },
    ...(retryAfterMs === undefined ? {} : { retryAfter: durationFromMs(retryAfterMs) }),
  };
}

/** Every reason with its HTTP status and the body that the JSON routes answer. */
export const knownReasons = Object.entries(table).map(([reason, { http }]) => ({
  reason,
  http,
  body: (text: string): JsonObject =>
    toHttp(toConnectError(new ServiceError({ reason: reason as Reason, message: text, metadata: {} }))).body,
}));

/** The HTTP status of a reason on the JSON routes. */
export function httpStatusOf(reason: string): number {
  return Object.hasOwn(table, reason) ? table[reason as Reason].http : 500;
}

/** The HTTP status and body of an error on the JSON routes. */
export function toHttp(error: ConnectError, status = httpStatusOfError(error)): { status: number; body: JsonObject } {
  const details = error.details.flatMap((detail) => ('desc' in detail ? [toAny(detail)] : []));
  return {
    status,
    body: {
      status,
      msg: error.rawMessage,
      error: {
        code: error.code,
        status: statusNameOf(error.code),
        message: error.rawMessage,
        details,
      },
    },
  };
}

const statusNames = new Map(
  Object.values(Code)
    .filter((code) => typeof code === 'number')
    .map((code) => [code, Code[code].replace(/(?<!^)[A-Z]/g, '_$&').toUpperCase()]),
).set(Code.Canceled, 'CANCELLED');

/** A code's gRPC name: `NOT_FOUND`. `CANCELLED` has one L more than Connect's name. */
export function statusNameOf(code: Code): string {
  return statusNames.get(code) ?? 'UNKNOWN';
}

function httpStatusOfError(error: ConnectError): number {
  return error instanceof RefusalError ? table[error.refusal.reason].http : httpByCode[error.code];
}

type Detail = Extract<ConnectError['details'][number], { desc: unknown }>;

function toAny({ desc, value }: Detail): JsonObject {
  const json = toJson(desc, create(desc, value));
  return { '@type': `type.googleapis.com/${desc.typeName}`, ...(json as JsonObject) };
}

function errorInfo(refusal: Refusal): MessageInitShape<typeof ErrorInfoSchema> {
  return { reason: refusal.reason, domain, metadata: { ...refusal.metadata } };
}

function retryInfo(milliseconds: number): MessageInitShape<typeof RetryInfoSchema> {
  return { retryDelay: durationFromMs(milliseconds) };
}

function badRequest(violations: readonly Violation[]): MessageInitShape<typeof BadRequestSchema> {
  return { fieldViolations: violations.slice(0, limits.violationsNamed).map((each) => ({ ...each })) };
}
