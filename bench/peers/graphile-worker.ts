import pg from 'pg';
import { jsonOf, load, type Peer, peerConnections } from './peer.ts';

interface Module {
  makeWorkerUtils(options: { pgPool: pg.Pool }): Promise<{
    migrate(): Promise<void>;
    addJobs(jobs: readonly { identifier: string; payload: object; queueName: string }[]): Promise<unknown>;
    release(): Promise<void>;
  }>;
}

export const graphileWorker: Peer = {
  name: 'graphile-worker',
  words:
    'PostgreSQL, committed. A batch is one call of its SQL function add_jobs; a channel is a named queue, which is a row of its own. No sequence that a caller sees.',
  async start(url) {
    const { makeWorkerUtils } = await load<Module>('graphile-worker');
    const pgPool = new pg.Pool({ connectionString: url }).on('error', () => {});
    const utils = await makeWorkerUtils({ pgPool });
    await utils.migrate();
    await utils.release();
    await pgPool.end();
    return { url, stop: async () => {} };
  },
  async open(url, batches) {
    const { makeWorkerUtils } = await load<Module>('graphile-worker');
    const pgPool = new pg.Pool({ connectionString: url, max: peerConnections }).on('error', () => {});
    const utils = await makeWorkerUtils({ pgPool });
    const jobs = batches.map((batch) =>
      batch.map((work) => ({ identifier: 'bench', payload: jsonOf(work), queueName: work.channelId })),
    );
    return {
      async send(index) {
        await utils.addJobs(jobs[index] ?? []);
      },
      async count() {
        const { rows } = await pgPool.query<{ count: string }>('select count(*) from graphile_worker._private_jobs');
        return Number(rows[0]?.count);
      },
      async close() {
        await utils.release();
        await pgPool.end();
      },
    };
  },
};
