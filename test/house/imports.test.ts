import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, test } from 'node:test';

const root = join(import.meta.dirname, '../..');

/** Which rooms a room may import from. Data goes one way: edge, service, storage; domain knows nobody. */
const mayImport: Record<string, readonly string[]> = {
  domain: ['limits'],
  transcode: ['gen/google'],
  storage: ['domain', 'limits'],
  service: ['storage', 'domain', 'limits'],
  edge: ['service', 'domain', 'transcode', 'limits', 'events', 'gen/google', 'gen/grpc', 'gen/sendbatch', 'openapi'],
  openapi: ['gen/google', 'gen/sendbatch', 'transcode'],
  'open-server': ['config', 'events', 'storage'],
  'open-tails': ['background', 'domain', 'events', 'open-server', 'service', 'storage'],
  'open-batches': ['background', 'config', 'events', 'open-server', 'service', 'storage'],
  'open-webhooks': ['background', 'config', 'domain', 'events', 'open-server', 'service', 'storage', 'version'],
  client: ['gen/client'],
  cli: [
    'client',
    'config',
    'domain',
    'events',
    'gen/google',
    'gen/sendbatch',
    'open-server',
    'serve',
    'service',
    'version',
  ],
  background: [],
  app: [
    'background',
    'config',
    'edge',
    'service',
    'storage',
    'events',
    'limits',
    'open-batches',
    'open-server',
    'open-tails',
    'open-webhooks',
    'telemetry',
    'version',
  ],
  main: ['cli'],
  serve: ['app', 'config', 'edge', 'events', 'open-server', 'version', 'worker-metrics', 'workers'],
  workers: ['app', 'events', 'worker-metrics'],
  'worker-metrics': ['telemetry'],
  config: [],
  limits: [],
  events: ['domain', 'log-throttle', 'telemetry'],
  'log-throttle': [],
  telemetry: [],
  version: [],
};
/** The packages that a room is about; others may import what they like, these only what stands here. */
const packages: Record<string, RegExp> = {
  domain: /^(node:(crypto|zlib)|re2js|liquidjs)$/,
  client: /^@(bufbuild\/protobuf|connectrpc\/connect)(\/|$)/,
  transcode: /^(@bufbuild\/protobuf|@connectrpc\/connect|leven|node:)/,
  telemetry: /^(@opentelemetry\/|node:)/,
};

const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
);

function roomOf(path: string): string {
  const parts = relative(root, path).split('/');
  if (parts[0] === 'gen') return `gen/${parts[1]}`;
  return (parts[1] ?? '').replace(/\.ts$/, '');
}

function importsOf(file: string): { name: string; room: string | undefined }[] {
  const text = readFileSync(join(root, 'src', file), 'utf8');
  const names = [...text.matchAll(/(?:^|\n)(?:import|export)[^;]*?from '([^']+)'|\bimport\('([^']+)'\)/g)].map(
    (match) => match[1] ?? match[2] ?? '',
  );
  return names.map((name) => ({
    name,
    room: name.startsWith('.') ? roomOf(normalize(join(root, 'src', dirname(file), name))) : undefined,
  }));
}

describe('imports point one way', () => {
  for (const file of files) {
    test(file, () => {
      const room = roomOf(join(root, 'src', file));
      const allowed = mayImport[room];
      assert.ok(allowed !== undefined, `${room} is a new room: say here what it may import`);
      for (const imported of importsOf(file)) {
        if (imported.room === undefined) {
          const own = packages[room];
          assert.ok(own === undefined || own.test(imported.name), `${room} must not import ${imported.name}`);
        } else if (imported.room !== room) {
          assert.ok(allowed.includes(imported.room), `${room} must not import ${imported.room} (${imported.name})`);
        }
      }
    });
  }
});

describe('each thing in its room', () => {
  const only = (what: string, pattern: RegExp, where: RegExp) =>
    test(`${what} only in ${where.source}`, () => {
      const strangers = files.filter(
        (file) => !where.test(file) && pattern.test(readFileSync(join(root, 'src', file), 'utf8')),
      );
      assert.deepEqual(strangers, []);
    });
  only('the environment', /process\.env/, /^config\.ts$/);
  only('OpenTelemetry', /from '@opentelemetry|import\('@opentelemetry/, /^telemetry\//);
  only('SQL', /from '(kysely|pg)['/]|\bsql`/, /^storage\//);
  only(
    'the clock and chance away from the domain',
    /Date\.now|Math\.random|randomUUID|performance\.now/,
    /^(?!domain\/)/,
  );
});
