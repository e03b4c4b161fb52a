/** What a database error means for its transaction. */
export type PgErrorClass =
  /** Rolled back for a transient reason: a retry may succeed. */
  | 'retry'
  /**
   * The connection was lost; whether a commit was applied is unknown. A retry with the same keys
   * finds out.
   */
  | 'lost'
  /**
   * An immediate retry does not help: a lock or statement took too long, or the server lacks
   * resources.
   */
  | 'busy'
  /** A defect of the service. */
  | 'defect';

const bySqlState: Record<string, PgErrorClass> = {
  '40001': 'retry', // serialization_failure
  '40P01': 'retry', // deadlock_detected
  '55P03': 'busy', // lock_not_available: lock_timeout
  '57014': 'busy', // query_canceled: statement_timeout
  '53100': 'busy', // disk_full
  '58030': 'busy', // io_error: the disk cannot be read or written
  '53200': 'busy', // out_of_memory
  '53300': 'lost', // too_many_connections: nothing was begun, another may be free soon
  '28000': 'busy', // invalid_authorization_specification: no new connection is let in
  '28P01': 'busy', // invalid_password
  '3D000': 'busy', // invalid_catalog_name: the database was dropped
  '25006': 'lost', // read_only_sql_transaction: a standby, or a primary that became one
  '25P03': 'lost', // idle_in_transaction_session_timeout
  '25P04': 'lost', // transaction_timeout
  '26000': 'retry', // invalid_sql_statement_name: the prepared statement is gone from the connection
  '42P05': 'retry', // duplicate_prepared_statement: a pooler handed on another's connection
  '57P01': 'lost', // admin_shutdown
  '57P02': 'lost', // crash_shutdown
  '57P03': 'lost', // cannot_connect_now
  '57P04': 'lost', // database_dropped
  '57P05': 'lost', // idle_session_timeout
};

/**
 * Errors after which a connection is unusable although the server keeps it open: the next statement
 * would fail too.
 */
const condemning = new Set(['25006', '25P03', '25P04', '26000', '42P05', '57P01', '57P02', '57P03', '57P04', '57P05']);

/** Whether the connection of this error must be closed. */
export function isCondemning({ code = '', message = '' }: { code?: string; message?: string }): boolean {
  return condemning.has(code) || code.startsWith('08') || isStalePlan(code, message);
}

/** feature_not_supported: a statement was planned before its table changed. */
function isStalePlan(code: string, message: string): boolean {
  return code === '0A000' && message.startsWith('cached plan must not change result type');
}

/** Start of that error's text. */
export const noConnection = 'no connection is free';

const lostSockets = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ENOENT', // the unix socket's file is gone: the server is down
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
]);

/** Classifies an error thrown by a query. */
export function classifyPgError(error: unknown): PgErrorClass {
  // pg-boss passes on copies, which are not instances of Error.
  if (typeof error !== 'object' || error === null) return 'defect';
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const message = 'message' in error ? String(error.message) : '';
  const known = bySqlState[code];
  if (known !== undefined) return known;
  if (isStalePlan(code, message)) return 'retry';
  if (code.startsWith('08') || lostSockets.has(code)) return 'lost';
  // pg gives these no code: the socket ended during a query, no answer arrived, or no connection
  // was available in time.
  if (
    /^(Connection terminated|Client has encountered a connection error|Client was closed|no connection is free|timeout exceeded when trying to connect|timeout expired|Query read timeout)/.test(
      message,
    )
  )
    return 'lost';
  return 'defect';
}

/**
 * Whether PostgreSQL reports an internal error. On Citus it is how a lost node is reported, and
 * whether a commit was applied is unknown.
 */
export function isInternalError(error: unknown): boolean {
  return (error as { code?: unknown }).code === 'XX000';
}

/** Whether a lock wait exceeded lock_timeout. */
export function isLockTimeout(error: unknown): boolean {
  return (error as { code?: unknown }).code === '55P03';
}

/**
 * Whether an error names this table or constraint. A worker of Citus that holds the shard itself
 * adds its own number for it: `message_once_102038`.
 */
function names(name: unknown, expected: string): boolean {
  return typeof name === 'string' && name.replace(/_\d+$/, '') === expected;
}

/** The same in an error that Citus passes on from another node: it keeps the message only. */
function mentions(message: unknown, expected: string): boolean {
  return typeof message === 'string' && new RegExp(`\\b${expected}(_\\d+)?(?!\\w)`).test(message);
}

/** Whether an inserted message was sent before: unique_violation of the once-only key. */
export function isRepeatedSend(error: unknown): boolean {
  const { code, constraint, message } = error as { code?: unknown; constraint?: unknown; message?: unknown };
  if (code !== '23505') return false;
  return constraint === undefined ? mentions(message, 'message_once') : names(constraint, 'message_once');
}

/** Whether a channel to be created exists: unique_violation of its name. */
export function isCreatedChannel(error: unknown): boolean {
  const { code, constraint } = error as { code?: unknown; constraint?: unknown };
  return code === '23505' && constraint === 'channel_named';
}

/**
 * Whether a submitted batch has the request_id of an earlier one: unique_violation of its once-only
 * key.
 */
export function isSameRequest(error: unknown): boolean {
  const { code, constraint } = error as { code?: unknown; constraint?: unknown };
  return code === '23505' && constraint === 'batch_once';
}

/** Whether an inserted message has no sequence: not_null_violation, which `appendNew` provokes. */
export function isWithoutSequence(error: unknown): boolean {
  const { code, table, column, message } = error as Record<'code' | 'table' | 'column' | 'message', unknown>;
  if (code !== '23502') return false;
  if (column === undefined) return mentions(message, 'message_seq') && mentions(message, 'message');
  return names(table, 'message') && column === 'message_seq';
}
