// Runs the benchmarks: `npm run bench` measures all scenarios, `npm run bench -- storage rpc` some;
// `-- --pairs 3` sets the number of rounds, `--messages N` the size of the table of `growth`.
// Prints the tables, and with `--write` stores them in RESULTS.md beside those of the other
// scenarios. Ends with an error when a run was not valid: each verifies that its messages are
// stored once, and every channel dense.
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Machine, startMachine } from './machine.ts';
import { type Scenario, scenarios } from './scenarios.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pairs: { type: 'string', default: '5' },
    messages: { type: 'string', default: '50000000' },
    write: { type: 'boolean', default: false },
  },
});
const chosen =
  positionals.length === 0 ? scenarios : scenarios.filter((scenario) => positionals.includes(scenario.name));
if (chosen.length === 0) throw new Error(`scenarios: ${scenarios.map((scenario) => scenario.name).join(', ')}`);

const machine = await startMachine();
const measured = new Map<string, string>();
try {
  for (const scenario of chosen) {
    const text = await section(scenario, machine, Number(values.pairs));
    console.log(text);
    measured.set(scenario.title, text);
  }
} finally {
  await machine.stop();
}
if (values.write) {
  const file = join(import.meta.dirname, 'RESULTS.md');
  const kept = new Map(
    readFileSync(file, 'utf8')
      .split(/^(?=## )/m)
      .slice(1)
      .map((text): [string, string] => [text.slice(3, text.indexOf('\n')), `${text.trimEnd()}\n`]),
  );
  const sections = scenarios.flatMap((scenario) => measured.get(scenario.title) ?? kept.get(scenario.title) ?? []);
  // Sections that another script wrote (explain.ts).
  const others = [...kept].flatMap(([title, text]) =>
    scenarios.some((scenario) => scenario.title === title) ? [] : [text],
  );
  writeFileSync(file, `${preamble(machine)}\n${[...sections, ...others].join('\n')}`);
}

async function section(scenario: Scenario, on: Machine, pairs: number): Promise<string> {
  const table = await scenario.measure(on, pairs, { messages: Number(values.messages) });
  // Sections are measured on different machines and days.
  const cpuModel = cpus()[0]?.model ?? 'an unknown CPU';
  const day = new Date().toISOString().slice(0, 10);
  const rounds = scenario.isOneRun || pairs === 1 ? 'one run' : `${pairs} rounds`;
  return `## ${scenario.title}\n\n${scenario.words} (${day}, ${cpuModel}, ${rounds})\n\n${table}\n`;
}

function preamble({ version }: Machine): string {
  return `# Measurements

\`npm run bench -- --write\` wrote this page: ${cpus().length} cores and ${Math.round(totalmem() / 2 ** 30)} GiB, shared by the load, the
service and PostgreSQL ${version} (embedded, durable: fsync, full_page_writes and synchronous_commit are on; shared_buffers 1 GB, max_wal_size 8 GB), Node
${process.versions.node}. Other work on the machine makes absolute numbers swing by a third: read the ratios. Each is taken within a round, in which every contender runs
once on an emptied table; the median and, in brackets, the minimum and the maximum of all rounds are given. "µs" is CPU time per message, of PostgreSQL, the
service and, where the contender is its own load, the load; the load generators of gRPC and JSON, about 1 µs per message in batches of 100, are left out.

"Raw" is the multi-row INSERT of the same rows into the same table, numbered in advance, 1000 rows per statement on 4 connections, without decisions, lookups or
locks: binary arrays through \`unnest\`, prepared once, which is the fastest INSERT that was measured.
`;
}
