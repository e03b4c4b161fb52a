import assert from 'node:assert/strict';
import { setPriority } from 'node:os';
import { after, before, describe, test } from 'node:test';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { createDatabase } from '../support/database.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { assertSound } from '../support/verify.ts';

/** Calls in flight that must not be refused: as many as an HTTP/2 connection has streams. */
const callers = 250;
/**
 * Beside the other test files this niceness leaves the service a part of a core. `overload-closed`
 * of bench/ has every combination, beside busy loops.
 */
const niceness = 10;
const knownChannels = 50;

interface Loop {
  readonly client: 'gRPC, connect-node' | 'JSON route';
  readonly batchMessages: 1 | 100 | 1000;
  readonly channels: 'known' | 'new' | 'one';
  /**
   * Whether the service is started for this loop, which then sends its first calls. Always for
   * JSON: connections of an earlier loop may be closed as idle at the moment of their next call.
   */
  readonly isCold: boolean;
}

const loops: readonly Loop[] = [
  { client: 'gRPC, connect-node', batchMessages: 1, channels: 'known', isCold: true },
  { client: 'JSON route', batchMessages: 1, channels: 'new', isCold: true },
  { client: 'gRPC, connect-node', batchMessages: 100, channels: 'new', isCold: false },
  { client: 'JSON route', batchMessages: 100, channels: 'known', isCold: true },
  { client: 'gRPC, connect-node', batchMessages: 1000, channels: 'one', isCold: false },
];

/** Calls of each caller, the next when one is answered: enough to see refusals after the start. */
const callsOfCaller = { 1: 4, 100: 1, 1000: 1 } as const;

describe('closed loops of 250 callers on a slow machine', () => {
  let service: ServiceProcess;
  let clients: ProtocolClient[] = [];
  let database: Awaited<ReturnType<typeof createDatabase>>;
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
    await start();
  });
  after(async () => {
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
