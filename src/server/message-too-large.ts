import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { limits } from '../limits.ts';

/** A message that is larger than any is taken, as the RPC protocols say it: RESOURCE_EXHAUSTED, with the limit and the size. */
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
