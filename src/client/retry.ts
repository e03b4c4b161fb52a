import type { Duration } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema, RetryInfoSchema } from '../../gen/client/google/rpc/error_details_pb.ts';
import type { Refusal } from '../../gen/client/sendbatch/v1/message_pb.ts';

/** How often and how long the client retries. */
export interface RetryOptions {
  /** Attempts per call or message, at least 1. */
  readonly attempts: number;
  /**
   * The longest pause before the second attempt in ms. It doubles per attempt; the actual pause is
   * random below it.
   */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  /**
   * Milliseconds of retrying, regardless of `attempts`, once the service has answered this client:
   * it exists, and is only temporarily unavailable.
   */
  readonly patienceMs: number;
}

const retryDefaults: RetryOptions = {
  attempts: 8,
  firstPauseMs: 100,
  longestPauseMs: 10_000,
  patienceMs: 0,
};

/** Creates the retry state of calls. They share whether the service has ever answered. */
export interface Retry {
  begin(signal: AbortSignal | undefined): RetryState;
}

/** The attempts of one call or one stream. */
export interface RetryState {
  /** Records that the service has answered. */
  onAnswer(): void;
  /**
   * Records progress: the service has answered, and later failures start with all attempts again.
   */
  onProgress(): void;
  /** Whether another attempt follows if this one fails. */
  canRetry(): boolean;
  /**
   * Waits before the next attempt: the requested time plus random jitter, so that clients that
   * failed together do not return together. Throws when the signal aborts it.
   */
  pause(askedMs: number): Promise<void>;
  /**
   * Like `pause`, after an error. Throws the error when no retry can fix it or no attempt is left.
   */
  after(
    error: unknown,
    options?: { readonly askedMs?: number | undefined; readonly onRetry?: ((error: unknown) => void) | undefined },
  ): Promise<void>;
}

export function createRetry(options: Partial<RetryOptions>): Retry {
  const { attempts, firstPauseMs, longestPauseMs, patienceMs } = { ...retryDefaults, ...options };
  let hasAnswered = false;
  return {
    begin(signal) {
      let attempt = 1;
      let began = performance.now();
      const retries: RetryState = {
        onAnswer() {
          hasAnswered = true;
        },
        onProgress() {
          hasAnswered = true;
          attempt = 1;
          began = performance.now();
        },
        canRetry: () => attempt < attempts || (hasAnswered && performance.now() - began < patienceMs),
        async pause(askedMs) {
          const most = Math.min(firstPauseMs * 2 ** (attempt++ - 1), longestPauseMs);
          await sleep(askedMs + Math.random() * most, signal);
        },
        async after(error, { askedMs = retryDelay(error), onRetry } = {}) {
          if (askedMs === undefined || signal?.aborted || !retries.canRetry()) throw error;
          onRetry?.(error);
          await retries.pause(askedMs);
        },
      };
      return retries;
    },
  };
}

/** Makes a call that may be repeated, until it succeeds or no retry can fix its error. */
export async function retried<T>(
  retry: Retry,
  signal: AbortSignal | undefined,
  call: (options: { readonly signal?: AbortSignal }) => Promise<T>,
): Promise<T> {
  const retries = retry.begin(signal);
  for (;;) {
    try {
      return await call(signal === undefined ? {} : { signal });
    } catch (error) {
      await retries.after(error);
    }
  }
}

/**
 * Returns the error of a stream that ended without an error or a final message: the connection was
 * lost.
 */
export function endedEarly(): ConnectError {
  return new ConnectError('the stream ended early', Code.Unavailable);
}

/** Passes a stream on. Ends without an error when the signal aborts it. */
export async function* untilAborted<T>(signal: AbortSignal | undefined, stream: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* stream;
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}

/**
 * Retryable codes: the service or the network is unavailable, or the outcome is unknown and a retry
 * with the same keys finds it out. CANCELLED is a stream reset by a stopping service or proxy; an
 * abort by the caller's signal is checked before.
 */
const retryableCodes = new Set([Code.Unavailable, Code.DeadlineExceeded, Code.Unknown, Code.Canceled]);

/**
 * Returns the ms to wait before a retry: as the error requests, 0 for at once, undefined when no
 * retry can fix it.
 */
export function retryDelay(thrown: unknown): number | undefined {
  const error = ConnectError.from(thrown);
  const [info] = error.findDetails(RetryInfoSchema);
  if (info !== undefined) return millisOf(info.retryDelay);
  return retryableCodes.has(error.code) || isConnectionError(error) ? 0 : undefined;
}

/** A refused or lost connection, which transports partly report as INTERNAL. */
function isConnectionError({ cause }: ConnectError): boolean {
  const code = typeof cause === 'object' && cause !== null && 'code' in cause ? String(cause.code) : '';
  return /^(ERR_HTTP2_|ERR_STREAM_|ECONN|EPIPE|ETIMEDOUT|UND_ERR_)/.test(code);
}

/** Like `retryDelay`, for the refusal of one message. */
export function refusalRetryDelay({ retryAfter }: Refusal): number | undefined {
  return retryAfter === undefined ? undefined : millisOf(retryAfter);
}

function millisOf(duration: Duration | undefined): number {
  return Number(duration?.seconds ?? 0n) * 1000 + (duration?.nanos ?? 0) / 1e6;
}

/** Returns the stable reason of a call's or a result's error, such as `NOT_SUBSCRIBER`. */
export function reasonOf(error: unknown): string | undefined {
  if (isRefusal(error)) return error.reason;
  return ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;
}

function isRefusal(error: unknown): error is Refusal {
  return (
    typeof error === 'object' && error !== null && '$typeName' in error && error.$typeName === 'sendbatch.v1.Refusal'
  );
}

async function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  const stop = () => reject(signal?.reason);
  signal?.addEventListener('abort', stop, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}
