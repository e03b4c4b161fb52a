/** What an error of the database means for the transaction that met it. */
export type StoreTrouble =
  /** Rolled back for a reason that another try may not meet. */
  | 'retry'
  /** The connection went away; whether a commit was made is not known. A retry with the same keys finds out. */
  | 'lost'
  /** Nothing that a retry mends now: a lock or a statement took too long, the server is out of resources. */
  | 'busy'
  /** A defect. */
  | 'defect';

const bySqlState: Record<string, StoreTrouble> = {
  '40001': 'retry', // serialization_failure
  '40P01': 'retry', // deadlock_detected
  '55P03': 'busy', // lock_not_available: lock_timeout
  '57014': 'busy', // query_canceled: statement_timeout
  '53100': 'busy', // disk_full
  '58030': 'busy', // io_error: the disk cannot be read or written
  '53200': 'busy', // out_of_memory
  '53300': 'lost', // too_many_connections: nothing was begun, another may be free soon
  '25006': 'busy', // read_only_sql_transaction: connected to a standby
  '25P03': 'lost', // idle_in_transaction_session_timeout
  '57P01': 'lost', // admin_shutdown
  '57P02': 'lost', // crash_shutdown
  '57P03': 'lost', // cannot_connect_now
};

/** How the error begins that says so. */
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

/** Sorts an error that a query threw. */
export function troubleOf(error: unknown): StoreTrouble {
  if (!(error instanceof Error)) return 'defect';
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const known = bySqlState[code];
  if (known !== undefined) return known;
  if (code.startsWith('08') || lostSockets.has(code)) return 'lost';
  // pg gives these no code: the socket ended under a query, no answer came, or the pool or the server did not hand out a connection in time.
  if (
    /^(Connection terminated|Client has encountered a connection error|Client was closed|no connection is free|timeout exceeded when trying to connect|timeout expired|Query read timeout)/.test(
      error.message,
    )
  )
    return 'lost';
  return 'defect';
}

/** A wait for a lock was longer than the lock time-out. */
export function isLockTimeout(error: unknown): boolean {
  return (error as { code?: unknown }).code === '55P03';
}

/** A message was inserted that had been sent before: unique_violation of the once-only key. */
export function isRepeatedSend(error: unknown): boolean {
  const { code, constraint } = error as { code?: unknown; constraint?: unknown };
  return code === '23505' && constraint === 'message_once';
}

/** A batch was submitted under a request_id of an earlier one: unique_violation of its once-only key. */
export function isSameRequest(error: unknown): boolean {
  const { code, constraint } = error as { code?: unknown; constraint?: unknown };
  return code === '23505' && constraint === 'batch_once';
}

/** A message was inserted whose sequence is null: not_null_violation, of appendNew's making. */
export function isWithoutSequence(error: unknown): boolean {
  const { code, table, column } = error as { code?: unknown; table?: unknown; column?: unknown };
  return code === '23502' && table === 'message' && column === 'message_seq';
}
