import { isMessage } from '@bufbuild/protobuf';
import { ConnectError } from '@connectrpc/connect';
import { RefusalSchema } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { reasonOf, retryDelay } from '../../src/client/retry.ts';

/** What a page shows about a failed call. */
export interface CallError {
  /** The stable reason, such as `BATCH_NOT_FOUND`; undefined when the service was not reached. */
  readonly reason: string | undefined;
  /** The service's own words. */
  readonly message: string;
  /** The id under which the call stands in the service's log. */
  readonly requestId: string | undefined;
  readonly code: number;
  /** Whether the same call may succeed later. */
  readonly isRetryable: boolean;
}

/** `thrown`: by a call, or the refusal of one message by a call that succeeded. */
export function callErrorOf(thrown: unknown): CallError {
  if (isMessage(thrown, RefusalSchema)) {
    const { reason, message, code, retryAfter } = thrown;
    return { reason, message, requestId: undefined, code, isRetryable: retryAfter !== undefined };
  }
  const error = ConnectError.from(thrown);
  return {
    reason: reasonOf(error),
    message: error.rawMessage,
    requestId: error.metadata.get('x-request-id') ?? undefined,
    code: error.code,
    isRetryable: retryDelay(error) !== undefined,
  };
}
