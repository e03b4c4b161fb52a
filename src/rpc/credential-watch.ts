// Ends streams whose credential has ended: a revoked or expired key, an expired token.
//
// A call is identified once, when it begins, but a stream lives for days. Every `checkMs` each open
// stream is checked: API keys are looked up again (one statement per key and second, for any number
// of streams), tokens are compared with their `exp`. While the database cannot answer, streams
// continue, because a failed look-up says nothing about the credential.
import type { HandlerContext } from '@connectrpc/connect';
import type { Identify } from '../auth/identity.ts';
import { ServiceError } from '../messages/service-error.ts';
import { type RequestContext, requestContextOf } from './request-context.ts';

/**
 * Time between two checks. A stream ends at most this long, plus the key cache's 1 s, after its
 * credential.
 */
const checkMs = 2000;

/** A stream and the credential that opened it. */
export interface StreamCredential {
  readonly context: RequestContext;
  /** Aborted when the caller disconnects. */
  readonly signal: AbortSignal;
}

/** The credential of a streaming RPC. */
export function streamCredential({ values, signal }: Pick<HandlerContext, 'values' | 'signal'>): StreamCredential {
  return { context: requestContextOf(values), signal };
}

export interface CredentialWatch {
  /** Iterates a stream. Fails with CREDENTIAL_INVALID soon after the credential has ended. */
  whileValid<T>(stream: StreamCredential, open: (signal: AbortSignal) => AsyncIterable<T>): AsyncIterable<T>;
  /** Verifies the tokens of open streams again, after a change of the secrets. */
  recheckTokens(): Promise<void>;
  close(): void;
}

interface OpenStream extends StreamCredential {
  readonly ended: AbortController;
}

/** `identify` unset: no credential is required, so none ends. */
export function createCredentialWatch(identify: Identify | undefined, now: () => number = Date.now): CredentialWatch {
  const open = new Set<OpenStream>();
  let timer: NodeJS.Timeout | undefined;

  async function check(stream: OpenStream): Promise<void> {
    const { context, ended } = stream;
    const { expiresAt } = context.caller;
    if (expiresAt === undefined) await verify(stream);
    else if (expiresAt <= now()) ended.abort(credentialEnded());
  }

  async function verify({ context, ended }: OpenStream): Promise<void> {
    try {
      await identify?.(context.header, context.certificate);
    } catch (error) {
      if (error instanceof ServiceError && error.refusal.reason === 'CREDENTIAL_INVALID')
        ended.abort(credentialEnded());
    }
  }

  async function checkAll(): Promise<void> {
    for (const stream of open) await check(stream);
    timer = open.size === 0 ? undefined : setTimeout(checkAll, checkMs).unref();
  }

  async function* watched<T>(
    stream: StreamCredential,
    begin: (signal: AbortSignal) => AsyncIterable<T>,
  ): AsyncIterable<T> {
    const ended = new AbortController();
    const onAbort = () => ended.abort(stream.signal.reason);
    stream.signal.addEventListener('abort', onAbort, { once: true });
    if (stream.signal.aborted) onAbort();
    const entry = { ...stream, ended };
    open.add(entry);
    timer ??= setTimeout(checkAll, checkMs).unref();
    try {
      yield* begin(ended.signal);
      // A stream may end without an error when its signal aborts; the caller needs the reason.
      if (ended.signal.reason instanceof ServiceError) throw ended.signal.reason;
    } finally {
      open.delete(entry);
      stream.signal.removeEventListener('abort', onAbort);
    }
  }

  return {
    whileValid: (stream, begin) => (identify === undefined ? begin(stream.signal) : watched(stream, begin)),
    async recheckTokens() {
      for (const stream of open) if (stream.context.caller.expiresAt !== undefined) await verify(stream);
    },
    close: () => clearTimeout(timer),
  };
}

function credentialEnded(): ServiceError {
  return new ServiceError({
    reason: 'CREDENTIAL_INVALID',
    message: 'the credential of this stream has expired or was revoked: open it again with a valid one',
    metadata: {},
  });
}
