import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { createHttpClient, inParallel } from '../contenders/http.ts';
import { oncePerChannel } from '../contenders/json.ts';
import type { Work } from '../workload.ts';
import { type Peer, type PeerServer, peerConnections, programOf, startServer, stopServer } from './peer.ts';

type Broker = 'postgres' | 'memory';

const ports = { postgres: 18000, memory: 18001 } as const;

export const centrifugoPostgres: Peer = {
  name: 'Centrifugo, PostgreSQL broker',
  words:
    'Centrifugo 6.9 with its PostgreSQL broker (experimental) on the same server, committed: numbered from 1 without gaps per channel, in a history with a size and a lifetime. A batch is one request of publish commands, one after the other, which keeps their order; each is a transaction of its own. No once-only key here: its idempotency keys last five minutes.',
  start: async (databaseUrl) => await start('postgres', databaseUrl),
  open,
};

export const centrifugoMemory: Peer = {
  name: 'Centrifugo, memory broker',
  words:
    'The same with its default broker and no history: it answers when the message is on its way to the subscribers connected now, of which there are none. Nothing is numbered or kept.',
  start: async () => await start('memory', ''),
  open,
};

async function start(broker: Broker, databaseUrl: string): Promise<PeerServer> {
  const program = programOf('CENTRIFUGO');
  const port = ports[broker];
  const dir = await mkdtemp(join(tmpdir(), 'sendbatch-centrifugo-'));
  const postgres = { dsn: databaseUrl, pool_size: peerConnections, binary_data: true };
  const kept = { history_size: 1_000_000, history_ttl: '24h' };
  const config = {
    http_server: { address: '127.0.0.1', port },
    http_api: { insecure: true },
    log: { level: 'error' },
    ...(broker === 'postgres' && {
      broker: { enabled: true, type: broker, postgres },
      channel: { without_namespace: kept },
    }),
  };
  await writeFile(join(dir, 'config.json'), JSON.stringify(config));
  const child = await startServer(program, ['-c', join(dir, 'config.json')], port);
  const url = new URL(`http://127.0.0.1:${port}`);
  if (broker === 'postgres') url.searchParams.set('database', databaseUrl);
  return {
    url: url.href,
    pid: child.pid ?? 0,
    async stop() {
      await stopServer(child);
      await rm(dir, { recursive: true });
    },
  };
}

async function open(url: string, batches: readonly (readonly Work[])[]) {
  const client = createHttpClient(url);
  const publish = ({ channelId, payload }: Work) => ({
    channel: channelId,
    b64data: Buffer.from(payload).toString('base64'),
  });
  const requestOf = (batch: readonly Work[]) =>
    batch.length === 1 && batch[0] !== undefined
      ? client.requestOf('/api/publish', publish(batch[0]))
      : client.requestOf('/api/batch', { commands: batch.map((work) => ({ publish: publish(work) })) });
  const requests = batches.map(requestOf);
  const send = async (request: Buffer, messages: number) => {
    const answer = await client.ask(request);
    if (answer.includes('"error"')) throw new Error(answer.slice(0, 300));
    const done = answer.split(messages === 1 ? '"result":' : '"publish":').length - 1;
    if (done !== messages) throw new Error(`${done} of ${messages} were answered: ${answer.slice(0, 300)}`);
  };
  // One by one: it ends a request after 10 s, which a hundred new channels can take on a busy
  // machine.
  await inParallel(oncePerChannel(batches, false).flat(), async (work) => send(requestOf([work]), 1));
  const database = new URL(url).searchParams.get('database');
  return {
    async send(index: number) {
      const request = requests[index];
      if (request === undefined) throw new Error(`no batch ${index}`);
      await send(request, batches[index]?.length ?? 0);
    },
    ...(database !== null && { count: async () => await countIn(database) }),
    async close() {
      client.close();
    },
  };
}

async function countIn(database: string): Promise<number> {
  const connection = new pg.Client({ connectionString: database });
  await connection.connect();
  const { rows } = await connection.query<{ count: string }>('select count(*) from cf_binary_stream');
  await connection.end();
  return Number(rows[0]?.count);
}
