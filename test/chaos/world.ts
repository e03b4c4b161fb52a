// The processes of a chaos run: a PostgreSQL of its own, and instances that each reach it through a
// fault proxy. Only processes started here are signalled, by their id.
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import pg from 'pg';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { killAll, quietLog, startCluster, temporaryFolder } from '../support/cluster.ts';
import { type FaultProxy, openFaultProxy } from '../support/fault-proxy.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';

/** A start on a busy machine, and the end of a process. */
const patienceMs = 120_000;

export interface Instance {
  readonly name: string;
  /** Stays the same over restarts. */
  readonly url: string;
  readonly proxy: FaultProxy;
  /** Process ids: the instance's first, then those of its workers. */
  pids(): number[];
  isUp(): boolean;
  /** Ends it, and starts it again `awayMs` later. Resolves with the exit code when it listens. */
  restart(signal: NodeJS.Signals, awayMs: number): Promise<number | null>;
  end(): Promise<void>;
}

export interface World {
  readonly instances: readonly Instance[];
  /** The database, reached without faults. */
  readonly url: string;
  /** Sets the wall clock of the instance `shifted` off by so many milliseconds. */
  shiftClock(offsetMs: number): void;
  /** Ends the database by a signal to its postmaster, or all its processes, and starts it again. */
  restartDatabase(signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL', awayMs: number): Promise<void>;
  close(): Promise<void>;
}

const settings = { max_connections: '150' };

export async function createWorld(): Promise<World> {
  const cluster = await startCluster({ durable: true, settings });
  let { pid } = cluster;
  const url = cluster.url('sendbatch');
  const folder = temporaryFolder('chaos');
  const clockFile = join(folder, 'clock');
  writeFileSync(clockFile, '0');
  const shifted = {
    CHAOS_CLOCK_FILE: clockFile,
    NODE_OPTIONS: `--import=${pathToFileURL(join(import.meta.dirname, 'shifted-clock.ts'))}`,
  };
  const instances: Instance[] = [];
  const close = async () => {
    for (const instance of instances) await instance.end();
    await cluster.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    // The first one migrates the schema.
    for (const [name, env] of [
      ['plain', {}],
      ['workers', { WORKERS: '2' }],
      ['shifted', shifted],
    ] as const)
      instances.push(await startInstance(name, url, env));
  } catch (error) {
    await close();
    throw error;
  }
  return {
    instances,
    url,
    shiftClock(offsetMs) {
      writeFileSync(clockFile, String(offsetMs));
      const [first] = instances.find(({ name, isUp }) => name === 'shifted' && isUp())?.pids() ?? [];
      if (first !== undefined) process.kill(first, 'SIGUSR2');
    },
    async restartDatabase(signal, awayMs) {
      if (signal === 'SIGKILL') killAll(pid);
      else process.kill(pid, signal);
      await gone([pid]);
      await delay(awayMs);
      ({ pid } = await startEmbedded({ dataDir: cluster.dataDir, explicit: true, log: quietLog, settings }));
    },
    close,
  };
}

async function startInstance(name: string, databaseUrl: string, env: Record<string, string>): Promise<Instance> {
  const proxy = await openFaultProxy(databaseUrl);
  const port = await freePort();
  const launch = () =>
    spawnService({
      DATABASE_URL: proxy.url,
      PORT: String(port),
      WEBHOOK_ALLOW_PRIVATE: 'on',
      WEBHOOK_TIMEOUT: '1500',
      ...env,
    });
  let service: ServiceProcess | undefined = await launch();
  const pidsOf = ({ child }: ServiceProcess) => (child.pid === undefined ? [] : [child.pid, ...childrenOf(child.pid)]);
  return {
    name,
    url: `http://127.0.0.1:${port}`,
    proxy,
    pids: () => (service === undefined ? [] : pidsOf(service)),
    isUp: () => service !== undefined,
    async restart(signal, awayMs) {
      const ending = service;
      if (ending === undefined) throw new Error(`${name} is not up`);
      const pids = pidsOf(ending);
      service = undefined;
      const code = await ending.end(signal);
      // Workers end by themselves when their primary is gone.
      await gone(pids);
      await delay(awayMs);
      service = await launch();
      return code;
    },
    async end() {
      const pids = service === undefined ? [] : pidsOf(service);
      await service?.end('SIGKILL');
      service = undefined;
      await gone(pids);
      await proxy.close();
    },
  };
}

function childrenOf(pid: number): number[] {
  const file = `/proc/${pid}/task/${pid}/children`;
  return existsSync(file) ? readFileSync(file, 'utf8').split(' ').filter(Boolean).map(Number) : [];
}

async function gone(pids: readonly number[]): Promise<void> {
  for (const end = performance.now() + patienceMs; pids.some((pid) => existsSync(`/proc/${pid}`)); ) {
    if (performance.now() > end) throw new Error(`processes do not end: ${pids.join(' ')}`);
    await delay(20);
  }
}

/**
 * A port that stays free while an instance is away: below the range from which the kernel takes the
 * ports of outgoing connections.
 */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = net.createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!isFree) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

/** Runs work on a connection that bypasses the proxies. */
export async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  // A database that restarts cuts it.
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}
