import { classifyPgError } from '../postgres/pg-errors.ts';
import { ServiceError } from './service-error.ts';

/** What STORE_BUSY advises: long enough for a lock time-out's cause to pass, short enough to hide a restart. */
const retryAfterMs = 1000;

/** The store cannot do it now. Nothing was stored, or the same keys will find it. */
export function storeBusy(cause: unknown): ServiceError {
  return new ServiceError(
    {
      reason: 'STORE_BUSY',
      message: 'the store cannot take this now; send it again with the same keys (client_msg_no or request_id)',
      metadata: {},
      retryAfterMs,
    },
    { cause },
  );
}

/** Runs work that asks the store; what the store cannot do now is STORE_BUSY. */
export async function orBusy<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ServiceError || classifyPgError(error) === 'defect') throw error;
    throw storeBusy(error);
  }
}
