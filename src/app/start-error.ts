// What is wrong with a start, in one line for the operator.

import { EmbeddedUnavailable } from '../postgres/embedded/index.ts';
import { MigrationError } from '../postgres/migration-error.ts';
import { classifyPgError } from '../postgres/pg-errors.ts';

/** The service cannot start; the message is one line for the operator. */
export class StartError extends Error {}

/** Whether an error's message tells the operator what to do. Other errors need their stack. */
export function isForTheUser(error: unknown): error is Error {
  return [StartError, EmbeddedUnavailable, MigrationError].some((type) => error instanceof type);
}

/** The server answers but is read-only. */
export class ReadOnly extends Error {}

/** insufficient_privilege */
const notAllowed = '42501';

/**
 * Turns a database error at startup into one line for the operator, with the way out where it is
 * known. Defects stay as they are.
 */
export function inOneLine(error: unknown, tried = ''): unknown {
  if (isForTheUser(error)) return error;
  const cause = textOf(error);
  const code = codeOf(error);
  const startError = (message: string) => new StartError(message, { cause: error });
  if (code === notAllowed)
    return startError(
      `${cause}: migrate needs a role with CREATE on the database, serve one with privileges on all schemas that migrate creates`,
    );
  if (error instanceof ReadOnly)
    return startError(
      `the database cannot be written: ${cause}${tried}. Check that DATABASE_URL is the URL of the primary`,
    );
  if (cause.includes('unsupported startup parameter'))
    return startError(
      `the database cannot be reached: ${cause}. PgBouncer needs ignore_startup_parameters = lock_timeout,statement_timeout,idle_in_transaction_session_timeout, and a connect_query that sets them`,
    );
  if (isAway(error) || noEntrance.has(code))
    return startError(
      `the database cannot be reached: ${cause}${tried}. Check DATABASE_URL, and that the server is running`,
    );
  // With an SQLSTATE: the server's own message.
  if (/^[0-9A-Z]{5}$/.test(code))
    return startError(`the database refused a statement of the start: ${cause} (SQLSTATE ${code})${tried}`);
  return error;
}

/**
 * The server refuses this login: protocol_violation, invalid_authorization, invalid_password,
 * invalid_catalog_name.
 */
const noEntrance = new Set(['08P01', '28000', '28P01', '3D000']);
/**
 * Errors of a busy server: query_canceled, lock_not_available, out_of_memory, too_many_connections.
 */
const passing = new Set(['57014', '55P03', '53200', '53300']);

/** Whether a step of the start may succeed later. */
export function helpsToWait(error: unknown): boolean {
  if (error instanceof ReadOnly) return true;
  // The cause of a failed migration is its reason.
  const reason = error instanceof MigrationError && error.cause !== undefined ? error.cause : error;
  return isAway(reason) || passing.has(codeOf(reason)) || classifyPgError(reason) === 'retry';
}

export function codeOf(error: unknown): string {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' ? code : '';
}

function isAway(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.every(isAway);
  // protocol_violation: a pooler refuses a startup parameter.
  return classifyPgError(error) === 'lost' && codeOf(error) !== '08P01';
}

/** Some socket errors contain their messages: one per address that was tried. */
export function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(textOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}
