import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism, setPriority } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { type ContenderJob, openContender } from './contender.ts';
import type { Machine } from './machine.ts';
import { measure, median, type Run, spread, type Variant } from './measure.ts';
import type { Workload } from './workload.ts';

/** Creates a contender that loads a service. */
type ContenderFactory = (
  name: string,
  job: Pick<ContenderJob, 'kind' | 'inFlight' | 'openLoop' | 'sessions' | 'mayRefuse'>,
) => Variant;

const batchMessages = 50;
/** Batches of a run at capacity, which takes about 6 s. */
const batchesAtOnce = 8000;
const grpc = { kind: 'grpc', sessions: 8 } as const;

/**
 * Measures the capacity, then what is served at capacity and at twice the capacity, by services
 * that refuse and by one that does not.
 */
export async function twiceTheCapacity(
  machine: Machine,
  { guarded, brief, open }: { guarded: ContenderFactory; brief: ContenderFactory; open: ContenderFactory },
  pairs: number,
  megabytes: () => number,
): Promise<string> {
  const runs = new Map<string, { run: Run; peak: Run; offered: number }[]>();
  for (let round = 0; round < pairs; round++) {
    const workload = (batches: number): Workload => ({
      spread: 'zipf',
      batches,
      batchMessages,
      payloadBytes: 100,
      duplicates: 0,
      seed: 1000 + round,
    });
    const peak = await measure(
      machine,
      guarded('peak', { ...grpc, inFlight: 128, mayRefuse: true }),
      workload(batchesAtOnce),
    );
    const at = async (name: string, contenders: ContenderFactory, times: number, batches = batchesAtOnce) => {
      const openLoop = (peak.rate / batchMessages) * times;
      const contender = contenders(name, { ...grpc, inFlight: 0, openLoop, mayRefuse: true });
      const run = await measure(machine, contender, workload(batches * times));
      runs.set(name, [...(runs.get(name) ?? []), { run, peak, offered: openLoop * batchMessages }]);
      process.stderr.write(
        `  ${name}: ${(run.rate / 1000).toFixed(1)} of ${(peak.rate / 1000).toFixed(1)} k/s, p50 ${run.p50.toFixed(0)} p99 ${run.p99.toFixed(0)} ms (${run.laterP99.toFixed(0)}), ${run.refused} refused in ${run.refusedP50.toFixed(0)} / ${run.refusedP99.toFixed(0)} ms\n`,
      );
    };
    runs.set('128 in flight', [...(runs.get('128 in flight') ?? []), { run: peak, peak, offered: peak.rate }]);
    await at('once the capacity', guarded, 1);
    await at('twice the capacity', guarded, 2);
    await at('twice, OVERLOAD_WAIT=250', brief, 2);
    // Longer runs end with connections that are out of memory.
    await at('twice, refused by full lanes only', open, 2, batchesAtOnce / 4);
  }
  const lines = [...runs].map(([name, all]) => {
    const of = (figure: (run: Run) => number) => all.map(({ run }) => figure(run));
    const refusals = (run: Run) => run.refused / (run.refused + run.messages / batchMessages);
    const cells = [
      name,
      `${(median(all.map(({ offered }) => offered)) / 1000).toFixed(1)} k`,
      `${(median(of((run) => run.rate)) / 1000).toFixed(1)} k`,
      spread(
        all.map(({ run, peak }) => run.rate / peak.rate),
        2,
      ),
      `${median(of((run) => run.p50)).toFixed(0)} / ${spread(
        of((run) => run.p99),
        0,
      )}`,
      spread(
        of((run) => run.laterP99),
        0,
      ),
      `${(median(of(refusals)) * 100).toFixed(0)} %`,
      `${median(of((run) => run.refusedP50)).toFixed(0)} / ${median(of((run) => run.refusedP99)).toFixed(0)}`,
    ];
    return `| ${cells.join(' | ')} |`;
  });
  return [
    '| load | offered/s | stored/s | of the capacity | p50 / p99 of the stored, ms | p99 after the first second | refused | refused in, p50 / p99 ms |',
    '|---|---|---|---|---|---|---|---|',
    ...lines,
    '',
    `The service that refuses had ${megabytes().toFixed(0)} MB at the end.`,
  ].join('\n');
}

/** Beside one busy loop per core, this niceness leaves the service about a quarter of a core. */
const niceness = 5;
/** The loops end by themselves after this time. */
const busyMs = 10 * 60_000;
/** Batches per caller: enough to see refusals after the start. */
const batchesOfCaller = { 1: 8, 100: 4, 1000: 1 } as const;

