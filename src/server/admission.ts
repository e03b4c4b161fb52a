import type { DescMethod } from '@bufbuild/protobuf';
import { parseTimeout as parseConnectTimeout } from '@connectrpc/connect/protocol-connect';
import { parseTimeout as parseGrpcTimeout } from '@connectrpc/connect/protocol-grpc';
import { callerKey, certificateKey, type Identify } from '../auth/identity.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { Events, Protocol } from '../observability/events/index.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { assertScope, scopeOf } from '../rpc/interceptors/authenticate.ts';
import { callIdOf, endOf } from '../rpc/interceptors/call-log.ts';
import {
  admittedCallers,
  contextValuesOf,
  isGone,
  longestTimerMs,
  type Request,
  type Response,
  requestIdHeader,
  textOf,
  webHeaders,
} from '../rpc/request-context.ts';
import { answerEarly, earlyAnswers } from './early-answer.ts';

/**
 * Identifies the caller and checks its scope, from the headers alone: no byte of the body is read,
 * decompressed or parsed before. False: the call was refused and answered. Undefined: no credential
 * is required.
 */
export type Admission = (request: Request, response: Response) => Promise<boolean> | undefined;

export interface AdmissionParts {
  /** Unset: no call needs a credential. */
  readonly identify: Identify | undefined;
  /** Milliseconds that a call may take at most; the caller's own deadline may be shorter. */
  readonly requestTimeoutMs: number;
  /** The RPC of a request; undefined: none, or a stream that identifies its caller itself. */
  readonly methodOf: (request: Request) => DescMethod | undefined;
  readonly events: Events;
}

export function createAdmission({ identify, requestTimeoutMs, methodOf, events }: AdmissionParts): Admission {
  if (identify === undefined) return () => undefined;
  const ask = identify;

  async function admit(request: Request, response: Response, method: DescMethod): Promise<boolean> {
    const header = webHeaders(request.headers);
    const protocol = protocolOf(request, method);
    const values = contextValuesOf(request, protocol);
    const began = performance.now();
    try {
      const deadline = Math.min(requestTimeoutMs, deadlineOf(request) ?? requestTimeoutMs);
      const caller = await within(deadline, ask(header, values.get(certificateKey)));
      values.set(callerKey, caller);
      const scope = scopeOf(method);
      if (scope !== 'any' && scope !== 'none') assertScope(caller, scope, method.name);
      admittedCallers.set(request, caller);
      return true;
    } catch (thrown) {
      const error = toConnectError(thrown);
      const requestId = callIdOf(header);
      error.metadata.set(requestIdHeader, requestId);
      const name = `${method.parent.typeName}/${method.name}`;
      const call = events.callBegan({ requestId, method: name, protocol, header, began });
      call.ended(endOf(error, values));
      if (!isGone(response)) answerEarly(request, response, method, earlyAnswers(error));
      return false;
    }
  }

  return (request, response) => {
    const method = methodOf(request);
    if (method === undefined || scopeOf(method) === 'none') return undefined;
    return admit(request, response, method);
  };
}

/** By path and content type, as the adapters decide it. */
function protocolOf({ url = '', headers }: Request, method: DescMethod): Protocol {
  const type = headers['content-type'] ?? '';
  if (!url.startsWith(`/${method.parent.typeName}/`)) return 'json';
  if (!type.startsWith('application/grpc')) return 'connect';
  return type.startsWith('application/grpc-web') ? 'grpc-web' : 'grpc';
}

/** The caller's deadline in milliseconds; undefined: none, or one that its adapter refuses. */
function deadlineOf({ headers }: Request): number | undefined {
  const grpc = parseGrpcTimeout(textOf(headers['grpc-timeout']), longestTimerMs);
  return grpc.timeoutMs ?? parseConnectTimeout(textOf(headers['connect-timeout-ms']), longestTimerMs).timeoutMs;
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
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
