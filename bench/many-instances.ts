// What instances of the service cost each other on one database, with up to ten processes: starts,
// connections, idle statements, notifications and the wake-ups of tails.
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { topic } from '../src/postgres/pg-notify.ts';
import { type ServiceProcess, spawnService } from '../test/support/process.ts';
import { openGrpc } from './contenders/grpc.ts';
import { cpuOfTree, type Machine } from './machine.ts';
import { quantile } from './measure.ts';
import { openReaders } from './readers.ts';
import { channelIdOf, type Workload } from './workload.ts';

const counts = [1, 2, 5, 10];
const idleSeconds = 20;
const loadSeconds = 10;
/** Over all instances, whatever their number: far below saturation. */
const batchesPerSecond = 100;
const work: Omit<Workload, 'seed'> = {
  spread: 'zipf',
  channels: 1000,
  batches: batchesPerSecond * loadSeconds,
  batchMessages: 10,
  payloadBytes: 100,
  duplicates: 0,
};

/** Adds instances one by one, and measures them idle and under the same load at each count. */
export async function manyInstances(machine: Machine): Promise<string> {
  const services: ServiceProcess[] = [];
  const lines: string[] = [];
  try {
    for (const count of counts) {
      const starts: number[] = [];
      while (services.length < count) {
        const began = performance.now();
        services.push(await spawnService({ DATABASE_URL: machine.url }));
        starts.push((performance.now() - began) / 1000);
      }
      const idle = await over(machine, services, idleSeconds, async () => await delay(idleSeconds * 1000));
      const loaded = await underLoad(machine, services);
      lines.push(
        `| ${count} | ${Math.max(...starts).toFixed(1)} | ${idle.connections} | ${idle.transactions} | ${idle.cpu} | ${loaded.connections} | ${loaded.transactions} | ${loaded.notifications} | ${loaded.cpu} | ${loaded.quantiles} |`,
      );
    }
  } finally {
    await Promise.all(services.map((each) => each.end('SIGTERM')));
  }
  return `| instances | longest start, s | connections idle | transactions/s idle | CPU ms/s idle (PostgreSQL + Node) | connections under load | transactions/s | notifications/s | CPU ms/s (PostgreSQL + Node) | p50 / p99 ms to the readers |\n|---|---|---|---|---|---|---|---|---|---|\n${lines.join('\n')}`;
}

interface Cost {
  readonly connections: number;
  readonly transactions: string;
  /** Milliseconds of PostgreSQL and of the services per second. */
  readonly cpu: string;
}

/** Connections at the end of some work, and what it took per second. */
async function over(
  machine: Machine,
  services: readonly ServiceProcess[],
  seconds: number,
  run: () => Promise<unknown>,
): Promise<Cost> {
  const node = () => services.reduce((sum, { child }) => sum + cpuOfTree(child.pid ?? 0), 0);
  const before = { commits: await commits(machine), postgres: machine.cpu(), node: node() };
  await run();
  const perSecond = (cpu: number) => ((cpu / seconds) * 1000).toFixed(0);
  const cpu = `${perSecond(machine.cpu() - before.postgres)} + ${perSecond(node() - before.node)}`;
  // Sessions report their transactions within a second.
  await delay(1000);
  const transactions = ((await commits(machine)) - before.commits) / (seconds + 1);
  const [row] = await machine.query<{ connections: string }>(
    `select count(*) as connections from pg_stat_activity where application_name like 'sendbatch%'`,
  );
  return { connections: Number(row?.connections), transactions: transactions.toFixed(0), cpu };
}

async function commits(machine: Machine): Promise<number> {
  const [row] = await machine.query<{ commits: string }>(
    'select xact_commit + xact_rollback as commits from pg_stat_database where datname = current_database()',
  );
  return Number(row?.commits);
}

/** The same load over all instances in turn, with a reader of the ten busiest channels on each. */
async function underLoad(machine: Machine, services: readonly ServiceProcess[]) {
  await machine.reset();
  const listener = new pg.Client({ connectionString: machine.url });
  await listener.connect();
  let notified = 0;
  listener.on('notification', () => notified++);
  await listener.query(`listen ${topic}`);
  const channelIds = Array.from({ length: 10 }, (_, rank) => channelIdOf(rank));
  const readers = await Promise.all(
    services.map(({ url }) => openReaders({ url, protocol: 'grpc', channelIds, begin: 'accepted' })),
  );
  const senders = await Promise.all(
    services.map(({ url }, index) =>
      openGrpc({ kind: 'grpc', url, inFlight: 1, workload: { ...work, seed: services.length * 100 + index } }),
    ),
  );
  notified = 0;
  const cost = await over(machine, services, loadSeconds, async () => {
    const sends: Promise<unknown>[] = [];
    const began = performance.now();
    for (let batch = 0; batch < batchesPerSecond * loadSeconds; batch++) {
      await delay(Math.max(0, began + (batch / batchesPerSecond) * 1000 - performance.now()));
      const sender = senders[batch % senders.length];
      if (sender !== undefined) sends.push(sender.send(Math.floor(batch / senders.length)));
    }
    await Promise.all(sends);
  });
  const times = (await Promise.all(readers.map((each) => each.take()))).flat();
  await Promise.all([...readers, ...senders].map((each) => each.close()));
  await listener.end();
  const at = (share: number) => quantile(times, share).toFixed(0);
  return {
    ...cost,
    notifications: (notified / loadSeconds).toFixed(0),
    quantiles: `${at(0.5)} / ${at(0.99)} (${times.length} deliveries)`,
  };
}
