import type { DescMethod } from '@bufbuild/protobuf';
import { parseTimeout as parseConnectTimeout } from '@connectrpc/connect/protocol-connect';
import { parseTimeout as parseGrpcTimeout } from '@connectrpc/connect/protocol-grpc';
import type { Identify } from '../auth/identity.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { Events } from '../observability/events/index.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { assertScope, scopeOf } from '../rpc/interceptors/authenticate.ts';
import { callEndOf } from '../rpc/interceptors/call-log.ts';
import {
  isGone,
  longestTimerMs,
  type Request,
  type RequestContext,
  type Response,
  requestIdHeader,
  textOf,
} from '../rpc/request-context.ts';
import { answerEarly, earlyAnswers } from './early-answer.ts';

/**
 * Identifies the caller and checks its scope, from the headers alone: no byte of the body is read,
 * decompressed or parsed before. False: the call was refused and answered. Undefined: no credential
 * is required.
 */
export type Admission = (context: RequestContext, response: Response) => Promise<boolean> | undefined;

export interface AdmissionParts {
  /** Unset: no call needs a credential. */
  readonly identify: Identify | undefined;
  /** Milliseconds that a call may take at most; the caller's own deadline may be shorter. */
  readonly requestTimeoutMs: number;
  readonly events: Events;
}

export function createAdmission({ identify, requestTimeoutMs, events }: AdmissionParts): Admission {
  if (identify === undefined) return () => undefined;
  const identifyCaller = identify;

  async function admit(context: RequestContext, response: Response, method: DescMethod): Promise<boolean> {
    const { request, header, protocol } = context;
    const began = performance.now();
    try {
      const deadlineMs = Math.min(requestTimeoutMs, deadlineOf(request) ?? requestTimeoutMs);
      context.caller = await withDeadline(deadlineMs, identifyCaller(header, context.certificate));
      const scope = scopeOf(method);
      if (scope !== 'any' && scope !== 'none') assertScope(context.caller, scope, method.name);
      context.isAdmitted = true;
      context.admittedAt = performance.now();
      return true;
    } catch (thrown) {
      const error = toConnectError(thrown);
      const { requestId } = context;
      error.metadata.set(requestIdHeader, requestId);
      const name = `${method.parent.typeName}/${method.name}`;
      const call = events.callBegan({ requestId, method: name, protocol, header, began });
      call.ended(callEndOf(error, context));
      if (!isGone(response)) answerEarly(context, response, earlyAnswers(error));
      return false;
    }
  }

  return (context, response) => {
    const { method, protocol } = context;
    // Event streams have no body and may have their token in the query: they identify it
    // themselves.
    if (method === undefined || protocol === 'sse' || scopeOf(method) === 'none') return undefined;
    return admit(context, response, method);
  };
}

/** The caller's deadline in milliseconds; undefined: none, or one that its adapter refuses. */
function deadlineOf({ headers }: Request): number | undefined {
  const grpc = parseGrpcTimeout(textOf(headers['grpc-timeout']), longestTimerMs);
  return grpc.timeoutMs ?? parseConnectTimeout(textOf(headers['connect-timeout-ms']), longestTimerMs).timeoutMs;
}

async function withDeadline<T>(ms: number, work: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () =>
      reject(
        new ServiceError({
          reason: 'DEADLINE',
          message: 'the credential could not be checked within the deadline of the call; nothing was stored, retry',
          metadata: {},
        }),
      ),
    ms,
  );
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
