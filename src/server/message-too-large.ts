import { Code, type ConnectError } from '@connectrpc/connect';
import { limits } from '../limits.ts';
import { RefusalError } from '../rpc/error-mapping.ts';

/**
 * The error of an oversized message on the RPC protocols: RESOURCE_EXHAUSTED, with limit and size.
 */
export function messageTooLarge(actual: number, limit: number = limits.requestBytes): ConnectError {
  return new RefusalError(
    {
      reason: 'BATCH_TOO_LARGE',
      message: `the request has ${actual} bytes, at most ${limit} are allowed; send fewer messages per call`,
      metadata: { field: 'body', limit: String(limit), actual: String(actual) },
    },
    { code: Code.ResourceExhausted },
  );
}
