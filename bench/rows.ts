import { spawnService } from '../test/support/process.ts';
import { cpuOfTree, type Machine } from './machine.ts';
import { rounds, table, type Variant } from './measure.ts';
import type { Spread, Workload } from './workload.ts';

/** A section of the results. */
export interface Row {
  readonly name: string;
  readonly title: string;
  readonly words: string;
  /** The table. */
  readonly measure: (machine: Machine, pairs: number) => Promise<string>;
}

const work = (spread: Spread, more: Partial<Workload> = {}): Omit<Workload, 'seed'> => ({
  spread,
  batches: 2000,
  batchMessages: 100,
  payloadBytes: 100,
  duplicates: 0,
  ...more,
});

const raw = (machine: Machine): Variant => ({
  name: 'raw',
  job: { kind: 'raw', url: machine.url, inFlight: 4, statementRows: 1000 },
});

const store = (machine: Machine, name: string, inFlight: number, lanes: number): Variant => ({
  name,
  job: { kind: 'store', url: machine.url, inFlight, lanes },
});

/** The service as a process, for as long as `use` takes. */
async function withService<T>(
  machine: Machine,
  env: Record<string, string>,
  use: (side: (name: string, job: Pick<Variant['job'], 'kind' | 'inFlight' | 'openLoop'>) => Variant) => Promise<T>,
): Promise<T> {
  const service = await spawnService({ DATABASE_URL: machine.url, LOG_LEVEL: 'info', ...env });
  try {
    return await use((name, job) => ({
      name,
      job: { ...job, url: service.url },
      serviceCpu: () => cpuOfTree(service.child.pid ?? 0),
    }));
  } finally {
    await service.end('SIGTERM');
  }
}

export const rows: readonly Row[] = [
  ...(['zipf', 'hot', 'distinct'] as const).map(
    (spread): Row => ({
      name: `storage-${spread}`,
      title: `Storage against raw, ${spread}`,
      words: '`service/append` through group commit in four lanes, 100 batches of 100 messages in flight.',
      measure: async (machine, pairs) =>
        table(
          await rounds(machine, [raw(machine), store(machine, 'group commit', 100, 4)], work(spread), pairs),
          'raw',
        ),
    }),
  ),
  {
    name: 'rpc',
    title: 'End to end against raw, Zipf',
    words:
      'Batches of 100, 64 in flight, over gRPC (HTTP/2, 2 connections) and the JSON array route (HTTP/1.1, 64 connections).',
    measure: async (machine, pairs) =>
      await withService(machine, {}, async (side) => {
        const variants = [
          raw(machine),
          side('gRPC', { kind: 'grpc', inFlight: 64 }),
          side('JSON', { kind: 'json', inFlight: 64 }),
        ];
        return table(await rounds(machine, variants, work('zipf'), pairs), 'raw');
      }),
  },
];
