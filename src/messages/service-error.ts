/** Why something was refused. Stable words: callers branch on them. `rpc/error-mapping.ts` maps each to a code and an HTTP status. */
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
  | 'RULE_NOT_FOUND'
  | 'TEMPLATE_NOT_FOUND'
  | 'TEMPLATE_FAILED'
  | 'WEBHOOK_NOT_FOUND'
  | 'WEBHOOK_EXISTS'
  | 'RATE_LIMITED'
  | 'BATCH_NOT_FOUND'
  | 'REQUEST_ID_REUSED'
  | 'TOO_MANY_BATCHES'
  | 'BATCH_NOT_RETRYABLE'
  | 'SEQ_EXPIRED'
  | 'SEQ_AHEAD'
  | 'TOO_MANY_CHANNELS'
  | 'READER_TOO_SLOW'
  | 'STOPPING'
  | 'READER_NOT_YOURS'
  | 'CLIENT_MSG_NO_REUSED'
  | 'SEQ_MISMATCH'
  | 'STORE_BUSY'
  | 'OVERLOADED'
  | 'DEADLINE'
  | 'INTERNAL';

/** A refusal: of one message in its result, or of a call as the cause of a Failure. */
export interface Refusal {
  readonly reason: Reason;
  readonly message: string;
  /** What a program needs to go on: the limit and the actual value, the first send's sequence. */
  readonly metadata: Readonly<Record<string, string>>;
  /** When a retry is worth trying, in milliseconds. */
  readonly retryAfterMs?: number;
  /** What a caller without the scope `admin` is told instead, so that outsiders cannot tell whether a channel exists. */
  readonly veiled?: Refusal;
}

/** A field at fault: `messages[3].channel_id`, what is wrong with it, and which reason it is. */
export interface Violation {
  readonly field: string;
  readonly description: string;
  readonly reason: Reason;
}

/** A refused call. Thrown by any room, mapped once at the edge. */
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
 * One failure out of all violations of a call. Its reason is the violations' own when they agree that something is empty or too
 * large, else INVALID_FIELD: a batch with a bad field stays bad after it was cut. `count`: how many there are, where not all are given.
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

/** The violation of one field, as a failure of its call. */
export function invalidField(field: string, description: string, metadata: Record<string, string> = {}): ServiceError {
  return malformed([{ field, description, reason: 'INVALID_FIELD' }], metadata);
}
