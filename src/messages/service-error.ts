/**
 * Reasons of refusals: stable, callers branch on them. `rpc/error-mapping.ts` maps each to a gRPC
 * code and HTTP status.
 */
export type Reason =
  | 'INVALID_FIELD'
  | 'EMPTY_BATCH'
  | 'BATCH_TOO_LARGE'
  | 'PAYLOAD_TOO_LARGE'
  | 'CREDENTIAL_MISSING'
  | 'CREDENTIAL_INVALID'
  | 'SCOPE_MISSING'
  | 'SENDER_NOT_YOURS'
  | 'NOT_SUBSCRIBER'
  | 'IN_DENYLIST'
  | 'CHANNEL_NOT_EXIST'
  | 'NOT_ALLOWED'
  | 'NOT_IN_ALLOWLIST'
  | 'CHANNEL_BANNED'
  | 'CHANNEL_DISBANDED'
  | 'SENDER_BANNED'
  | 'CONTENT_REFUSED'
  | 'MESSAGE_NOT_FOUND'
  | 'MESSAGE_RECALLED'
  | 'RECALL_WINDOW_OVER'
  | 'REVISION_MISMATCH'
  | 'RULE_NOT_FOUND'
  | 'TEMPLATE_NOT_FOUND'
  | 'TEMPLATE_FAILED'
  | 'WEBHOOK_NOT_FOUND'
  | 'WEBHOOK_EXISTS'
  | 'KEY_NOT_FOUND'
  | 'RATE_LIMITED'
  | 'BATCH_NOT_FOUND'
  | 'REQUEST_ID_REUSED'
  | 'TOO_MANY_BATCHES'
  | 'BATCH_NOT_RETRYABLE'
  | 'REACH_IN_PROGRESS'
  | 'SEQ_EXPIRED'
  | 'SEQ_AHEAD'
  | 'TOO_MANY_CHANNELS'
  | 'READER_TOO_SLOW'
  | 'STOPPING'
  | 'READER_NOT_YOURS'
  | 'NOT_THE_SENDER'
  | 'CLIENT_MSG_NO_REUSED'
  | 'SEQ_MISMATCH'
  | 'STORE_BUSY'
  | 'OVERLOADED'
  | 'DEADLINE'
  | 'INTERNAL';

/** A refusal of one message, or of a call as a `ServiceError`. */
export interface Refusal {
  readonly reason: Reason;
  readonly message: string;
  /**
   * What a program needs to continue: the limit and the actual value, the sequence of the first
   * send.
   */
  readonly metadata: Readonly<Record<string, string>>;
  /** Milliseconds after which a retry may succeed. Unset: a retry does not help. */
  readonly retryAfterMs?: number;
  /**
   * What a caller without the scope `admin` receives instead, so that outsiders cannot tell whether
   * a channel exists.
   */
  readonly forOutsiders?: Refusal;
}

/** An invalid field (`messages[3].channel_id`), what is wrong with it, and its reason. */
export interface Violation {
  readonly field: string;
  readonly description: string;
  readonly reason: Reason;
}

/** A refused call. Thrown anywhere, mapped once in `rpc/error-mapping.ts`. */
export class ServiceError extends Error {
  readonly refusal: Refusal;
  readonly violations: readonly Violation[];

  constructor(refusal: Refusal, more: { violations?: readonly Violation[]; cause?: unknown } = {}) {
    super(refusal.message, { cause: more.cause });
    this.name = 'ServiceError';
    this.refusal = refusal;
    this.violations = more.violations ?? [];
  }
}

const tooLarge: ReadonlySet<Reason> = new Set(['BATCH_TOO_LARGE', 'PAYLOAD_TOO_LARGE']);

/**
 * The error of a call with invalid fields. Its reason is the violations' own if they agree, or all
 * say too large; else INVALID_FIELD: a batch with an invalid field stays invalid after it was cut.
 * `count`: how many there are, if not all are given.
 */
export function malformed(
  violations: readonly Violation[],
  metadata: Record<string, string> = {},
  count = violations.length,
): ServiceError {
  const [first] = violations;
  if (first === undefined) throw new Error('malformed() needs a violation');
  const same = violations.every((each) => each.reason === first.reason);
  const large = violations.every((each) => tooLarge.has(each.reason));
  const reason = same || large ? first.reason : 'INVALID_FIELD';
  const rest = count > 1 ? ` (and ${count - 1} more)` : '';
  const message = `${first.field}: ${first.description}${rest}`;
  return new ServiceError({ reason, message, metadata }, { violations });
}

/** The error of a call with one invalid field. */
export function invalidField(field: string, description: string, metadata: Record<string, string> = {}): ServiceError {
  return malformed([{ field, description, reason: 'INVALID_FIELD' }], metadata);
}

/** The error of a call that has too much of something, with the limit and the actual value. */
export function batchTooLarge(
  field: string,
  description: string,
  { limit, actual }: { readonly limit: number; readonly actual: number },
): ServiceError {
  return malformed([{ field, description, reason: 'BATCH_TOO_LARGE' }], {
    field,
    limit: String(limit),
    actual: String(actual),
  });
}
