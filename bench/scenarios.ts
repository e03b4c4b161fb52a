import { spawnService } from '../test/support/process.ts';
import { keyLayouts, lookUps } from './alternatives.ts';
import { bareNode } from './bare-node.ts';
import { recalledBatches } from './changes.ts';
import { fullTable } from './full-table.ts';
import { heldChannel } from './held-channel.ts';
import { cpuOfTree, type Machine, startDebianMachine } from './machine.ts';
import { manyInstances } from './many-instances.ts';
import {
  measure,
  median,
  type Run,
  ratios,
  residentMegabytes,
  rounds,
  spread,
  table,
  type Variant,
} from './measure.ts';
import { besideMessageServers } from './message-servers.ts';
import { closedLoops, costOfRefusal, twiceTheCapacity } from './overload.ts';
import { peers } from './peers/index.ts';
import { NotInstalled, type PeerServer } from './peers/peer.ts';
import { reachOfBatch } from './reach.ts';
import { fanOut, idleReaders, pageAgainstSelect, pages, readersUnderLoad, type ServedBench } from './reading.ts';
import { submittedBatches } from './submitted.ts';
import { spelledAgainstTemplate } from './templates.ts';
import type { Spread, Workload } from './workload.ts';

/** What the command line says beside the rounds. */
export interface ScenarioOptions {
  /** Messages that the table of `growth` holds. */
  readonly messages: number;
}

