import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { limits } from '../limits.ts';

/**
 * The error of an oversized message on the RPC protocols: RESOURCE_EXHAUSTED, with limit and size.
 */
export function messageTooLarge(actual: number, limit: number = limits.requestBytes): ConnectError {
  return new ConnectError(
    `the request has ${actual} bytes, at most ${limit} are allowed; send fewer messages per call`,
    Code.ResourceExhausted,
    undefined,
    [
      {
        desc: ErrorInfoSchema,
        value: {
          reason: 'BATCH_TOO_LARGE',
          domain: 'sendbatch',
          metadata: { field: 'body', limit: String(limit), actual: String(actual) },
        },
      },
    ],
  );
}
