import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { load, type Peer, startServer, stopServer } from './peer.ts';

interface Module {
  Redis: new (
    port: number,
  ) => {
    pipeline(): { call(...command: (string | Buffer)[]): void; exec(): Promise<[Error | null, unknown][] | null> };
    eval(script: string, keys: number): Promise<unknown>;
    quit(): Promise<unknown>;
  };
}

const port = 16379;
const countAll = `local n = 0 for _, key in ipairs(redis.call('keys', '*')) do n = n + redis.call('xlen', key) end return n`;

export const redis: Peer = {
  name: 'Redis Streams',
  words:
    'Redis with appendfsync always: on disk before it answers; everything is in memory too. A batch is a pipeline of XADDs, one stream per channel; ids are times, not a sequence without gaps. No once-only key before Redis 8.6.',
  async start() {
    const dir = await mkdtemp(join(tmpdir(), 'sendbatch-redis-'));
    const args = ['--port', String(port), '--dir', dir, '--appendonly', 'yes', '--appendfsync', 'always', '--save', ''];
    const child = await startServer('redis-server', [...args, '--bind', '127.0.0.1'], port);
    return {
      url: `redis://127.0.0.1:${port}`,
      async stop() {
        await stopServer(child);
        await rm(dir, { recursive: true });
      },
    };
  },
  async open(_, batches) {
    const { Redis } = await load<Module>('ioredis');
    const client = new Redis(port);
    return {
      async send(index) {
        const pipeline = client.pipeline();
        for (const { channelId, fromUid, clientMsgNo, payload } of batches[index] ?? [])
          pipeline.call('xadd', channelId, '*', 'from', fromUid, 'key', clientMsgNo, 'payload', Buffer.from(payload));
        for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error;
      },
      count: async () => Number(await client.eval(countAll, 0)),
      async close() {
        await client.quit();
      },
    };
  },
};
