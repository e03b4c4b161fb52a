// Prints the files for the runner of `npm test`: generated files that each run several test files
// in one process, and the test files that have a process of their own.
//
// A process costs 0.3 to 1 s of CPU before its first test, and runs its first calls unoptimized:
// one process per file took a quarter of the CPU of all tests. The longest processes start first:
// in the order of their names, a core was idle for the last minute.
import { globSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';

const root = join(import.meta.dirname, '../..');
// Not below node_modules, where the runner finds no files.
const folder = join(root, 'test/.groups');

/** Processes per kind of test file. Files in other folders have a process of their own. */
const groups: Record<string, number> = {
  architecture: 1,
  browser: 2,
  contract: 4,
  faults: 2,
  process: 5,
  property: 1,
  unit: 2,
};

/** Files of those folders that need a process of their own. */
const alone = new Set([
  // Measures the growth of the process, which garbage of earlier files would hide.
  'test/contract/one-request.test.ts',
  // Compare what calls cost, or how long they wait.
  'test/contract/closed-loops.test.ts',
  'test/contract/overload.test.ts',
  'test/faults/chaos.test.ts',
  // Replaces Date.
  'test/faults/clock-jump.test.ts',
]);

/**
 * Seconds that the longest files take beside others, which only decide about groups and order.
 * `npm test` prints the time of each file.
 */
const longest: Record<string, number> = {
  'test/browser/console-admin.test.ts': 32,
  'test/browser/console-compose.test.ts': 28,
  'test/browser/console-pages.test.ts': 49,
  'test/browser/docs.test.ts': 40,
  'test/contract/batches.test.ts': 37,
  'test/contract/channels.test.ts': 20,
  'test/contract/client.test.ts': 31,
  'test/contract/closed-loops.test.ts': 34,
  'test/contract/fuzz.test.ts': 30,
  'test/contract/leaving.test.ts': 16,
  'test/contract/one-request.test.ts': 29,
  'test/contract/overload.test.ts': 42,
  'test/contract/send-batch.test.ts': 16,
  'test/contract/tail.test.ts': 28,
  'test/contract/traces.test.ts': 16,
  'test/contract/webhooks.test.ts': 39,
  'test/faults/chaos.test.ts': 40,
  'test/faults/database-restart.test.ts': 17,
  'test/faults/exhaustion.test.ts': 16,
  'test/faults/full-disk.test.ts': 23,
  'test/faults/half-open.test.ts': 54,
  'test/faults/held-channels.test.ts': 32,
  'test/process/batch-kill.test.ts': 26,
  'test/process/cli.test.ts': 27,
  'test/process/embedded.test.ts': 16,
  'test/process/kill.test.ts': 16,
  'test/process/late-database.test.ts': 29,
  'test/process/migrate.test.ts': 24,
  'test/process/package.test.ts': 58,
  'test/process/readme.test.ts': 63,
  'test/process/rolling.test.ts': 34,
  'test/process/send-file.test.ts': 67,
  'test/process/start.test.ts': 81,
  'test/process/upgrade.test.ts': 19,
  'test/process/webhooks.test.ts': 19,
  'test/property/membership.test.ts': 19,
  'test/property/model.test.ts': 20,
  'test/shards/batches.test.ts': 60,
  'test/shards/reading.test.ts': 93,
  'test/shards/sending.test.ts': 80,
  'test/unit/batches/batch-rules.test.ts': 22,
  'test/unit/batches/batch-slots.test.ts': 29,
  'test/unit/postgres/embedded.test.ts': 43,
};
const usualSeconds = 3;
const secondsOf = (file: string) => longest[file] ?? usualSeconds;

interface Process {
  readonly name: string;
  readonly files: string[];
  seconds: number;
}

/** Gives each file to the shortest process of its kind so far, the longest files first. */
function share(kind: string, files: readonly string[], count: number): Process[] {
  const shares = Array.from({ length: count }, (_, index) => ({ name: `${kind}-${index + 1}`, files: [], seconds: 0 }));
  return files
    .toSorted((a, b) => secondsOf(b) - secondsOf(a))
    .reduce((processes: Process[], file) => {
      const shortest = processes.reduce((least, each) => (each.seconds < least.seconds ? each : least));
      shortest.files.push(file);
      shortest.seconds += secondsOf(file);
      return processes;
    }, shares);
}

function writeGroup({ name, files }: Process): string {
  const path = join(folder, `${name}.test.mjs`);
  const runFiles = JSON.stringify(relative(folder, join(import.meta.dirname, 'run-files.ts')));
  writeFileSync(path, `import { runFiles } from ${runFiles};\nrunFiles(${JSON.stringify(files, undefined, 2)});\n`);
  return relative(root, path);
}

mkdirSync(folder, { recursive: true });
const kindOf = (file: string) => (alone.has(file) ? '' : (file.split('/')[1] ?? ''));
const byKind = Object.groupBy(globSync('test/**/*.test.ts', { cwd: root }).sort(), kindOf);
const processes = Object.entries(byKind).flatMap(([kind, files = []]) => {
  const count = groups[kind];
  return count === undefined
    ? files.map((name): Process => ({ name, files: [name], seconds: secondsOf(name) }))
    : share(kind, files, count);
});
for (const each of processes.sort((a, b) => b.seconds - a.seconds))
  console.log(each.name.includes('/') ? each.name : writeGroup(each));