/** Measures closed loops of 250 callers on a slowed machine: none of their calls may be refused. */
export async function closedLoops(
  machine: Machine,
  contenders: ContenderFactory,
  pid: number,
  pairs: number,
): Promise<string> {
  const inFlight = 250;
  const code = `const end = Date.now() + ${busyMs}; while (Date.now() < end);`;
  const others = Array.from({ length: availableParallelism() }, () =>
    spawn(process.execPath, ['-e', code], { stdio: 'ignore' }),
  );
  setPriority(pid, niceness);
  const lines: string[] = [];
  try {
    for (const kind of ['grpc', 'json'] as const)
      for (const batchMessages of [1, 100, 1000] as const)
        for (const newChannels of [false, true]) {
          const runs: Run[] = [];
          for (let round = 0; round < pairs; round++) {
            const contender = contenders(kind, { kind, inFlight, mayRefuse: true });
            const batches = inFlight * batchesOfCaller[batchMessages];
            // New channels of one row must not be those of another.
            const seed = 30_000 + 100 * lines.length + round;
            const work = {
              spread: 'distinct',
              batches,
              batchMessages,
              payloadBytes: 100,
              duplicates: 0,
              seed,
            } as const;
            runs.push(await measure(machine, contender, { ...work, newChannels }));
          }
          const of = (figure: (run: Run) => number) => median(runs.map(figure)).toFixed(0);
          const refused = runs.reduce((sum, run) => sum + run.refused + run.refusedMessages, 0);
          lines.push(
            `| ${kind === 'grpc' ? 'gRPC' : 'JSON'} | ${batchMessages} | ${newChannels ? 'new' : 'known'} | ${of((run) => run.rate)} | ${of((run) => run.p50)} / ${of((run) => run.p99)} | ${refused} |`,
          );
        }
  } finally {
    for (const other of others) other.kill('SIGKILL');
    await Promise.all(others.map(async (other) => other.signalCode ?? (await once(other, 'exit'))));
  }
  return [
    '| protocol | messages per batch | channels | messages/s | p50 / p99 ms | refused |',
    '|---|---|---|---|---|---|',
    ...lines,
  ].join('\n');
}

/** Milliseconds for which refusals are counted. */
const refusingMs = 2000;
/** Calls that wait for the lock: more than are always admitted. */
const waitingCalls = 300;

/** Measures the CPU of a refused call against that of a stored single message, 64 in flight. */
export async function costOfRefusal(
  machine: Machine,
  contenders: ContenderFactory,
  serviceCpu: () => number,
  pairs: number,
): Promise<string> {
  const work = (seed: number, batches: number): Workload => ({
    spread: 'zipf',
    batches,
    batchMessages: 1,
    payloadBytes: 100,
    duplicates: 0,
    seed,
  });
  const lines: string[] = [];
  for (const kind of ['grpc', 'json'] as const) {
    const stored: number[] = [];
    const refused: number[] = [];
    for (let round = 0; round < pairs; round++) {
      const seed = 40_000 + 10 * round;
      const single = contenders('stored', { kind, inFlight: 64, sessions: 8, mayRefuse: true });
      stored.push((await measure(machine, single, work(seed, 10_000))).us.total);
      const { job } = single;
      const waiting = await openContender({
        ...job,
        kind: 'grpc',
        inFlight: waitingCalls,
        workload: work(seed + 1, waitingCalls),
      });
      const refusing = await openContender({ ...job, workload: work(seed + 2, 20_000) });
      const holder = new pg.Client({ connectionString: machine.url });
      await holder.connect();
      await holder.query('begin; lock table sendbatch.channel_head in exclusive mode');
      const waited = waiting.go();
      // Without an end for a second, no more calls are admitted than always are.
      await delay(2000);
      const before = serviceCpu();
      const result = refusing.go();
      await delay(refusingMs);
      const cpu = serviceCpu() - before;
      await holder.query('rollback');
      await holder.end();
      refused.push((cpu / (await result).refused) * 1e6);
      await waited;
    }
    const share = refused.map((us, round) => us / (stored[round] ?? us));
    lines.push(
      `| ${kind === 'grpc' ? 'gRPC' : 'JSON'} | ${median(stored).toFixed(0)} | ${spread(refused, 0)} | ${spread(share, 2)} |`,
    );
  }
  return [
    '| protocol | µs per stored message (PostgreSQL + Node) | µs per refused call | refused against stored |',
    '|---|---|---|---|',
    ...lines,
  ].join('\n');
}
