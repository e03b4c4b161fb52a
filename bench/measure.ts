import { readFileSync } from 'node:fs';
import { type ContenderJob, type ContenderResult, openContender, type ReadyContender } from './contender.ts';
import type { Machine } from './machine.ts';
import type { Workload } from './workload.ts';

/** A contender in the form that a scenario names it. */
export interface Variant {
  readonly name: string;
  /** Its job without the workload, which all contenders of a round share. */
  readonly job: Omit<ContenderJob, 'workload'>;
  /** Its own deviations from the shared workload. */
  readonly work?: Partial<Workload>;
  /**
   * Number of processes that each do such a part of the work concurrently; unset: one process does
   * it all.
   */
  readonly processes?: number;
  /**
   * Adds to the stored messages: the table is not emptied before it, and only the number of
   * messages is verified.
   */
  readonly adds?: boolean;
  /**
   * CPU seconds of the service so far; undefined: the contender is its own load, and its CPU
   * counts.
   */
  readonly serviceCpu?: () => number;
  /** A process that is stopped (SIGSTOP) while others are measured, since it is busy when idle. */
  readonly stoppedPid?: number;
}

/** One run of a contender. */
export interface Run extends ContenderResult {
  /** Messages per second. */
  readonly rate: number;
  /**
   * CPU per message in µs: of PostgreSQL, of the service or of the contender itself, and of a load
   * generator, which does not count.
   */
  readonly us: { readonly postgres: number; readonly node: number; readonly load: number; readonly total: number };
}

export async function measure(machine: Machine, variant: Variant, common: Workload): Promise<Run> {
  if (variant.stoppedPid === undefined) return await measureRunning(machine, variant, common);
  process.kill(variant.stoppedPid, 'SIGCONT');
  try {
    return await measureRunning(machine, variant, common);
  } finally {
    process.kill(variant.stoppedPid, 'SIGSTOP');
  }
}

async function measureRunning(machine: Machine, variant: Variant, common: Workload): Promise<Run> {
  const workload = { ...common, ...variant.work };
  const { processes = 1 } = variant;
  const batches = workload.batches / processes;
  const contenders: ReadyContender[] = [];
  for (let part = 0; part < processes; part++)
    contenders.push(
      await openContender({
        ...variant.job,
        workload: { ...workload, batches, seed: workload.seed + part * 1_000_000 },
      }),
    );
  const before = variant.adds ? await machine.count() : 0;
  if (!variant.adds) await machine.reset();
  const postgres = machine.cpu();
  const service = variant.serviceCpu?.() ?? 0;
  const start = performance.now();
  const results = await Promise.all(contenders.map((contender) => contender.go()));
  const seconds = processes === 1 ? (results[0]?.seconds ?? 0) : (performance.now() - start) / 1000;
  const sum = (of: (result: ContenderResult) => number) => results.reduce((total, result) => total + of(result), 0);
  const ownCpu = sum((result) => result.cpu);
  const cpu = {
    postgres: machine.cpu() - postgres,
    node: variant.serviceCpu ? variant.serviceCpu() - service : ownCpu,
  };
  const stored = sum((result) => result.messages);
  const messages = stored + sum((result) => result.duplicates);
  const refused = sum((result) => result.refused);
  const refusedMessages = sum((result) => result.refusedMessages);
  if (messages + refusedMessages + refused * workload.batchMessages !== workload.batches * workload.batchMessages)
    throw new Error(
      `${variant.name}: ${messages} of ${workload.batches * workload.batchMessages} messages were answered`,
    );
  if (variant.job.kind !== 'peer')
    await machine.verify(before + stored, variant.job.kind === 'raw' || variant.adds === true);
  // The next contender warms up with the same names.
  if (workload.newChannels) await machine.reset();
  const us = (cpuSeconds: number) => (cpuSeconds / messages) * 1e6;
  return {
    messages: stored,
    duplicates: messages - stored,
    seconds,
    cpu: ownCpu,
    p50: Math.max(...results.map((result) => result.p50)),
    p99: Math.max(...results.map((result) => result.p99)),
    laterP99: Math.max(...results.map((result) => result.laterP99)),
    refused,
    refusedMessages,
    refusedP50: Math.max(...results.map((result) => result.refusedP50)),
    refusedP99: Math.max(...results.map((result) => result.refusedP99)),
    rate: messages / seconds,
    us: {
      postgres: us(cpu.postgres),
      node: us(cpu.node),
      load: variant.serviceCpu ? us(ownCpu) : 0,
      total: us(cpu.postgres + cpu.node),
    },
  };
}