/** A section of the results. */
export interface Scenario {
  readonly name: string;
  readonly title: string;
  readonly words: string;
  /** It measures once, whatever the number of rounds. */
  readonly isOneRun?: true;
  /** Returns the table. */
  readonly measure: (machine: Machine, pairs: number, options: ScenarioOptions) => Promise<string>;
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

/** Runs the service as a process while `use` runs. */
async function withService<T>(
  machine: Machine,
  env: Record<string, string>,
  use: (
    contender: (
      name: string,
      job: Pick<Variant['job'], 'kind' | 'inFlight' | 'openLoop' | 'sessions' | 'mayRefuse' | 'toPersons'>,
    ) => Variant,
    pid: number,
  ) => Promise<T>,
): Promise<T> {
  const service = await spawnService({ DATABASE_URL: machine.url, LOG_LEVEL: 'info', ...env });
  try {
    const { pid = 0 } = service.child;
    return await use(
      (name, job) => ({ name, job: { ...job, url: service.url }, serviceCpu: () => cpuOfTree(pid) }),
      pid,
    );
  } finally {
    await service.end('SIGTERM');
  }
}

/** The median of a figure over the rounds. */
const ofMedian = (runs: readonly Run[] | undefined, figure: (run: Run) => number) => median((runs ?? []).map(figure));

const grpc = { kind: 'grpc' } as const;
const json = { kind: 'json' } as const;
const grpc1 = { ...grpc, inFlight: 1 };

type ContenderOf = (name: string, job: typeof grpc1) => Variant;

/** The service of a scenario that is its own load. */
function servedBy(contender: ContenderOf, pid: number): ServedBench {
  return { url: contender('', grpc1).job.url, pid, cpu: () => cpuOfTree(pid) };
}

export const scenarios: readonly Scenario[] = [
  ...(['zipf', 'hot', 'distinct'] as const).map(
    (shape): Scenario => ({
      name: `storage-${shape}`,
      title: `Storage against raw, ${shape}`,
      words: '`sending/append` through group commit in four lanes, 128 batches of 100 messages in flight.',
      measure: async (machine, pairs) =>
        table(await rounds(machine, [raw(machine), store(machine, 'group commit', 128, 4)], work(shape), pairs), 'raw'),
    }),
  ),
  {
    name: 'rpc',
    title: 'End to end against raw, Zipf',
    words:
      'Batches of 100, 128 in flight, over gRPC (HTTP/2, 2 connections) and the JSON array route (HTTP/1.1, 128 connections), with one worker and with two.',
    measure: async (machine, pairs) =>
      await withService(machine, { WORKERS: '2' }, async (two) =>
        withService(machine, {}, async (one) => {
          const variants = [
            raw(machine),
            one('gRPC', { ...grpc, inFlight: 128 }),
            one('JSON', { ...json, inFlight: 128 }),
            two('gRPC, 2 workers', { ...grpc, inFlight: 128 }),
            two('JSON, 2 workers', { ...json, inFlight: 128 }),
          ];
          return table(await rounds(machine, variants, work('zipf'), pairs), 'raw');
        }),
      ),
  },
  {
    name: 'grouping',
    title: 'Group commit against one transaction per batch, and per message',
    words:
      'Storage, Zipf: batches of 100, 128 in flight, in four lanes and as one transaction each on 128 connections; and single messages, 32 in flight, as one transaction each.',
    measure: async (machine, pairs) => {
      const variants = [
        store(machine, 'one transaction per batch', 128, 0),
        store(machine, 'group commit', 128, 4),
        {
          ...store(machine, 'one transaction per message, 32 in flight', 32, 0),
          work: { batches: 5000, batchMessages: 1 },
        },
        store(machine, 'group commit, 32 in flight', 32, 4),
      ];
      const runs = await rounds(machine, variants, work('zipf', { batches: 1000 }), pairs);
      const [single, grouped] = ['one transaction per message, 32 in flight', 'group commit, 32 in flight'].map(
        (name) => runs.get(name),
      );
      return `${table(runs, 'one transaction per batch')}\n\nGroup commit against one transaction per message, 32 in flight: ${spread(
        ratios(grouped ?? [], single ?? [], (run) => run.rate),
        1,
      )} times the rate.`;
    },
  },
  {
    name: 'open-loop',
    title: 'Open loop at half of saturation',
    words:
      'Batches of 50 over gRPC, Zipf, arriving at random (Poisson) whether or not earlier ones were answered, at half of the rate that the same service reached with 128 in flight just before. Response times count from when a batch was due.',
    measure: async (machine, pairs) =>
      await withService(machine, {}, async (contender) => {
        const lines: string[] = [];
        const p99: number[] = [];
        for (let round = 0; round < pairs; round++) {
          const workload: Workload = { ...work('zipf', { batches: 4000, batchMessages: 50 }), seed: 1000 + round };
          const full = await measure(machine, contender('full', { ...grpc, inFlight: 128 }), workload);
          const half = await measure(
            machine,
            contender('half', { ...grpc, inFlight: 0, openLoop: full.rate / 2 / 50 }),
            workload,
          );
          p99.push(half.p99);
          lines.push(
            `| ${(full.rate / 1000).toFixed(1)} k | ${(half.rate / 1000).toFixed(1)} k | ${half.p50.toFixed(1)} | ${half.p99.toFixed(1)} |`,
          );
        }
        return `| saturation, messages/s | sent/s | p50 ms | p99 ms |\n|---|---|---|---|\n${lines.join('\n')}\n\np99: ${spread(p99, 1)} ms.`;
      }),
  },
  {
    name: 'overload',
    title: 'Overload: at twice the capacity',
    words:
      'Batches of 50 over gRPC, Zipf, 8 connections. The capacity is the rate of the service with 128 in flight; then batches arrive at random (Poisson) at that rate and at twice that rate, whether or not earlier ones were answered: with the default OVERLOAD_WAIT (1 s), with 250 ms, and without load shedding (one day), where only full lanes refuse. Response times count from when a batch was due.',
    measure: async (machine, pairs) =>
      await withService(machine, { OVERLOAD_WAIT: '1000' }, async (guarded, pid) =>
        withService(machine, { OVERLOAD_WAIT: '250' }, async (brief) =>
          withService(machine, { OVERLOAD_WAIT: '86400000' }, async (open) =>
            twiceTheCapacity(machine, { guarded, brief, open }, pairs, () => residentMegabytes(pid)),
          ),
        ),
      ),
  },
  {
    name: 'overload-closed',
    title: 'Overload: closed loops on a slowed machine',
    words:
      'The service at niceness 5 beside one busy loop per core, which leaves it about a quarter of a core; 250 batches in flight, to channels that exist (distinct) and to new ones. Refused must be 0.',
    measure: async (machine, pairs) =>
      // On a machine that is slow enough, 250 batches of 1,000 take longer than the default of 30
      // s.
      await withService(machine, { OVERLOAD_WAIT: '1000', REQUEST_TIMEOUT: '300000' }, async (contender, pid) =>
        closedLoops(machine, contender, pid, pairs),
      ),
  },
  {
    name: 'overload-refusal',
    title: 'Overload: the cost of a refusal',
    words:
      'The CPU of the service per refused single while the store waits for a lock, against that of a stored single, each with 64 in flight (gRPC on 8 connections, JSON on 64).',
    measure: async (machine, pairs) =>
      await withService(
        machine,
        { OVERLOAD_WAIT: '1000', REQUEST_TIMEOUT: '60000', LOCK_TIMEOUT: '60000', STATEMENT_TIMEOUT: '60000' },
        async (contender, pid) => costOfRefusal(machine, contender, () => cpuOfTree(pid), pairs),
      ),
  },
  {
    name: 'idle',
    title: 'One batch at a time',
    words:
      'An idle service: batches of 100, the next when one is answered, end to end, against one raw INSERT of the same 100 rows at a time.',
    measure: async (machine, pairs) =>
      await withService(machine, {}, async (contender) => {
        const variants = [
          { ...raw(machine), job: { kind: 'raw', url: machine.url, inFlight: 1, statementRows: 100 } as const },
          contender('gRPC', { ...grpc, inFlight: 1 }),
          contender('JSON', { ...json, inFlight: 1 }),
        ];
        const runs = await rounds(machine, variants, work('zipf', { batches: 500 }), pairs);
        const base = runs.get('raw') ?? [];
        const of = (name: string) =>
          spread(
            ratios(runs.get(name) ?? [], base, (run) => run.p50),
            2,
          );
        const p50 = (name: string) => ofMedian(runs.get(name), (run) => run.p50).toFixed(2);
        return `| contender | p50 ms | against raw |\n|---|---|---|\n| raw | ${p50('raw')} | |\n| gRPC | ${p50('gRPC')} | ${of('gRPC')} |\n| JSON | ${p50('JSON')} | ${of('JSON')} |`;
      }),
  },
  {
    name: 'bare-node',
    title: 'Calls of Node’s own servers that do nothing',
    words: 'The CPU of a server process per call, with 64 in flight: a lower bound for every call of the service.',
    measure: async (_machine, pairs) => await bareNode(pairs),
  },
  {
    name: 'singles',
    title: 'Single messages',
    words: 'Batches of one, 128 in flight, Zipf, with group commit and with one transaction each.',
    measure: async (machine, pairs) =>
      await withService(machine, { LANES: '0', POOL_SIZE: '32' }, async (each) =>
        withService(machine, {}, async (grouped) => {
          const variants = [
            each('gRPC, one transaction per message', { ...grpc, inFlight: 128 }),
            grouped('gRPC', { ...grpc, inFlight: 128 }),
            grouped('JSON', { ...json, inFlight: 128 }),
          ];
          const runs = await rounds(machine, variants, work('zipf', { batches: 10_000, batchMessages: 1 }), pairs);
          return table(runs, 'gRPC, one transaction per message');
        }),
      ),
  },
  {
    name: 'permission',
    title: 'Members of channels against system senders',
    words:
      'Storage, Zipf, 128 batches of 100 in flight: every sender a system uid, which needs no list; and every sender a member of its channel, which the storing statement asserts.',
    measure: async (machine, pairs) => {
      await machine.addMembers();
      const system = store(machine, 'system senders', 128, 4);
      const members: Variant = { ...system, name: 'members', job: { ...system.job, ordinarySenders: true } };
      return table(await rounds(machine, [system, members], work('zipf'), pairs), 'system senders');
    },
  },
  {
    name: 'new-channels',
    title: 'New channels against known ones',
    words:
      'Batches of 100, 128 in flight, each message to another channel: known channels at random, and channels that the send creates, of groups and of persons (which have two members); storage in four lanes, and end to end over gRPC; and submitted batches to 100,000 persons, from when a batch was accepted until it has ended.',
    measure: async (machine, pairs) => {
      await machine.addPersons();
      return await withService(machine, {}, async (contender, pid) => {
        const tables: string[] = [];
        for (const toPersons of [false, true]) {
          const to = toPersons ? 'persons' : 'groups';
          const variants = [
            store(machine, `storage, ${to}, known`, 128, 4),
            { ...store(machine, `storage, ${to}, new`, 128, 4), work: { newChannels: true } },
            contender(`gRPC, ${to}, known`, { ...grpc, inFlight: 128 }),
            { ...contender(`gRPC, ${to}, new`, { ...grpc, inFlight: 128 }), work: { newChannels: true } },
          ];
          const runs = await rounds(machine, variants, work('distinct', { batches: 1000, toPersons }), pairs);
          for (const form of ['storage', 'gRPC'])
            tables.push(table(new Map([...runs].filter(([name]) => name.startsWith(form))), `${form}, ${to}, known`));
        }
        tables.push(await submittedBatches(machine, contender('', grpc1).job.url, pid, pairs));
        return tables.join('\n\n');
      });
    },
  },
  {
    name: 'changes',
    title: 'Recalls of batches',
    words:
      'A submitted batch of 100,000 messages to 100,000 known persons, or to 100 groups, is recalled with RecallBatch: from the call until its last message is recalled, against the sending of the same batch before.',
    measure: async (machine, pairs) => {
      await machine.addPersons();
      return await withService(machine, {}, (contender, pid) =>
        recalledBatches(machine, servedBy(contender, pid), pairs),
      );
    },
  },
  {
    name: 'reach',
    title: 'Reach of a batch to 100,000 persons',
    words:
      'GetBatchReach over gRPC, one question after the other, among 10 million other messages and with DELIVERY_CURSORS=on.',
    measure: async (machine, pairs) =>
      await withService(machine, { DELIVERY_CURSORS: 'on' }, async (contender, pid) =>
        reachOfBatch(machine, servedBy(contender, pid), { stored: 10_000_000, pairs }),
      ),
  },
  {
    name: 'rates',
    title: 'Rates counted against no rates',
    words:
      'Batches of 100 over gRPC, Zipf, 128 in flight, with a quota that is never reached, counted in memory: for the caller, and also for each sender and channel.',
    measure: async (machine, pairs) => {
      const quotas = '1000000000/60s';
      const counting = { RATE_CALLER: quotas, RATE_SENDER: quotas, RATE_CHANNEL: quotas };
      return await withService(machine, counting, async (counted) =>
        withService(machine, { RATE_CALLER: quotas }, async (caller) =>
          withService(machine, {}, async (free) => {
            const variants = [
              free('no rates', { ...grpc, inFlight: 128 }),
              caller('of the caller', { ...grpc, inFlight: 128 }),
              counted('of caller, senders and channels', { ...grpc, inFlight: 128 }),
            ];
            return table(await rounds(machine, variants, work('zipf'), pairs), 'no rates');
          }),
        ),
      );
    },
  },
  {
    name: 'instances',
    title: 'Two instances on one database',
    words: 'Storage, Zipf, 128 batches of 100 in flight in all, by one process and by two with the same channels.',
    measure: async (machine, pairs) => {
      const variants = [store(machine, 'one', 128, 4), { ...store(machine, 'two', 64, 4), processes: 2 }];
      return table(await rounds(machine, variants, work('zipf'), pairs), 'one');
    },
  },
  {
    name: 'many-instances',
    title: 'Ten instances on one database',
    words:
      'Instances are started one by one, and measured idle for 20 s and under the same load for 10 s: 100 batches of 10 messages per second in all, over gRPC, Zipf over 1,000 channels, sent to the instances in turn, while a reader on each instance tails the ten busiest channels. Times count from the acceptance of a message to its reader.',
    isOneRun: true,
    measure: manyInstances,
  },
  {
    name: 'duplicates',
    title: 'Half of the messages sent before',
    words: 'Storage, Zipf, 128 batches of 100 in flight; half of all messages repeat an earlier one.',
    measure: async (machine, pairs) => {
      const variants = [
        store(machine, 'fresh', 128, 4),
        { ...store(machine, 'half repeated', 128, 4), work: { duplicates: 0.5 } },
      ];
      return table(await rounds(machine, variants, work('zipf'), pairs), 'fresh');
    },
  },
  {
    name: 'large',
    title: 'A table of 20 million messages',
    words:
      'Storage, Zipf, 128 batches of 100 in flight, on top of 20 million messages, alternating with the raw INSERT into the same table, and on an empty table for comparison. The limit is the once-only key: a random position in an index that is larger than the buffers.',
    measure: async (machine, pairs) => {
      const grouped = store(machine, 'group commit', 128, 4);
      const empty = await rounds(machine, [grouped], work('zipf'), pairs);
      await machine.reset();
      await machine.fill(20_000_000);
      const runs = new Map<string, Run[]>([
        ['raw', []],
        ['group commit', []],
      ]);
      // The first round fills the buffers and is not kept.
      for (let round = 0; round <= pairs; round++) {
        const loader = raw(machine);
        const each: Variant[] = [
          { ...loader, adds: true, job: { ...loader.job, afterSeq: 1_000_000 * (round + 1) } },
          { ...grouped, adds: true },
        ];
        for (const [index, variant] of each.entries()) {
          const run = await measure(machine, variant, { ...work('zipf'), seed: 10_000 + round * 10 + index });
          if (round > 0) runs.get(variant.name)?.push(run);
        }
      }
      await machine.reset();
      const against = ratios(runs.get('group commit') ?? [], empty.get('group commit') ?? [], (run) => run.rate);
      return `${table(runs, 'raw')}\n\nAgainst our own empty table: ${spread(against, 2)} of the rate.`;
    },
  },
  {
    name: 'growth',
    title: 'A send on a full table against an empty one',
    words:
      'Storage, 128 batches of 100 in flight: 50 million messages unless `--messages` says otherwise, and an empty cluster beside it, in turn. Every run begins with a checkpoint. "Without full pages" is the cost long after a checkpoint.',
    measure: async (machine, pairs, { messages }) => await fullTable(machine, pairs, messages),
  },
  {
    name: 'versions',
    title: "The embedded PostgreSQL 18 against Debian's 15",
    words: 'Storage, Zipf, 128 batches of 100 in flight, with the same settings.',
    measure: async (machine, pairs) => {
      const debian = await startDebianMachine();
      if (debian === undefined) return "Debian's PostgreSQL 15 is not installed here.";
      const runs = new Map<string, Run[]>();
      try {
        for (let round = 0; round < pairs; round++) {
          for (const each of round % 2 === 0 ? [debian, machine] : [machine, debian]) {
            const name = `PostgreSQL ${each.version.split(' ', 1)[0]}`;
            const run = await measure(each, store(each, name, 128, 4), { ...work('zipf'), seed: 1000 + round });
            runs.set(name, [...(runs.get(name) ?? []), run]);
          }
        }
      } finally {
        await debian.stop();
      }
      const base = [...runs.keys()].find((name) => name.startsWith('PostgreSQL 15')) ?? '';
      return table(runs, base);
    },
  },
  {
    name: 'memory',
    title: 'Memory after ten million messages',
    words: 'The resident memory of the service after each million of messages over gRPC, batches of 100, 32 in flight.',
    isOneRun: true,
    measure: async (machine) =>
      await withService(machine, {}, async (contender, pid) => {
        const sizes: number[] = [];
        for (let million = 0; million < 10; million++) {
          await measure(machine, contender('gRPC', { ...grpc, inFlight: 32 }), {
            ...work('zipf', { batches: 10_000 }),
            seed: 20_000 + million,
          });
          sizes.push(residentMegabytes(pid));
        }
        const growth = ((sizes[9] ?? 0) / (sizes[1] ?? 1) - 1) * 100;
        return `| million | ${sizes.map((_, index) => index + 1).join(' | ')} |\n|---|${sizes.map(() => '---').join('|')}|\n| MB | ${sizes.map((size) => size.toFixed(0)).join(' | ')} |\n\nFrom the second million to the tenth: ${growth.toFixed(1)} %.`;
      }),
  },
  {
    name: 'peers',
    title: 'Other systems',
    words:
      'Batches of 100 messages of 100 bytes, Zipf over the same channels, 32 in flight, each acknowledged in the system’s own way: by rate against our storage without a protocol, the fair comparison for most of them, and our service over gRPC. The guarantees of each are below the table.',
    measure: async (machine, pairs) => {
      const words: string[] = [];
      const started: { variant: Variant; server: PeerServer }[] = [];
      try {
        for (const peer of peers) {
          try {
            const database = `peer_${peer.name.toLowerCase().replace(/\W/g, '_')}`;
            const server = await peer.start(await machine.createDatabase(database));
            started.push({
              server,
              variant: { name: peer.name, job: { kind: 'peer', peer: peer.name, url: server.url, inFlight: 32 } },
            });
            words.push(`- **${peer.name}**: ${peer.words}`);
          } catch (error) {
            if (!(error instanceof NotInstalled)) throw error;
            words.push(`- **${peer.name}** was left out: ${error.message}.`);
          }
        }
        return await withService(machine, {}, async (contender) => {
          const variants = [
            store(machine, 'sendbatch, storage', 32, 4),
            contender('sendbatch, gRPC', { ...grpc, inFlight: 32 }),
            ...started.map(({ variant }) => variant),
          ];
          const runs = await rounds(machine, variants, work('zipf', { batches: 1000 }), pairs);
          const base = runs.get('sendbatch, storage') ?? [];
          const lines = [...runs].map(([name, all]) => {
            const rate = spread(
              ratios(base, all, (run) => run.rate),
              1,
            );
            return `| ${name} | ${(ofMedian(all, (run) => run.rate) / 1000).toFixed(1)} k | ${rate} | ${ofMedian(all, (run) => run.p50).toFixed(1)} / ${ofMedian(all, (run) => run.p99).toFixed(1)} |`;
          });
          return `| system | messages/s | our storage is faster, times | p50 / p99 ms |\n|---|---|---|---|\n${lines.join('\n')}\n\n${words.join('\n')}`;
        });
      } finally {
        for (const { server } of started) await server.stop();
      }
    },
  },
  {
    name: 'message-servers',
    title: 'Message servers',
    words:
      'Centrifugo and WuKongIM beside us: closed loops of the same light HTTP client in a process of its own, 100-byte payloads, Zipf over 10,000 known channels, each acknowledged in the server’s own way; the servers that are not measured are stopped meanwhile. CPU is of the server and of PostgreSQL, without the client. The guarantees of each are below the tables.',
    measure: async (machine, pairs) =>
      await withService(machine, {}, async (contender) => await besideMessageServers(machine, contender, pairs)),
  },
  {
    name: 'layouts',
    title: 'Key layouts',
    words: 'Inserts of 1000 rows into a table of 5 million, by the columns that identify a message.',
    measure: async (machine, pairs) => await keyLayouts(machine, pairs),
  },
  {
    name: 'look-ups',
    title: 'Lookups of earlier sends',
    words: 'Lookups of 1000 once-only keys, 500 of which are stored, in a table of 5 million.',
    measure: async (machine, pairs) => await lookUps(machine, pairs),
  },
  {
    name: 'held',
    title: 'Beside a channel that another session holds locked',
    words:
      'JSON, one lane, closed loops: 16 senders of single messages to 1,000 other channels, 4 of batches of 10 with one message for the held channel, 2 to the held channel alone; 8 s with the hold against 8 s without.',
    measure: async (machine, pairs) =>
      await withService(
        machine,
        { LANES: '1' },
        async (contender) => await heldChannel(machine, contender('', grpc1).job.url, pairs),
      ),
  },
  {
    name: 'fan-out',
    title: 'One message to 500 readers of a channel',
    words:
      'Live tails over gRPC and as Server-Sent Events, one message every 200 ms; from before the send to each reader. The readers are plain HTTP clients in one process.',
    measure: async (machine, pairs) =>
      await withService(machine, {}, async (contender, pid) => await fanOut(machine, servedBy(contender, pid), pairs)),
  },
  {
    name: 'readers-under-load',
    title: 'A hundred readers under a write load',
    words:
      'A live tail over gRPC for each of the 100 channels with the most messages (Zipf), while batches of 50 arrive at random (Poisson) at half of the rate that the service reached with 128 in flight just before, for the second time. Times count from the acceptance of a message, which is before its commit, to its reader.',
    measure: async (machine, pairs) =>
      await readersUnderLoad(
        machine,
        async (use) =>
          await withService(machine, {}, async (contender) =>
            use(contender('', grpc1).job.url, (rate, round, adds = false) =>
              measure(
                machine,
                rate === undefined
                  ? contender('full', { ...grpc, inFlight: 128 })
                  : { ...contender('half', { ...grpc, inFlight: 0, openLoop: rate / 50 }), adds },
                { ...work('zipf', { batches: 4000, batchMessages: 50 }), seed: 1000 + round },
              ),
            ),
          ),
        pairs,
      ),
  },
  {
    name: 'idle-readers',
    title: 'Idle readers',
    words:
      'Live tails of idle channels: resident memory of the service 20 s after they were opened, started anew for each protocol. gRPC and Connect over HTTP/2, 200 on a connection; Server-Sent Events over HTTP/1.1, one connection each.',
    measure: async (machine, pairs) =>
      await idleReaders(async () => {
        const service = await spawnService({ DATABASE_URL: machine.url, LOG_LEVEL: 'info' });
        const { pid = 0 } = service.child;
        return { url: service.url, pid, cpu: () => cpuOfTree(pid), end: () => service.end('SIGTERM') };
      }, pairs),
  },
  {
    name: 'page',
    title: 'A page of 100 messages against the SELECT',
    words:
      'Pages of one channel, one after the other, over gRPC and JSON: CPU of PostgreSQL and the service against a prepared SELECT of the same rows and columns by pg, in this process.',
    measure: async (machine, pairs) =>
      await withService(
        machine,
        {},
        async (contender, pid) => await pageAgainstSelect(machine, servedBy(contender, pid), pairs),
      ),
  },
  {
    name: 'pages',
    title: 'Pages of history',
    words:
      'A page of 10 messages over gRPC, one after the other: of the only channel of a table, and of random channels among 100,000 in a table of 10 million.',
    isOneRun: true,
    measure: async (machine) =>
      await withService(machine, {}, async (contender) => await pages(machine, contender('', grpc1).job.url)),
  },
  {
    name: 'templates',
    title: 'A template against messages written out',
    words:
      'Batches of 1000 messages of about 500 bytes over gRPC, one batch after the other: with their payloads, and as one template of the request with two variables each.',
    measure: async (machine, pairs) =>
      await withService(
        machine,
        {},
        async (contender, pid) => await spelledAgainstTemplate(machine, contender('', grpc1).job.url, pid, pairs),
      ),
  },
];
