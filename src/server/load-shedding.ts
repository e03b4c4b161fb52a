import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { type AdmissionController, type Load, overloaded } from '../overload/admission-controller.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { scopeOf } from '../rpc/interceptors/authenticate.ts';
import { isGone, type Request, type Response } from '../rpc/request-context.ts';
import { markEvicted } from './body-budget.ts';
import { answerEarly, earlyAnswers } from './early-answer.ts';

/**
 * Holds the function that counts a call, until its body is complete. A WeakMap entry per call would
 * slow each garbage collection.
 */
const coming = Symbol('counts the call');

interface Coming {
  [coming]?: (() => void) | undefined;
}

/**
 * Counts a call whose body is complete and whose caller is known. Throws when there are too many.
 */
export function bodyIsWhole(request: Request & Coming): void {
  const begin = request[coming];
  request[coming] = undefined;
  begin?.();
}

/** Refuses and answers a call under overload; false: the call continues. */
export type LoadShedding = (request: Request, response: Response) => boolean;

/**
 * Refuses calls under overload before anything of them is parsed: calls that send or read messages,
 * never those that operate the service (health, channels, rules). The answers are rendered once,
 * because refusing must stay cheap.
 */
export function createLoadShedding(
  overload: AdmissionController,
  methodOf: (request: Request) => DescMethod | undefined,
): LoadShedding {
  const answers = earlyAnswers(toConnectError(overloaded()));
  return (request, response) => {
    const method = methodOf(request);
    const kind = method === undefined ? undefined : loadOf(method);
    if (method === undefined || kind === undefined) return false;
    const begin = overload.admit(kind);
    if (begin === undefined) {
      answerEarly(request, response, method, answers);
      return true;
    }
    if (kind === 'send')
      (request as Request & Coming)[coming] = () => {
        if (isGone(response)) throw new ConnectError('the caller disconnected', Code.Canceled);
        const ended = begin();
        if (ended !== undefined) return void response.once('close', ended);
        markEvicted(request);
        throw toConnectError(overloaded());
      };
    return false;
  };
}

/** The load class of a call; undefined: it operates the service and is never refused. */
function loadOf(method: DescMethod): Load | undefined {
  if (method.parent === BatchService) return method === BatchService.method.cancelBatch ? undefined : 'other';
  const scope = scopeOf(method);
  return scope === 'send' ? 'send' : scope === 'read' ? 'other' : undefined;
}
