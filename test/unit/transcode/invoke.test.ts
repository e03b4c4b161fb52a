import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { createContextValues, type HandlerContext, type Interceptor } from '@connectrpc/connect';
import { MessageService } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { createInvokeUnary, UnaryContext, type UnaryMethod } from '../../../src/transcode/index.ts';

const method = MessageService.method.getServerInfo;

function contextOf(): UnaryContext {
  return new UnaryContext({
    method,
    protocolName: 'test',
    requestMethod: 'POST',
    url: 'http://localhost/',
    controller: new AbortController(),
    timeoutMs: () => undefined,
    requestHeader: new Headers({ name: 'from the caller' }),
    values: createContextValues(),
  });
}

function methodWith(impl: (request: unknown, context: HandlerContext) => object): UnaryMethod {
  return { kind: 'unary', method, impl } as unknown as UnaryMethod;
}

const input = create(method.input);

test('interceptors run from the outside in around the implementation, for each call of one chain', async () => {
  const ran: string[] = [];
  const named =
    (name: string): Interceptor =>
    (next) =>
    async (request) => {
      ran.push(`${name} before`);
      const response = await next(request);
      ran.push(`${name} after`);
      return response;
    };
  const invoke = createInvokeUnary([named('outer'), named('inner')]);
  const call = methodWith(() => {
    ran.push('call');
    return { version: '1' };
  });
  const both = await Promise.all([invoke(call, contextOf(), input), invoke(call, contextOf(), input)]);
  assert.deepEqual(
    both.map((answer) => (answer as { version?: string }).version),
    ['1', '1'],
  );
  assert.deepEqual(ran.slice().sort(), [
    ...['call', 'call', 'inner after', 'inner after', 'inner before', 'inner before'],
    ...['outer after', 'outer after', 'outer before', 'outer before'],
  ]);
  assert.deepEqual(ran.slice(0, 3), ['outer before', 'inner before', 'call']);
});

test('trailers exist when the implementation or an interceptor has requested them', async () => {
  const untouched = contextOf();
  await createInvokeUnary([])(
    methodWith(() => ({})),
    untouched,
    input,
  );
  assert.equal(untouched.usedTrailer, undefined);
  const used = contextOf();
  const call = methodWith((_, context) => {
    context.responseTrailer.set('a', '1');
    return {};
  });
  const adding: Interceptor = (next) => async (request) => {
    const response = await next(request);
    response.trailer.set('b', '2');
    return response;
  };
  await createInvokeUnary([adding])(call, used, input);
  assert.deepEqual(
    [...(used.usedTrailer ?? [])],
    [
      ['a', '1'],
      ['b', '2'],
    ],
  );
});

test('headers that an interceptor replaces reach the implementation and the response', async () => {
  const replacing: Interceptor = (next) => async (request) => {
    const response = await next({ ...request, header: new Headers({ name: 'replaced' }) });
    return { ...response, header: new Headers({ answer: 'replaced' }), trailer: new Headers({ end: 'replaced' }) };
  };
  let seen: string | null = null;
  const context = contextOf();
  const call = methodWith((_, { requestHeader, responseHeader, responseTrailer }) => {
    seen = requestHeader.get('name');
    responseHeader.set('own', '1');
    responseTrailer.set('own', '1');
    return {};
  });
  await createInvokeUnary([replacing])(call, context, input);
  assert.equal(seen, 'replaced');
  assert.deepEqual([...context.responseHeader], [['answer', 'replaced']]);
  assert.deepEqual([...context.responseTrailer], [['end', 'replaced']]);
});

test('an error thrown by an implementation or an interceptor rejects the call', async () => {
  const failing = methodWith(() => {
    throw new Error('by the implementation');
  });
  await assert.rejects(createInvokeUnary([])(failing, contextOf(), input), /by the implementation/);
  const refusing: Interceptor = () => () => {
    throw new Error('by an interceptor');
  };
  await assert.rejects(createInvokeUnary([refusing])(failing, contextOf(), input), /by an interceptor/);
});