/**
 * Runs all variants `pairs` times, interleaved; each round has the same work for all, in another
 * order.
 */
export async function rounds(
  machine: Machine,
  variants: readonly Variant[],
  workload: Omit<Workload, 'seed'>,
  pairs: number,
): Promise<Map<string, Run[]>> {
  const runs = new Map<string, Run[]>(variants.map(({ name }) => [name, []]));
  for (let round = 0; round < pairs; round++) {
    for (let offset = 0; offset < variants.length; offset++) {
      const variant = variants[(offset + round) % variants.length];
      if (variant === undefined) continue;
      const run = await measure(machine, variant, { ...workload, seed: 1000 + round });
      runs.get(variant.name)?.push(run);
      process.stderr.write(
        `  ${variant.name}: ${(run.rate / 1000).toFixed(1)} k/s, ${run.us.total.toFixed(1)} µs (${run.us.postgres.toFixed(1)} + ${run.us.node.toFixed(1)}, load ${run.us.load.toFixed(1)}), p50 ${run.p50.toFixed(1)} p99 ${run.p99.toFixed(1)} ms\n`,
      );
    }
  }
  return runs;
}

/** The median and the spread of a figure over the rounds. */
export function spread(values: readonly number[], digits: number): string {
  const sorted = [...values].sort((a, b) => a - b);
  const [least = 0] = sorted;
  const greatest = sorted.at(-1) ?? 0;
  return `${median(sorted).toFixed(digits)} (${least.toFixed(digits)}–${greatest.toFixed(digits)})`;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

/** The value below which this share of them is. Sorts them. */
export function quantile(values: number[], share: number): number {
  values.sort((a, b) => a - b);
  return values[Math.floor(values.length * share)] ?? 0;
}

/** The figure of one contender divided by that of another, round by round. */
export function ratios(runs: readonly Run[], base: readonly Run[], figure: (run: Run) => number): number[] {
  return runs.map((run, index) => figure(run) / figure(base[index] as Run));
}

/** Formats a table of all contenders, each compared with the first. */
export function table(runs: ReadonlyMap<string, readonly Run[]>, against: string, server = 'Node'): string {
  const base = runs.get(against) ?? [];
  const lines = [...runs].map(([name, all]) => {
    const rate = spread(
      ratios(all, base, (run) => run.rate),
      2,
    );
    const cpu = spread(
      ratios(base, all, (run) => run.us.total),
      2,
    );
    const cells = [
      name,
      `${(median(all.map((run) => run.rate)) / 1000).toFixed(1)} k`,
      name === against ? '' : rate,
      `${median(all.map((run) => run.us.total)).toFixed(1)} (${median(all.map((run) => run.us.postgres)).toFixed(1)} + ${median(all.map((run) => run.us.node)).toFixed(1)})`,
      name === against ? '' : cpu,
      `${median(all.map((run) => run.p50)).toFixed(1)} / ${median(all.map((run) => run.p99)).toFixed(1)}`,
    ];
    return `| ${cells.join(' | ')} |`;
  });
  return [
    `| contender | messages/s | by rate | µs per message (PostgreSQL + ${server}) | by CPU | p50 / p99 ms |`,
    '|---|---|---|---|---|---|',
    ...lines,
  ].join('\n');
}

/** CPU seconds of a process. */
export function residentMegabytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
}
