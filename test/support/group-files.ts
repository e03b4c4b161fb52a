// Prints the files for the runner of `npm test`: generated files that each run several test files
// in one process, and the test files that have a process of their own.
//
// A process costs 0.3 to 1 s of CPU before its first test, and runs its first calls unoptimized:
// one process per file took a quarter of the CPU of all tests.
import { globSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';

const root = join(import.meta.dirname, '../..');
// Not below node_modules, where the runner finds no files.
const folder = join(root, 'test/.groups');

/** Processes per kind of test file. Files in other folders have a process of their own. */
const groups: Record<string, number> = {
  architecture: 1,
  browser: 1,
  contract: 4,
  faults: 2,
  process: 3,
  property: 2,
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

mkdirSync(folder, { recursive: true });

const members = new Map<string, string[]>();
const files = globSync('test/**/*.test.ts', { cwd: root })
  .sort()
  .flatMap((file, index) => {
    const kind = file.split('/')[1] ?? '';
    const count = groups[kind];
    if (count === undefined || alone.has(file)) return [file];
    // Neighbors have much in common, so each process gets some of them.
    const name = `${kind}-${(index % count) + 1}`;
    members.set(name, [...(members.get(name) ?? []), file]);
    return [];
  });
for (const [name, grouped] of members) {
  const path = join(folder, `${name}.test.mjs`);
  const runFiles = JSON.stringify(relative(folder, join(import.meta.dirname, 'run-files.ts')));
  writeFileSync(path, `import { runFiles } from ${runFiles};\nrunFiles(${JSON.stringify(grouped, undefined, 2)});\n`);
  files.push(relative(root, path));
}
console.log(files.join('\n'));
