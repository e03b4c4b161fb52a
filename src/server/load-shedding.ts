import type { DescMethod } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { type AdmissionController, type Load, overloaded } from '../overload/admission-controller.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import { scopeOf } from '../rpc/interceptors/authenticate.ts';
import { isGone, type RequestContext, type Response } from '../rpc/request-context.ts';
import { answerEarly, earlyAnswers } from './early-answer.ts';

/** Refuses and answers a call under overload; false: the call continues. */
export type LoadShedding = (context: RequestContext, response: Response) => boolean;

/**
 * Refuses calls under overload before anything of them is parsed: calls that send or read messages,
 * never those that operate the service (health, channels, rules). The answers are rendered once,
 * because refusing must stay cheap.
 */
export function createLoadShedding(overload: AdmissionController): LoadShedding {
  const answers = earlyAnswers(toConnectError(overloaded()));
  return (context, response) => {
    const load = context.method === undefined ? undefined : loadOf(context.method);
    if (load === undefined) return false;
    const begin = overload.admit(load);
    if (begin === undefined) {
      answerEarly(context, response, answers);
      return true;
    }
    if (load === 'send')
      context.onBodyComplete = () => {
        if (isGone(response)) throw new ConnectError('the caller disconnected', Code.Canceled);
        const ended = begin();
        if (ended !== undefined) return void response.once('close', ended);
        context.isEvicted = true;
        throw toConnectError(overloaded());
      };
    return false;
  };
}

/** The load class of a call; undefined: it operates the service and is never refused. */
function loadOf(method: DescMethod): Load | undefined {
  const { cancelBatch, recallBatch } = BatchService.method;
  if (method.parent === BatchService) return method === cancelBatch || method === recallBatch ? undefined : 'other';
  const scope = scopeOf(method);
  return scope === 'send' ? 'send' : scope === 'read' ? 'other' : undefined;
}
