import { jsonOf, load, type Peer, peerConnections } from './peer.ts';

interface Boss {
  start(): Promise<unknown>;
  createQueue(name: string): Promise<void>;
  insert(name: string, jobs: readonly { data: object }[]): Promise<unknown>;
  getDb(): { executeSql(text: string, values: unknown[]): Promise<{ rows: { count: string }[] }> };
  stop(options: object): Promise<void>;
  on(event: 'error', listener: () => void): void;
}
interface Module {
  PgBoss: new (options: object) => Boss;
}

const queue = 'bench';

export const pgBoss: Peer = {
  name: 'pg-boss',
  words:
    'PostgreSQL, committed. A batch is one INSERT of jobs. No channels, no sequence, no once-only key, and no result per message except an id.',
  async start(url) {
    const boss = await open(url);
    await boss.createQueue(queue);
    await boss.stop({ graceful: false });
    return { url, stop: async () => {} };
  },
  async open(url, batches) {
    const boss = await open(url);
    const jobs = batches.map((batch) => batch.map((work) => ({ data: jsonOf(work) })));
    return {
      async send(index) {
        await boss.insert(queue, jobs[index] ?? []);
      },
      async count() {
        const { rows } = await boss.getDb().executeSql('select count(*) from pgboss.job where name = $1', [queue]);
        return Number(rows[0]?.count);
      },
      close: () => boss.stop({ graceful: false }),
    };
  },
};

async function open(url: string): Promise<Boss> {
  const { PgBoss } = await load<Module>('pg-boss');
  const boss = new PgBoss({ connectionString: url, max: peerConnections, supervise: false, schedule: false });
  boss.on('error', () => {});
  await boss.start();
  return boss;
}
