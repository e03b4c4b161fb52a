/**
 * Holds the layout of src: which folder may import which, no import cycles, where SQL stands, and
 * which files are pure.
 *
 * - `order` lists the folders from the bottom up. A file imports from its own folder and from
 *   folders below it.
 * - A cycle of files is refused even when all of its imports are type-only.
 * - `pure` lists decisions that read no clock, no random source and no I/O, so that a test can hold
 *   them to a model.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, test } from 'node:test';

const root = join(import.meta.dirname, '../..');

/** Folders and root files of src, from the bottom up. */
const order = [
  'limits',
  'time',
  'observability',
  'postgres',
  'messages',
  'overload',
  'auth',
  'rate-limits',
  'templates',
  'moderation',
  'webhooks',
  'integrity',
  'sending',
  'reading',
  'retention',
  'channels',
  'changes',
  'tailing',
  'batches',
  'reach',
  'overview',
  'transcode',
  'openapi',
  'rpc',
  'server',
  'config',
  'app',
  'client',
  'message-files',
  'cli',
  'main',
];

/** Isolated folders: the only parts of src and gen that each may import. */
const alone: Readonly<Record<string, readonly string[]>> = {
  limits: [],
  time: [],
  observability: [],
  config: [],
  client: ['gen/client'],
  'message-files': ['gen/client'],
  transcode: ['gen/google'],
  openapi: ['gen/google', 'gen/sendbatch', 'transcode'],
  main: ['cli'],
};

/** Only protocol folders read generated code: capabilities below `transcode` know no Protobuf. */
const readsGenerated = ['transcode', 'openapi', 'rpc', 'server', 'client', 'message-files', 'cli'];

/** The only packages that a folder may import. Folders that are not listed may import any. */
const packages: Readonly<Record<string, RegExp>> = {
  client: /^@(bufbuild\/protobuf|connectrpc\/connect)(\/|$)/,
  'message-files': /^(@bufbuild\/protobuf|leven|temporal-polyfill)(\/|$)/,
  transcode: /^(@bufbuild\/protobuf|@connectrpc\/connect|leven|node:)/,
};

/** Decisions without clock, random source or I/O. They import only one another and `limits`. */
const pure = [
  'batches/batch.ts',
  'changes/change-rules.ts',
  'integrity/journal-entry.ts',
  'integrity/scan.ts',
  'integrity/violations.ts',
  'messages/append-plan.ts',
  'messages/caller.ts',
  'messages/channel.ts',
  'messages/disclosure.ts',
  'messages/message.ts',
  'messages/page.ts',
  'messages/permission.ts',
  'messages/plain-message.ts',
  'messages/service-error.ts',
  'messages/stored-row.ts',
  'moderation/keyword-automaton.ts',
  'moderation/payload-normalize.ts',
  'moderation/rules.ts',
  'overload/concurrency-limit.ts',
  'overview/interval.ts',
  'rpc/validation-messages.ts',
  'sending/group-layout.ts',
  'templates/plain-template.ts',
  'templates/refusals.ts',
  'templates/template.ts',
  'templates/variables.ts',
  'time.ts',
  'webhooks/webhook.ts',
];

interface Import {
  /** The specifier as written. */
  readonly specifier: string;
  readonly isTypeOnly: boolean;
  /** The path below the project's root; undefined for a package. */
  readonly file: string | undefined;
}

const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort();
const textOf = (file: string) => readFileSync(join(root, 'src', file), 'utf8');
const importsOf = new Map(files.map((file) => [file, findImports(file)]));

function findImports(file: string): Import[] {
  const pattern =
    /(?:^|\n)(?:import|export)( type)?\b[^;]*?from '([^']+)'|(?:^|\n)import '([^']+)'|\bimport\('([^']+)'\)/g;
  return [...textOf(file).matchAll(pattern)].map(([, type, named, bare, dynamic]) => {
    const specifier = named ?? bare ?? dynamic ?? '';
    return {
      specifier,
      isTypeOnly: type !== undefined,
      file: specifier.startsWith('.')
        ? relative(root, normalize(join(root, 'src', dirname(file), specifier)))
        : undefined,
    };
  });
}

/**
 * Maps `src/sending/append.ts` to `sending`, `src/limits.ts` to `limits`, `gen/google/rpc/…` to
 * `gen/google`.
 */
function folderOf(path: string): string {
  const [first = '', second = ''] = path.split('/');
  return first === 'gen' ? `gen/${second}` : second.replace(/\.ts$/, '');
}

describe('every file imports only from its own folder and from folders below it', () => {
  for (const file of files)
    test(file, () => {
      const folder = folderOf(`src/${file}`);
      const height = order.indexOf(folder);
      assert.notEqual(height, -1, `src/${folder} is new: give it a place in the order`);
      for (const { specifier, file: target } of importsOf.get(file) ?? []) {
        if (target === undefined) {
          const allowed = packages[folder];
          assert.ok(allowed === undefined || allowed.test(specifier), `${folder} must not import ${specifier}`);
          continue;
        }
        const other = folderOf(target);
        if (other === folder) continue;
        if (other.startsWith('gen/')) assert.ok(readsGenerated.includes(folder), `${folder} must not import ${other}`);
        else assert.ok(order.indexOf(other) < height, `${folder} must not import ${other}, which is above it`);
        const own = alone[folder];
        assert.ok(own === undefined || own.includes(other), `${folder} stands alone and must not import ${other}`);
      }
    });
});

test('every folder in the order exists', () => {
  const found = new Set(files.map((file) => folderOf(`src/${file}`)));
  assert.deepEqual(
    order.filter((folder) => !found.has(folder)),
    [],
  );
});

test('capabilities import only types from observability', () => {
  const mayRun = ['app', 'cli', 'retention', 'observability'];
  const strangers = files.filter(
    (file) =>
      !mayRun.includes(folderOf(`src/${file}`)) &&
      importsOf.get(file)?.some((each) => each.file?.startsWith('src/observability/') && !each.isTypeOnly),
  );
  assert.deepEqual(strangers, []);
});

describe('each mechanism is used only where it belongs', () => {
  const only = (what: string, pattern: RegExp, where: RegExp) =>
    test(`${what} appears only in ${where.source}`, () => {
      const strangers = files.filter((file) => !where.test(file) && pattern.test(textOf(file)));
      assert.deepEqual(strangers, []);
    });
  only('the environment', /process\.env/, /^config\//);
  only('OpenTelemetry', /from '@opentelemetry|import\('@opentelemetry/, /^observability\//);
  only('SQL', /from '(kysely|pg)['/]|\bsql`/, /^postgres\/|\.sql\.ts$/);
});

describe('pure files read no clock, no random source and no I/O', () => {
  for (const file of pure)
    test(file, () => {
      assert.doesNotMatch(
        textOf(file),
        /Date\.now|new Date\(\)|Math\.random|randomUUID|randomBytes|performance\.now|process\.|setTimeout|setImmediate|\bfetch\(/,
      );
      for (const { specifier, file: target, isTypeOnly } of importsOf.get(file) ?? [])
        if (target === undefined)
          assert.match(specifier, /^(node:(crypto|zlib)|re2js|liquidjs|@bufbuild\/protovalidate)$/, specifier);
        else
          assert.ok(
            isTypeOnly || pure.includes(target.slice('src/'.length)) || target === 'src/limits.ts',
            `${specifier} is not pure`,
          );
    });
});
