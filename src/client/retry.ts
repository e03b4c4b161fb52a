import type { Duration } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema, RetryInfoSchema } from '../../gen/client/google/rpc/error_details_pb.ts';
import type { Refusal } from '../../gen/client/sendbatch/v1/message_pb.ts';

/** How patient the client is. */
export interface RetryOptions {
  /** Tries of a call or a message, at least 1. */
  readonly attempts: number;
  /** Milliseconds before the second try at most; doubled each time, and drawn at random below. */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  /** Milliseconds that go on being tried, however often, what fails after this client has had an answer: the service was there, and is only away. */
  readonly patienceMs: number;
}

const retryDefaults: RetryOptions = {
  attempts: 8,
  firstPauseMs: 100,
  longestPauseMs: 10_000,
  patienceMs: 0,
};

/** Makes the tries of a client's calls: all of them know whether the service was ever there. */
export interface Retry {
  begin(signal: AbortSignal | undefined): Tries;
}

/** The tries of one call, or of one stream. */
export interface Tries {
  /** The service has answered: it is there. */
  answered(): void;
  /** The same, and what was asked for gets on: what fails from now on has all its tries before it. */
  gotOn(): void;
  /** Whether another try follows when this one fails. */
  goOn(): boolean;
  /** Waits before the next try: as long as was asked for, and some time at random, so that those that failed together do not come back together. Throws when the signal ends it. */
  pause(askedMs: number): Promise<void>;
  /** The same after an error; throws that error when no retry mends it or no other try follows. */
  after(
    error: unknown,
    options?: { readonly askedMs?: number | undefined; readonly told?: ((error: unknown) => void) | undefined },
  ): Promise<void>;
}

export function createRetry(options: Partial<RetryOptions>): Retry {
  const { attempts, firstPauseMs, longestPauseMs, patienceMs } = { ...retryDefaults, ...options };
  let wasThere = false;
  return {
    begin(signal) {
      let attempt = 1;
      let began = performance.now();
      const tries: Tries = {
        answered() {
          wasThere = true;
        },
        gotOn() {
          wasThere = true;
          attempt = 1;
          began = performance.now();
        },
        goOn: () => attempt < attempts || (wasThere && performance.now() - began < patienceMs),
        async pause(askedMs) {
          const most = Math.min(firstPauseMs * 2 ** (attempt++ - 1), longestPauseMs);
          await sleep(askedMs + Math.random() * most, signal);
        },
        async after(error, { askedMs = waitOf(error), told } = {}) {
          if (askedMs === undefined || signal?.aborted || !tries.goOn()) throw error;
          told?.(error);
          await tries.pause(askedMs);
        },
      };
      return tries;
    },
  };
}

/** The service ends a stream by an error, or with what it is about; an end before that is the way's doing. */
export function endedEarly(): ConnectError {
  return new ConnectError('the stream ended early', Code.Unavailable);
}

/** Hands a stream on; a signal that ends it is no error. */
export async function* untilAborted<T>(signal: AbortSignal | undefined, stream: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* stream;
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}

/**
 * Codes that may pass: the service or the way to it is away, or the outcome is not known and the same keys find it out. CANCELLED is a stream that was reset by a
 * service or a proxy that stops; whoever cancels by a signal asks that before.
 */
const passing = new Set([Code.Unavailable, Code.DeadlineExceeded, Code.Unknown, Code.Canceled]);

/** Milliseconds that an error asks to wait; 0 when it may be tried at once; undefined when no retry mends it. */
export function waitOf(thrown: unknown): number | undefined {
  const error = ConnectError.from(thrown);
  const [info] = error.findDetails(RetryInfoSchema);
  if (info !== undefined) return millisOf(info.retryDelay);
  return passing.has(error.code) || isOfTheWay(error) ? 0 : undefined;
}

/** A connection that was refused or cut, as by a service that stops: transports say INTERNAL of some of it. */
function isOfTheWay({ cause }: ConnectError): boolean {
  const code = typeof cause === 'object' && cause !== null && 'code' in cause ? String(cause.code) : '';
  return /^(ERR_HTTP2_|ERR_STREAM_|ECONN|EPIPE|ETIMEDOUT|UND_ERR_)/.test(code);
}

/** The same for one message's refusal. */
export function waitOfRefusal({ retryAfter }: Refusal): number | undefined {
  return retryAfter === undefined ? undefined : millisOf(retryAfter);
}

function millisOf(duration: Duration | undefined): number {
  return Number(duration?.seconds ?? 0n) * 1000 + (duration?.nanos ?? 0) / 1e6;
}

/** The stable reason of an error, of a call's or of a result's: `NOT_SUBSCRIBER`, `RATE_LIMITED`, … */
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
