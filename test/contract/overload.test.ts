import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay, setImmediate } from 'node:timers/promises';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { calmCalls } from '../../src/overload/concurrency-limit.ts';
import { createDatabase, lockHeadsOf } from '../support/database.ts';
import { openFaultProxy } from '../support/fault-proxy.ts';
import { jsonCaller } from '../support/json.ts';
import { type Answer, openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { assertBusy, clientOf, draftTo, until } from '../support/watch.ts';

/** Longer than the pauses of a loaded machine. */
const patienceMs = 400;
/** Limit for delays of the event loop; the test blocks it for longer. */
const loopPatienceMs = 40;
const lone = { channel_id: 'lone', channel_type: 2, from_uid: 'u1', payload: 'eA==' };

describe('overload', () => {
  let service: TestService;
  let protocolClients: ProtocolClient[];
  before(async () => {
    service = await startService({
      lanes: 1,
      overloadWaitMs: patienceMs,
      lockTimeoutMs: 300_000,
      statementTimeoutMs: 300_000,
      // Admitted calls wait for the lock until the end of the test.
      requestTimeoutMs: 300_000,
    });
    protocolClients = openClients(service.url);
  });
  after(async () => {
    for (const protocolClient of protocolClients) protocolClient.close();
    await service.stop();
  });

  test('an overloaded store refuses sends as OVERLOADED on every protocol, finishes admitted ones and keeps serving reads', async () => {
    const protocolClient = clientOf(service, 'Connect, binary');
    assert.equal(said(await protocolClient.send({ messages: [draftTo('busy', 'first')] })), 'ok');
    const holder = new pg.Client({ connectionString: service.databaseUrl });
    holder.on('error', () => {});
    await holder.connect();
    await holder.query('begin');
    await lockHeadsOf(holder, ['busy']);
    const admitted: Promise<Answer>[] = [];
    // All wait for the lock: after a second without a finished call, few more than the calm ones
    // are admitted.
    const sendNext = () => {
      const sending = protocolClient.send({ messages: [draftTo('busy', String(admitted.length))] });
      admitted.push(sending);
      return sending;
    };
    while (admitted.length < calmCalls) void sendNext();
    await until('a call is refused', async () => {
      const soon = await Promise.race([sendNext(), delay(50)]);
      return soon !== undefined;
    });
    const sent = admitted.length;
    await until('every call is refused', async () => {
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, index) =>
          Promise.race([
            clientOf(service, 'JSON route').send({ messages: [draftTo('busy', `more ${index}`)] }),
            delay(200),
          ]),
        ),
      );
      return answers.every((answer) => answer !== undefined && 'refused' in answer);
    });
    const refusedKeys: string[] = [];
    // One call per second is admitted and waits: of three, the first answer is a refusal.
    const oneRefused = async (each: ProtocolClient, drafts: (key: string) => ReturnType<typeof draftTo>[]) => {
      const three = Array.from({ length: 3 }, async () => {
        const messages = drafts(`${each.name} ${admitted.length}`);
        const sending = each.send({ messages });
        admitted.push(sending);
        return { answer: await sending, messages };
      });
      const { answer, messages } = await Promise.race(three);
      assertBusy(answer, ['OVERLOADED']);
      refusedKeys.push(...messages.map((message) => message.clientMsgNo));
    };
    for (const each of protocolClients) await oneRefused(each, (key) => [draftTo('busy', key)]);
    // The body of a refused call is drained, so the connection stays usable.
    const large = (key: string) =>
      Array.from({ length: 300 }, (_, index) => ({
        ...draftTo('busy', `${key} ${index}`),
        payload: Buffer.alloc(10_000),
      }));
    for (const each of protocolClients) for (let round = 0; round < 2; round++) await oneRefused(each, large);

    const call = jsonCaller(service.url);
    await until('reads are served', async () => (await call.get('/v1/channels/2/busy/messages')).status === 200);
    assert.equal((await call.get('/v1/moderation/rules')).status, 200);
    const rpc = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    assert.equal((await rpc.getServerInfo({})).limits?.batchMessages, 1000);

    await holder.query('rollback');
    await holder.end();
    const outcomes = (await Promise.all(admitted)).map((answer) => said(answer));
    assert.deepEqual(
      new Set(
        outcomes.map((outcome) =>
          outcome
            .split(' ', 2)
            .join(' ')
            .replace(/^ok ok$/, 'ok'),
        ),
      ),
      new Set(['ok', 'call: OVERLOADED']),
    );
    for (const each of protocolClients)
      await until(`sends are accepted again over ${each.name}`, async () =>
        /^(ok|again)$/.test(said(await each.send({ messages: [draftTo('busy', each.name)] }))),
      );
    const keys = new Set((await readAll(service.databaseUrl)).map((row) => row.key));
    assert.ok(!refusedKeys.some((key) => keys.has(key)), 'refused messages are not stored');
    for (const [index, outcome] of outcomes.slice(0, sent).entries())
      assert.equal(keys.has(String(index)), outcome === 'ok');
    await assertSound(service.databaseUrl);
  });

  test('a database with a long round trip is not an overload: only malformed calls are refused', async (context) => {
    const database = await createDatabase();
    const proxy = await openFaultProxy(database.url);
    const far = await startService({ databaseUrl: proxy.url, overloadWaitMs: patienceMs });
    context.after(async () => {
      await far.stop();
      await proxy.close();
      await database.drop();
    });
    const protocolClient = clientOf(far, 'Connect, binary');
    proxy.delay(300);
    assert.equal(said(await protocolClient.send({ messages: [draftTo('far', 'first')] })), 'ok');
    const crowd = async (run: number) => {
      const outcomes = new Set<string>();
      const end = performance.now() + 6000;
      const callers = Array.from({ length: 41 }, async (_, caller) => {
        for (let sends = 0; performance.now() < end; sends++) {
          const isMalformed = caller === 0;
          const messages = [draftTo(isMalformed ? '' : `far-${caller}`, `${run}-${caller}-${sends}`)];
          outcomes.add(said(await protocolClient.send({ messages })));
          if (isMalformed) await delay(100);
        }
      });
      const pauseMs = await longestPause(database.url, end);
      await Promise.all(callers);
      return { outcomes, pauseMs };
    };
    for (let run = 1; ; run++) {
      const { outcomes, pauseMs } = await crowd(run);
      // Retry after a long pause of the machine, which is a real overload.
      if (run < 5 && outcomes.has('call: OVERLOADED') && pauseMs > patienceMs / 4) continue;
      assert.deepEqual([...outcomes].sort(), ['call: INVALID_FIELD', 'ok'], `after a pause of ${pauseMs} ms`);
      break;
    }
  });

  test('more calls at once than end in time are refused, none of which is stored', async () => {
    const service = await startService({ overloadWaitMs: loopPatienceMs });
    // A connection has at most 250 streams.
    const senders = Array.from({ length: 4 }, () => clientOf(service, 'gRPC, connect-node'));
    const stored: string[] = [];
    const refused: string[] = [];
    await until('some are refused, some stored', async () => {
      const round = stored.length + refused.length;
      await Promise.all(
        Array.from({ length: 800 }, async (_, index) => {
          const key = `${round}-${index}`;
          const messages = Array.from({ length: 10 }, (_, at) => draftTo(`crowd-${at}`, `${key}-${at}`));
          const answer = said(await (senders[index % senders.length] as ProtocolClient).send({ messages }));
          if (answer === 'call: OVERLOADED') refused.push(key);
          else {
            assert.deepEqual(new Set(answer.split(' ')), new Set(['ok']));
            stored.push(key);
          }
        }),
      );
      return refused.length > 0 && stored.length > 0;
    });
    const rows = await readAll(service.databaseUrl);
    const keys = new Set(rows.map((row) => row.key.slice(0, row.key.lastIndexOf('-'))));
    assert.deepEqual([...keys].sort(), stored.sort());
    assert.equal(rows.length, 10 * stored.length);
    await assertSound(service.databaseUrl);
    await service.stop();
  });

  test('an overloaded process also refuses reads and streams, each in the format of its protocol', async () => {
    // Enough connections for all readers, so that only the event loop is overloaded.
    const service = await startService({ overloadWaitMs: loopPatienceMs, poolSize: 90 });
    // Blocks the event loop without using CPU, which delays requests and answers.
    let blocking = true;
    const never = new Int32Array(new SharedArrayBuffer(4));
    const blocked = (async () => {
      while (blocking) {
        Atomics.wait(never, 0, 0, 3 * loopPatienceMs);
        await setImmediate();
      }
    })();
    const call = jsonCaller(service.url);
    const list = () => call.get('/v1/channels/2/busy/messages');
    // Sequential calls are never an overload, however busy the process is.
    for (let alone = 0; alone < 5; alone++) {
      assert.equal((await list()).status, 200);
      assert.equal((await call.post('/message/send', { ...lone, client_msg_no: String(alone) })).status, 200);
    }
    const crowd = Promise.all(
      Array.from({ length: 40 }, async () => {
        while (blocking) await list();
      }),
    );
    const refusals: [string, () => Promise<[string | undefined, number | undefined]>][] = [
      ...[
        createGrpcTransport({ baseUrl: service.url }),
        createGrpcWebTransport({ baseUrl: service.url, httpVersion: '1.1' }),
        createConnectTransport({ baseUrl: service.url, httpVersion: '1.1' }),
      ].flatMap((transport, index): [string, () => Promise<[string | undefined, number | undefined]>][] => {
        const rpc = createClient(MessageService, transport);
        const channel = { channelId: 'busy', channelType: ChannelType.GROUP };
        return [
          [`ListMessages ${index}`, () => refusalOf(async () => void (await rpc.listMessages(channel)))],
          [
            `Subscribe ${index}`,
            () =>
              refusalOf(async () => {
                for await (const _ of rpc.subscribe({ channels: [channel] })) return;
              }),
          ],
        ];
      }),
      ...['messages', 'events'].map((what): [string, () => Promise<[string | undefined, number | undefined]>] => [
        `GET ${what}`,
        async () => {
          const abort = new AbortController();
          const response = await fetch(`${service.url}/v1/channels/2/busy/${what}`, { signal: abort.signal });
          if (response.status !== 503) {
            abort.abort();
            return [undefined, undefined];
          }
          const { error } = (await response.json()) as { error: { details: { reason?: string }[] } };
          return [error.details[0]?.reason, Number(response.headers.get('retry-after'))];
        },
      ]),
    ];
    for (const [what, attempt] of refusals) {
      let last: readonly unknown[] = [];
      await until(what, async () => {
        last = await attempt();
        return last[0] !== undefined;
      });
      assert.deepEqual(last, ['OVERLOADED', 1], what);
    }
    assert.equal((await jsonCaller(service.url).get('/v1/moderation/rules')).status, 200);
    blocking = false;
    await blocked;
    await crowd;
    await until('reads are served again', async () => (await list()).status === 200);
    await service.stop();
  });
});

/** Returns the longest pause in ms of this process or the local database until `end`. */
async function longestPause(url: string, end: number): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  let longest = 0;
  while (performance.now() < end) {
    const since = performance.now();
    await delay(10);
    await client.query('select');
    longest = Math.max(longest, performance.now() - since - 10);
  }
  await client.end();
  return longest;
}

/** Returns reason and retry delay in seconds of a refused call, or undefined for both. */
async function refusalOf(work: () => Promise<void>): Promise<[string | undefined, number | undefined]> {
  try {
    await work();
    return [undefined, undefined];
  } catch (error) {
    const failure = ConnectError.from(error);
    assert.equal(failure.code, Code.Unavailable, failure.message);
    const [info] = failure.findDetails(ErrorInfoSchema);
    const [retry] = failure.findDetails(RetryInfoSchema);
    return [info?.reason, Number(retry?.retryDelay?.seconds)];
  }
}
