import { type Machine, startMachine } from './machine.ts';
import { measure, median, type Run, ratios, spread, type Variant } from './measure.ts';
import { timeOfVerify } from './verifying.ts';
import type { Workload } from './workload.ts';

interface Mix {
  readonly name: string;
  readonly work: Pick<Workload, 'spread' | 'channels'>;
}

const mixes: readonly Mix[] = [
  { name: 'Zipf, 100,000 channels', work: { spread: 'zipf' } },
  { name: 'Zipf, 10,000 channels', work: { spread: 'zipf', channels: 10_000 } },
  { name: 'distinct, 100,000 channels', work: { spread: 'distinct' } },
];

interface Measured {
  readonly run: Run;
  /** Per message. */
  readonly walBytes: number;
  readonly fullPages: number;
}

/** The server's counters of write-ahead log so far. */
async function walOf(machine: Machine): Promise<{ bytes: number; fullPages: number }> {
  const [row] = await machine.query<{ bytes: string; pages: string }>(
    `select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as bytes, wal_fpi as pages from pg_stat_wal`,
  );
  return { bytes: Number(row?.bytes), fullPages: Number(row?.pages) };
}

async function measured(machine: Machine, variant: Variant, workload: Workload): Promise<Measured> {
  await machine.query('checkpoint');
  const before = await walOf(machine);
  const run = await measure(machine, variant, workload);
  const after = await walOf(machine);
  const per = (figure: 'bytes' | 'fullPages') => (after[figure] - before[figure]) / run.messages;
  return { run, walBytes: per('bytes'), fullPages: per('fullPages') };
}

/**
 * The machine with messages counted from the heads: counting rows reads the whole primary key into
 * the buffers, and each run then began without the pages that it needs.
 */
function countedByHeads(machine: Machine): Machine {
  const count = async () => {
    const [row] = await machine.query<{ sum: string }>('select sum(last_seq) from sendbatch.channel_head');
    return Number(row?.sum);
  };
  return {
    ...machine,
    count,
    async verify(messages) {
      const numbered = await count();
      if (numbered !== messages) throw new Error(`${numbered} messages were numbered, not ${messages}`);
    },
  };
}

/** Sets whether the first change of a page after a checkpoint writes the whole page to the log. */
async function setFullPages(machine: Machine, on: boolean): Promise<void> {
  await machine.query(`alter system set full_page_writes = ${on ? 'on' : 'off'}`);
  await machine.query('select pg_reload_conf()');
}

/**
 * Compares sends on a full table with sends on an empty one: two clusters side by side, in turn.
 * Every run begins with a checkpoint, so the full table shows its worst case; without full pages it
 * shows the cost long after a checkpoint, when each page was written to the log before.
 */
export async function fullTable(full: Machine, pairs: number, messages: number): Promise<string> {
  const empty = await startMachine();
  try {
    await full.fill(messages);
    const verified = await timeOfVerify(full.url);
    const lines: string[] = [];
    for (const mix of mixes) lines.push(...(await linesOf(mix, { full: countedByHeads(full), empty }, pairs)));
    await full.reset();
    return [
      '| channels | table | messages/s | µs per message (PostgreSQL + Node) | CPU against empty | bytes of log per message | full pages per message |',
      '|---|---|---|---|---|---|---|',
      ...lines,
      '',
      verified,
    ].join('\n');
  } finally {
    await empty.stop();
  }
}

async function linesOf(
  mix: Mix,
  { full, empty }: { readonly full: Machine; readonly empty: Machine },
  pairs: number,
): Promise<string[]> {
  const job = (machine: Machine) => ({ kind: 'store', url: machine.url, inFlight: 128, lanes: 4 }) as const;
  const kinds = [
    { name: 'empty', machine: empty, adds: false, fullPages: true },
    { name: 'full, after a checkpoint', machine: full, adds: true, fullPages: true },
    { name: 'full, without full pages', machine: full, adds: true, fullPages: false },
  ];
  const all = kinds.map((): Measured[] => []);
  // The first round fills the buffers and is not kept.
  for (let round = 0; round <= pairs; round++)
    for (const [index, { name, machine, adds, fullPages }] of kinds.entries()) {
      await setFullPages(machine, fullPages);
      seed++;
      const workload = { ...mix.work, batches: 2000, batchMessages: 100, payloadBytes: 100, duplicates: 0, seed };
      const result = await measured(machine, { name, job: job(machine), adds }, workload);
      if (round > 0) all[index]?.push(result);
    }
  await setFullPages(full, true);
  const base = (all[0] ?? []).map(({ run }) => run);
  return kinds.map(({ name }, index) => {
    const results = all[index] ?? [];
    const runs = results.map(({ run }) => run);
    const of = (figure: (run: Run) => number, digits: number) => median(runs.map(figure)).toFixed(digits);
    const cells = [
      mix.name,
      name,
      `${of((run) => run.rate / 1000, 1)} k`,
      `${of((run) => run.us.total, 1)} (${of((run) => run.us.postgres, 1)} + ${of((run) => run.us.node, 1)})`,
      spread(
        ratios(runs, base, (run) => run.us.total),
        2,
      ),
      median(results.map(({ walBytes }) => walBytes)).toFixed(0),
      median(results.map(({ fullPages }) => fullPages)).toFixed(2),
    ];
    return `| ${cells.join(' | ')} |`;
  });
}

/** Of the next run: no two runs send the same messages. */
let seed = 20_000;
