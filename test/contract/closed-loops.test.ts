import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism, setPriority } from 'node:os';
import { after, before, describe, test } from 'node:test';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { createDatabase } from '../support/database.ts';
import { endWithFile } from '../support/file-end.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { assertSound } from '../support/verify.ts';

/** Calls in flight that must not be refused: as many as an HTTP/2 connection has streams. */
const callers = 250;
/**
 * Beside busy loops this niceness leaves the service about a quarter of a core. Half of the cores
 * stay without a loop, for the tests that run at the same time.
 */
const niceness = 5;
const busyLoops = Math.ceil(availableParallelism() / 2);
/** The loops end by themselves after this time, should this process be killed. */
const busyMs = 10 * 60_000;
const knownChannels = 50;

interface Loop {
  readonly client: 'gRPC, connect-node' | 'JSON route';
  readonly batchMessages: 1 | 100 | 1000;
  readonly channels: 'known' | 'new' | 'one';
  /**
   * Whether the service is started for this loop, which then sends its first calls. Always for JSON:
   * connections of an earlier loop may be closed as idle at the moment of their next call.
   */
  readonly isCold: boolean;
}

const loops: readonly Loop[] = [
  { client: 'gRPC, connect-node', batchMessages: 1, channels: 'known', isCold: true },
  { client: 'gRPC, connect-node', batchMessages: 1, channels: 'new', isCold: false },
  { client: 'JSON route', batchMessages: 1, channels: 'known', isCold: true },
  { client: 'JSON route', batchMessages: 1, channels: 'new', isCold: true },
  { client: 'gRPC, connect-node', batchMessages: 100, channels: 'known', isCold: false },
  { client: 'gRPC, connect-node', batchMessages: 100, channels: 'new', isCold: false },
  { client: 'JSON route', batchMessages: 100, channels: 'new', isCold: true },
  { client: 'JSON route', batchMessages: 100, channels: 'known', isCold: true },
  { client: 'gRPC, connect-node', batchMessages: 1000, channels: 'one', isCold: false },
  { client: 'JSON route', batchMessages: 1000, channels: 'known', isCold: true },
];

/** Calls of each caller, the next when one is answered: enough to see refusals after the start. */
const callsOfCaller = { 1: 4, 100: 2, 1000: 1 } as const;

describe('closed loops of 250 callers on a slow machine', () => {
  let service: ServiceProcess;
  let clients: ProtocolClient[] = [];
  let database: Awaited<ReturnType<typeof createDatabase>>;
  const others: ChildProcess[] = [];
  const start = async () => {
    service = await spawnService({
      DATABASE_URL: database.url,
      // The default; test/support has another one for the other tests.
      OVERLOAD_WAIT: '1000',
      // 250 batches of 1,000 take longer than 30 s on a machine that is slow enough.
      REQUEST_TIMEOUT: '280000',
      STATEMENT_TIMEOUT: '280000',
      LOCK_TIMEOUT: '280000',
    });
    setPriority(service.child.pid ?? 0, niceness);
    clients = openClients(service.url);
  };
  const stop = async () => {
    for (const client of clients) client.close();
    await service.end('SIGTERM');
  };
  before(async () => {
    database = await createDatabase();
    const code = `const end = Date.now() + ${busyMs}; while (Date.now() < end);`;
    for (let index = 0; index < busyLoops; index++) {
      const other = spawn(process.execPath, ['-e', code], { stdio: 'ignore' });
      other.once(
        'exit',
        endWithFile(() => other.kill('SIGKILL')),
      );
      others.push(other);
    }
    await start();
  });
  after(async () => {
    for (const other of others) other.kill('SIGKILL');
    await Promise.all(others.map(async (other) => other.exitCode ?? other.signalCode ?? (await once(other, 'exit'))));
    await stop();
    await assertSound(database.url);
    await database.drop();
  });

  for (const [index, { client: name, batchMessages, channels, isCold }] of loops.entries())
    test(`no call is refused: ${name}, batches of ${batchMessages}, ${channels} channels${isCold ? ', cold start' : ''}`, async () => {
      if (isCold && index > 0) {
        await stop();
        await start();
      }
      const client = clients.find((each) => each.name === name);
      assert.ok(client);
      const outcomes = new Map<string, number>();
      const send = async (key: string) => {
        const messages = Array.from({ length: batchMessages }, (_, at) => ({
          channelId: { known: `known-${at % knownChannels}`, new: `${key}-${at}`, one: 'one' }[channels],
          channelType: ChannelType.GROUP,
          fromUid: 'u1',
          clientMsgNo: `${key}-${at}`,
          payload: Buffer.from('x'),
        }));
        const answer = await client.send({ messages });
        const outcome = 'refused' in answer ? said(answer) : [...new Set(said(answer).split(' '))].join(' ');
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      };
      // A failed caller must not leave the others in flight beside the next loop.
      const ended = await Promise.allSettled(
        Array.from({ length: callers }, async (_, caller) => {
          for (let call = 0; call < callsOfCaller[batchMessages]; call++) await send(`${index}-${caller}-${call}`);
        }),
      );
      for (const each of ended) if (each.status === 'rejected') throw each.reason;
      assert.deepEqual([...outcomes], [['ok', callers * callsOfCaller[batchMessages]]]);
    });
});
