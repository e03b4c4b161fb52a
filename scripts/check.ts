// Checks everything that must hold before a change lands, fastest failures first. Run as `npm run
// check`.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..');
/**
 * Contract breaks accepted before the first release, each identified by buf's message. The first
 * release empties the list, and nothing may be added after it.
 */
const acceptedBreaks = [
  // The errors of results became plain fields: clients could not read google.protobuf.Any without a
  // registry.
  'Previously present field "5" with name "error" on message "SendResult" was deleted.',
  'Previously present field "6" with name "error" on message "BatchResult" was deleted.',
  'Previously present field "15" with name "last_error" on message "Batch" was deleted.',
];

/** The packages of code generated for other languages had no names before. */
const namesForLanguages =
  /^File option "(csharp_namespace|go_package|java_multiple_files|java_package|php_namespace|ruby_package)" changed from "(false)?" to /;

run('types', 'tsc', ['-p', '.']);
run('types of the console', 'tsc', ['-p', 'console']);
run('types of the examples', 'tsc', ['-p', 'examples']);
run('lint and format', 'biome', ['check', '.']);
run('proto lint', 'buf', ['lint']);
run('proto format', 'buf', ['format', '--diff', '--exit-code', 'proto']);
breaking();
migrationsOnlyAdded();
generatedIsCurrent();
for (const script of ['scripts/settings-table.ts', 'scripts/reference-tables.ts', 'scripts/sizing-tables.ts'])
  run(`tables of ${script} are current (npm run generate)`, process.execPath, [script, '--check']);
run('dead code', 'knip', []);
run('links of the documents (npm run links)', process.execPath, ['scripts/links.ts']);
// American English; words missing in the dictionary are in scripts/words.txt.
run('spelling (npm run spelling)', 'npm', ['run', '--silent', 'spelling']);
audit();
console.log('check: all good');

/**
 * Known vulnerabilities of production dependencies, of severity high or above. A registry that
 * cannot report them (mirrors often cannot) does not fail the check, and is named.
 */
function audit(): void {
  const { stdout } = spawnSync('npm', ['audit', '--omit=dev', '--json'], { cwd: root, encoding: 'utf8' });
  const report = parse(stdout) as { metadata?: { vulnerabilities?: Record<string, number> } };
  const found = report.metadata?.vulnerabilities;
  if (found === undefined) {
    console.log('check: audit: the registry answers no audits; not done');
    return;
  }
  if ((found.high ?? 0) + (found.critical ?? 0) > 0) {
    console.error(`check: audit: FAILED\n${stdout}`);
    process.exit(1);
  }
  console.log('check: audit: ok');
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

/**
 * The base of the comparison: the last commit on main, or this commit's parent when main is
 * checked.
 */
function landed(): string | undefined {
  return ['origin/main', 'HEAD~1'].find(
    (ref) => git('rev-parse', '--verify', '--quiet', `${ref}^{commit}`) !== undefined,
  );
}

/** A database may have applied a landed migration: an edit would never reach it. */
function migrationsOnlyAdded(): void {
  const base = landed();
  const edited =
    base === undefined ? '' : git('diff', '--name-only', '--diff-filter=M', base, '--', 'src/postgres/migrations');
  if (edited !== undefined && edited !== '') {
    console.error(`check: migrations that landed are edited: FAILED\n${edited}\nAdd another migration instead.`);
    process.exit(1);
  }
  console.log('check: no migration that landed is edited: ok');
}

function breaking(): void {
  const base = landed();
  if (base === undefined || git('ls-tree', base, 'proto/sendbatch') === '') {
    console.log('check: proto breaking: nothing landed yet to compare with');
    return;
  }
  const { stdout, status } = spawnSync(
    'buf',
    ['breaking', '--against', `.git#ref=${git('rev-parse', base)}`, '--error-format', 'json'],
    { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const breaks = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => parse(line) as { path?: string; message?: string })
    .filter(({ message = '' }) => !acceptedBreaks.includes(message) && !namesForLanguages.test(message));
  if (breaks.length > 0 || (status !== 0 && stdout === '')) {
    for (const { path, message } of breaks) console.error(`${path}: ${message}`);
    console.error('check: proto breaking: FAILED');
    process.exit(1);
  }
  console.log('check: proto breaking: ok');
}

/** Generates into a copy and compares, so that the check changes nothing. */
function generatedIsCurrent(): void {
  const work = mkdtempSync(join(tmpdir(), 'sendbatch-gen-'));
  try {
    for (const name of ['proto', 'buf.yaml', 'buf.gen.yaml', 'buf.gen.client.yaml', 'package.json'])
      cpSync(join(root, name), join(work, name), { recursive: true });
    run('generate', 'buf', ['generate'], work);
    run('generate for clients', 'buf', ['generate', '--template', 'buf.gen.client.yaml'], work);
    run('generate comments', process.execPath, [join(root, 'scripts/generate-comments.ts')], work);
    const vite = join(root, 'node_modules/vite/bin/vite.js');
    const consoleOptions = ['--outDir', join(work, 'gen/console'), '--logLevel', 'error'];
    run('build the console', process.execPath, [vite, 'build', join(root, 'console'), ...consoleOptions]);
    run('generated code is current (npm run generate)', 'git', [
      'diff',
      '--no-index',
      '--stat',
      '--exit-code',
      join(root, 'gen'),
      join(work, 'gen'),
    ]);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function run(what: string, command: string, args: string[], cwd = root): void {
  const started = performance.now();
  const { status, error } = spawnSync(command, args, { cwd, stdio: 'inherit' });
  if (error !== undefined || status !== 0) {
    console.error(`check: ${what}: FAILED${error === undefined ? '' : ` (${error.message})`}`);
    process.exit(1);
  }
  console.log(`check: ${what}: ok (${((performance.now() - started) / 1000).toFixed(1)} s)`);
}

function git(...args: string[]): string | undefined {
  const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}
