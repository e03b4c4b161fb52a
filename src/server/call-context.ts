import type { DescMethod } from '@bufbuild/protobuf';
import { createValues, type RequestContext, textOf } from '../rpc/request-context.ts';
import { type CallController, UnaryContext } from '../transcode/index.ts';

/** A call of one of the short paths (grpc-unary.ts, server-streams.ts). */
export interface ShortCall {
  readonly context: RequestContext;
  readonly protocolName: string;
  readonly timeoutMs: number | undefined;
}

/** What the interceptors and the implementation of a call get. */
export function createCallContext(
  method: DescMethod,
  { context, protocolName, timeoutMs }: ShortCall,
  controller: CallController,
): UnaryContext {
  const { request } = context;
  const endsAt = timeoutMs === undefined ? undefined : performance.now() + timeoutMs;
  return new UnaryContext({
    method,
    protocolName,
    requestMethod: 'POST',
    url: `http://${request.headers[':authority'] ?? request.headers.host ?? 'localhost'}${request.url}`,
    controller,
    timeoutMs: () => (endsAt === undefined ? undefined : Math.ceil(endsAt - performance.now())),
    requestHeader: context.header,
    values: createValues(context),
  });
}

/** Whether the caller lists an encoding in a header. */
export function acceptsEncoding({ request }: RequestContext, header: string, encoding: string): boolean {
  return (
    textOf(request.headers[header])
      ?.split(/\s*,\s*/)
      .includes(encoding) === true
  );
}
