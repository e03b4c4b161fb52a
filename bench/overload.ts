import type { ContenderJob } from './contender.ts';
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
  { guarded, patient, open }: { guarded: ContenderFactory; patient: ContenderFactory; open: ContenderFactory },
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
    await at('twice, OVERLOAD_WAIT=500', patient, 2);
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
