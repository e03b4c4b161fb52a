import { readFileSync } from 'node:fs';
import pg from 'pg';
import { startCluster } from '../test/support/cluster.ts';
import { migrateDatabase } from '../test/support/database.ts';
import { assertSound } from '../test/support/verify.ts';
import { channelCount, channelType } from './workload.ts';

/** The PostgreSQL of a bench run. */
export interface Machine {
  readonly url: string;
  readonly version: string;
  /** CPU seconds of the whole server so far: postmaster, backends, writers. */
  cpu(): number;
  /** No messages, all channels at 0, nothing left to write. */
  reset(): Promise<void>;
  /** Throws unless exactly this many messages are stored and, unless they were stored past the service, each once and every channel dense. */
  verify(messages: number, pastTheService: boolean): Promise<void>;
  stop(): Promise<void>;
}

/**
 * Settings beside the product's own: buffers and WAL large enough that no checkpoint falls into a run. Durability is PostgreSQL's own: fsync,
 * full_page_writes and synchronous_commit are on.
 */
const settings = { shared_buffers: '1GB', max_wal_size: '8GB', max_connections: '200' };

/** Starts the embedded PostgreSQL in a folder of its own, with the schema and all channels in it. */
export async function startMachine(): Promise<Machine> {
  const cluster = await startCluster({ durable: true, settings });
  const url = cluster.url('sendbatch');
  await migrateDatabase(url);
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  // Channel keys 1 to n in the order of the ranks, so that the raw loader knows them.
  await admin.query(
    `insert into sendbatch.channel (channel_id, channel_type, sequence) select 'channel-' || rank, $1, 0 from generate_series(0, $2) as rank`,
    [channelType, channelCount - 1],
  );
  await admin.query('insert into sendbatch.channel_head (channel_key) select channel_key from sendbatch.channel');
  const { rows } = await admin.query<{ version: string }>(`select current_setting('server_version') as version`);
  return {
    url,
    version: rows[0]?.version ?? '',
    cpu: () => cpuOfTree(cluster.pid),
    async reset() {
      await admin.query('truncate sendbatch.message');
      await admin.query('update sendbatch.channel_head set last_seq = 0 where last_seq <> 0');
      await admin.query('vacuum analyze sendbatch.channel_head');
      await admin.query('checkpoint');
    },
    async verify(messages, pastTheService) {
      const { rows } = await admin.query<{ count: string }>('select count(*) as count from sendbatch.message');
      if (Number(rows[0]?.count) !== messages)
        throw new Error(`${rows[0]?.count} messages are stored, not ${messages}`);
      if (!pastTheService) await assertSound(url);
    },
    async stop() {
      await admin.end();
      await cluster.stop();
    },
  };
}

const ticksPerSecond = 100;

/** User and system time of a process and its children, those that have ended and those that live. */
export function cpuOfTree(pid: number): number {
  const children = textOf(`/proc/${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);
  const fields = textOf(`/proc/${pid}/stat`).split(') ')[1]?.split(' ').slice(11, 15).map(Number) ?? [];
  const own = fields.reduce((sum, ticks) => sum + ticks, 0) / ticksPerSecond;
  return children.reduce((sum, child) => sum + cpuOfTree(child), own);
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
