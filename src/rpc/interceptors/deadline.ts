import { Code, type Interceptor } from '@connectrpc/connect';
import { ServiceError } from '../../messages/service-error.ts';
import { cancellationOf } from '../request-context.ts';

/**
 * Ends a call at its deadline, after `longestMs` at most. Connect only aborts the signal, so a
 * handler that waits for the database would answer late. The work continues; a retry finds its
 * outcome.
 */
export function deadlineInterceptor(longestMs: number): Interceptor {
  return (next) => (request) => {
    if (request.stream) return next(request);
    const signal = cancellationOf(request.contextValues, request);
    return new Promise((resolve, reject) => {
      const expire = () => reject(deadlineExceeded());
      const aborted = () => {
        if (isDeadline(signal.reason)) expire();
      };
      const timer = setTimeout(expire, longestMs);
      signal.addEventListener('abort', aborted);
      if (signal.aborted) aborted();
      const release = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', aborted);
      };
      const failed = (error: unknown) => {
        release();
        reject(error);
      };
      try {
        next(request).then((response) => {
          release();
          resolve(response);
        }, failed);
      } catch (error) {
        failed(error);
      }
    });
  };
}

function deadlineExceeded(): ServiceError {
  return new ServiceError({
    reason: 'DEADLINE',
    message:
      'the deadline passed, and it is unknown whether the call was stored; retry with the same keys (client_msg_no or request_id)',
    metadata: {},
  });
}

function isDeadline(reason: unknown): boolean {
  return reason instanceof Error && 'code' in reason && reason.code === Code.DeadlineExceeded;
}
