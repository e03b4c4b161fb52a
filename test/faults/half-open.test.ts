import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type FaultProxy, openFaultProxy } from '../support/fault-proxy.ts';
import { said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { assertBusy, clientOf, draftTo, timed, type Watch, watch } from '../support/watch.ts';

const statementTimeoutMs = 500;
/**
 * Half of it is for attempts: the statement's timeout, as long again for its answer, and once more
 * for a second connection. The rest covers a stalled machine.
 */
const requestTimeoutMs = 12_000;

describe('database connections that fail silently', () => {
  let direct: TestService;
  let proxy: FaultProxy;
  let service: TestService;
  let watching: Watch;
  before(async () => {
    // This instance sweeps once a minute, so the other one does the sweeping through the proxy.
    direct = await startService();
    proxy = await openFaultProxy(direct.databaseUrl);
    service = await startService({
      databaseUrl: proxy.url,
      statementTimeoutMs,
      lockTimeoutMs: 500,
      requestTimeoutMs,
      sweepIntervalMs: 200,
    });
    watching = watch(service, direct, direct.databaseUrl);
    await watching.assertWell();
  });
  after(async () => {
    watching.stop();
    await service.stop();
    await proxy.close();
    await direct.stop();
  });

  const hidden: [string, (channel: string) => void][] = [
    ['a commit that never arrives', () => proxy.stallNextCommit('before')],
    ['a commit whose answer never comes', () => proxy.stallNextCommit('after')],
    ['connections that a firewall has forgotten', () => proxy.forget()],
    ['connections that are cut', () => proxy.cut()],
    ['a long way: 100 ms each way', () => proxy.delay(100)],
  ];
  for (const [what, begin] of hidden) {
    test(`${what}: the caller waits and gets a plain success`, async () => {
      for (const name of ['gRPC, grpc-js', 'JSON route']) {
        const channel = `${what} ${name}`;
        const client = clientOf(service, name);
        assert.equal(said(await client.send({ messages: [draftTo(channel, '1')] })), 'ok');
        begin(channel);
        const { result, ms } = await timed(client.send({ messages: [draftTo(channel, '2'), draftTo(channel, '3')] }));
        assert.equal(said(result), 'ok ok', `${name}: ${JSON.stringify(result)}`);
        assert.ok(ms < requestTimeoutMs, `${ms} ms`);
        proxy.resume();
        client.close();
      }
      await watching.assertWell();
      await assertSound(direct.databaseUrl);
    });
  }

  const said503: [string, () => void, stored: boolean][] = [
    ['a server that is reached and says nothing', () => proxy.stall('both'), false],
    ['a server whose answers are lost', () => proxy.stall('to-client'), true],
    [
      'a server that takes no connection',
      () => {
        proxy.drop();
        proxy.cut();
      },
      false,
    ],
  ];
  for (const [what, begin, mayBeStored] of said503) {
    test(`${what} is STORE_BUSY before the deadline, and the service recovers without a restart`, async () => {
      const grpc = clientOf(service, 'gRPC, grpc-js');
      const json = clientOf(service, 'JSON route');
      assert.equal(said(await grpc.send({ messages: [draftTo(what, '0')] })), 'ok');
      begin();
      const { result, ms } = await timed(
        Promise.all([
          grpc.send({ messages: [draftTo(what, '1')] }),
          json.send({ messages: [draftTo(what, '2')] }),
          fetch(`${service.url}/v1/channels/2/${encodeURIComponent(what)}/messages`),
        ]),
      );
      const [byGrpc, byJson, read] = result;
      assertBusy(byGrpc);
      assertBusy(byJson);
      assert.deepEqual([read.status, read.headers.get('retry-after')], [503, '1']);
      assert.ok(ms < requestTimeoutMs, `${ms} ms`);
      proxy.resume();
      await watching.assertWell();
      const again = await grpc.send({ messages: [draftTo(what, '1'), draftTo(what, '2')] });
      assert.match(said(again), mayBeStored ? /^(ok|again) (ok|again)$/ : /^ok ok$/);
      const keys = (await readAll(direct.databaseUrl)).filter((row) => row.channel === what).map((row) => row.key);
      assert.deepEqual(keys.sort(), ['0', '1', '2']);
      await assertSound(direct.databaseUrl);
      grpc.close();
    });
  }

  test('a server that does not answer does not delay a stop', async () => {
    const stopping = await startService({ databaseUrl: proxy.url, statementTimeoutMs, shutdownGraceMs: 500 });
    await clientOf(stopping, 'JSON route').send({ messages: [draftTo('stopping', '1')] });
    proxy.stall('both');
    const { ms } = await timed(stopping.stop());
    proxy.resume();
    assert.ok(ms < 10_000, `${ms} ms`);
  });
});
