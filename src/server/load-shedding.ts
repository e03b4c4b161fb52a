import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { type AdmissionController, type Load, overloaded } from '../overload/admission-controller.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { scopeOf } from '../rpc/interceptors/authenticate.ts';
import { isGone, type Request, type Response } from '../rpc/request-context.ts';
import { markRefused } from './body-budget.ts';
import { answerEarly, earlyAnswers } from './early-answer.ts';

/** Set while a body is not whole yet. A WeakMap with an entry per call would cost each collection. */
const coming = Symbol('counts the call');

interface Coming {
  [coming]?: (() => void) | undefined;
}

/** Called when the body of a call is whole and its caller known: it counts from now on. Throws when there are too many such calls. */
export function bodyIsWhole(request: Request & Coming): void {
  const begin = request[coming];
  request[coming] = undefined;
  begin?.();
}

/** Answers a request that is too much; false: it goes on. */
export type LoadShedding = (request: Request, response: Response) => boolean;

/**
 * Refuses calls before anything of them is parsed, when more comes than is done in good time: what sends and reads messages, never what operates the service (health,
 * channels, rules). The answers are made once: a refusal has to be cheap, or refusing is the overload.
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
        markRefused(request);
        throw toConnectError(overloaded());
      };
    return false;
  };
}

/** What a call is a load of; undefined: it operates the service, and is never refused. */
function loadOf(method: DescMethod): Load | undefined {
  if (method.parent === BatchService) return method === BatchService.method.cancelBatch ? undefined : 'other';
  const scope = scopeOf(method);
  return scope === 'send' ? 'send' : scope === 'read' ? 'other' : undefined;
}
