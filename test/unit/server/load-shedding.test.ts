import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import http2 from 'node:http2';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { MessageService } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { overloaded, startAdmissionController } from '../../../src/overload/admission-controller.ts';
import { calmCalls } from '../../../src/overload/concurrency-limit.ts';
import { toConnectError } from '../../../src/rpc/error-mapping.ts';
import { isGone, RequestContext, type Response } from '../../../src/rpc/request-context.ts';
import { earlyAnswers } from '../../../src/server/early-answer.ts';
import { createLoadShedding } from '../../../src/server/load-shedding.ts';
import { listen } from '../../../src/server/port.ts';

/** More than are admitted while none ends. */
const uploads = 2 * calmCalls;
/** Fewer than a connection may have streams. */
const uploadsPerSession = 200;

for (const protocol of ['HTTP/1.1', 'HTTP/2'] as const)
  test(`calls whose callers have disconnected do not count for load shedding over ${protocol}`, async () => {
    const overload = startAdmissionController({ waitMs: 200, onShed: () => {} });
    const loadShedding = createLoadShedding(overload);
    const came: { context: RequestContext; response: Response }[] = [];
    const all = Promise.withResolvers<void>();
    const listener = await listen({
      host: '127.0.0.1',
      port: 0,
      handler(request, response) {
        request.on('error', () => {});
        const { sendBatch } = MessageService.method;
        const context = new RequestContext(request, { protocol: 'grpc', method: sendBatch, route: undefined });
        assert.equal(loadShedding(context, response), false);
        came.push({ context, response });
        if (came.length === uploads) all.resolve();
      },
    });
    try {
      const leave = protocol === 'HTTP/2' ? uploadHttp2(listener.url) : uploadHttp1(listener.port);
      await all.promise;
      assert.ok(came.every(({ response }) => !isGone(response)));
      const left = Promise.all(came.map(({ response }) => once(response, 'close')));
      leave();
      await left;
      for (const { context, response } of came) {
        assert.ok(isGone(response));
        assert.throws(() => context.bodyComplete(), /disconnected/);
      }
      overload.stored(1);
      const since = performance.now();
      while (performance.now() - since < 1500) {
        const ended = overload.admit('send')?.();
        assert.ok(ended !== undefined, 'a single call is refused');
        await delay(20);
        ended();
      }
    } finally {
      overload.stop();
      await listener.close(0);
    }
  });

test('a refusal has the delay until a retry once, in the form of each protocol', () => {
  const { grpc, stream, connect, events, json } = earlyAnswers(toConnectError(overloaded()));
  assert.equal(grpc.headers['grpc-retry-pushback-ms'], '1000');
  assert.match(Buffer.from(stream.body ?? '').toString(), /"metadata":\{"retry-after":\["1"\]\}/);
  for (const { headers } of [connect, events, json]) assert.equal(headers['retry-after'], '1');
});

function uploadHttp1(port: number): () => void {
  const requests = Array.from({ length: uploads }, () => {
    const request = httpRequest({ port, method: 'POST', headers: { 'content-length': 9 } });
    request.on('error', () => {}).write('part');
    return request;
  });
  return () => {
    for (const request of requests) request.destroy();
  };
}

function uploadHttp2(url: string): () => void {
  const sessions = Array.from({ length: Math.ceil(uploads / uploadsPerSession) }, () => http2.connect(url));
  for (const session of sessions) session.on('error', () => {});
  for (let index = 0; index < uploads; index++)
    sessions[Math.floor(index / uploadsPerSession)]
      ?.request({ ':method': 'POST' })
      .on('error', () => {})
      .write('part');
  return () => {
    for (const session of sessions) session.destroy();
  };
}
