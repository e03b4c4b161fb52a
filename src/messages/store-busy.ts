import { classifyPgError } from '../postgres/pg-errors.ts';
import { ServiceError } from './service-error.ts';

/**
 * Retry advice of STORE_BUSY: long enough for the cause of a lock timeout to pass, short enough to
 * hide a restart.
 */
const retryAfterMs = 1000;

/** STORE_BUSY: nothing was stored, or a retry with the same keys finds it. */
export function storeBusy(cause: unknown): ServiceError {
  return new ServiceError(
    {
      reason: 'STORE_BUSY',
      message: 'the store is busy or unavailable; retry with the same keys (client_msg_no or request_id)',
      metadata: {},
      retryAfterMs,
    },
    { cause },
  );
}

/** Runs work on the store; throws STORE_BUSY for errors that a retry may resolve. */
export async function orBusy<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ServiceError || classifyPgError(error) === 'defect') throw error;
    throw storeBusy(error);
  }
}
