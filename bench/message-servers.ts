import type { ContenderJob } from './contender.ts';
import { cpuOfTree, type Machine } from './machine.ts';
import { rounds, table, type Variant } from './measure.ts';
import { messageServers } from './peers/index.ts';
import { NotInstalled, type PeerServer } from './peers/peer.ts';
import type { Workload } from './workload.ts';

/** Creates a contender that loads our service. */
type ContenderFactory = (name: string, job: Pick<ContenderJob, 'kind' | 'inFlight' | 'toPersons'>) => Variant;

const shared = { spread: 'zipf', channels: 10_000, payloadBytes: 100, duplicates: 0 } as const;
const json = 'sendbatch, JSON';
/** The 1,000 batches of the others would take it a minute. */
const slowest = 'Centrifugo, PostgreSQL broker';

/** Batches of 100 and single messages, to our service and to those servers that are installed. */
export async function besideMessageServers(machine: Machine, ours: ContenderFactory, pairs: number): Promise<string> {
  const words: string[] = [];
  const started: { name: string; server: PeerServer }[] = [];
  try {
    for (const peer of messageServers) {
      try {
        const database = `server_${peer.name.toLowerCase().replace(/\W+/g, '_')}`;
        const server = await peer.start(await machine.createDatabase(database));
        started.push({ name: peer.name, server });
        signal(server, 'SIGSTOP');
        words.push(`- **${peer.name}**: ${peer.words}`);
      } catch (error) {
        if (!(error instanceof NotInstalled)) throw error;
        words.push(`- **${peer.name}** was left out: ${error.message}.`);
      }
    }
    const theirs = (inFlight: number, workOfSlowest: Partial<Workload> = {}) =>
      started.map(
        ({ name, server: { url, pid = 0 } }): Variant => ({
          name,
          job: { kind: 'peer', peer: name, url, inFlight },
          serviceCpu: () => cpuOfTree(pid),
          stoppedPid: pid,
          ...(name === slowest && { work: workOfSlowest }),
        }),
      );
    const compared = async (variants: readonly Variant[], work: Pick<Workload, 'batches' | 'batchMessages'>) =>
      table(await rounds(machine, variants, { ...shared, ...work }, pairs), json, 'server');
    const batches = [
      ours(json, { kind: 'json', inFlight: 32 }),
      ours('sendbatch, gRPC', { kind: 'grpc', inFlight: 32 }),
      ours('sendbatch, JSON, one message to 100 persons', { kind: 'json', inFlight: 32, toPersons: true }),
      ...theirs(32, { batches: 120 }),
    ];
    const singles = [
      ours(json, { kind: 'json', inFlight: 64 }),
      ours('sendbatch, gRPC', { kind: 'grpc', inFlight: 64 }),
      ...theirs(64),
    ];
    return [
      'Batches of 100, 32 in flight:',
      await compared(batches, { batches: 1000, batchMessages: 100 }),
      'Single messages, 64 in flight:',
      await compared(singles, { batches: 10_000, batchMessages: 1 }),
      words.join('\n'),
    ].join('\n\n');
  } finally {
    for (const { server } of started) {
      signal(server, 'SIGCONT');
      await server.stop();
    }
  }
}

function signal({ pid }: PeerServer, name: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(pid, name);
  } catch (error) {
    // It has ended, which the contender that loads it reports.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
