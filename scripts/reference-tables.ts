// Writes the tables of docs/reference: errors, limits, routes, metrics, log events. Run by `npm run
// generate`; `--check` compares and changes nothing.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { comments } from '../gen/sendbatch/comments.ts';
import { LimitsSchema } from '../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../src/limits.ts';
import { reasonCodes } from '../src/messages/permission.ts';
import type { Reason } from '../src/messages/service-error.ts';
import { type LogEventInfo, logEvents } from '../src/observability/log-events.ts';
import { type Metric, metrics } from '../src/observability/metrics.ts';
import { reasonTexts } from '../src/openapi/errors.ts';
import { knownReasons } from '../src/rpc/error-mapping.ts';
import { guardedServices, scopeOf } from '../src/rpc/interceptors/authenticate.ts';
import { compileBindings } from '../src/transcode/compile-bindings.ts';
import { report, table, writeSection } from './markdown.ts';
import { advice } from './reasons.ts';

const faults: string[] = [];
const fault = (text: string): string => {
  faults.push(text);
  return '';
};

function errorTable(): string {
  const when = reasonTexts(Object.values(comments));
  const rows = knownReasons.map(({ reason, http, body }) => {
    const { error } = body('') as { error: { status: string } };
    const { retry, action, when: own } = advice[reason as Reason];
    return [
      `\`${reason}\``,
      error.status,
      String(http),
      String(reasonCodes[reason as Reason] ?? ''),
      retry,
      own ?? when.get(reason) ?? fault(`the proto has no row for ${reason}`),
      action,
    ];
  });
  rows.sort(([a = ''], [b = '']) => (a < b ? -1 : 1));
  return table([['reason', 'gRPC code', 'HTTP', 'legacy', 'retry', 'when', 'what to do'], ...rows]);
}

function limitTable(): string {
  const file = 'src/limits.ts';
  const source = readFileSync(join(import.meta.dirname, '..', file), 'utf8');
  const meanings = new Map(
    [...source.matchAll(/\/\*\*\s*([^*]*(?:\*(?!\/)[^*]*)*)\*\/\s*(\w+):/g)].map(([, comment = '', name = '']) => [
      name,
      comment.replace(/\s*\n?\s*\* +/g, ' ').trim(),
    ]),
  );
  const served = new Map(LimitsSchema.fields.map((field) => [field.localName, field.name]));
  const rows = Object.entries(limits).map(([name, value]) => [
    `\`${served.get(name) ?? name}\``,
    served.has(name) ? 'yes' : '',
    name.endsWith('Bytes') || name === 'chunkChars' ? bytes(value) : value.toLocaleString('en-US'),
    meanings.get(name) ?? fault(`${file}: ${name} has no comment`),
  ]);
  const servedFirst = rows.toSorted(([, a], [, b]) => Number(a === '') - Number(b === ''));
  return table([['name', 'served', 'limit', 'what it bounds'], ...servedFirst]);
}

const openedBy = { any: 'any credential', none: 'none' };

/** Formats a section per service: each RPC with its JSON routes. */
function routeSections(): string {
  const bindings = compileBindings(guardedServices, () => ({}));
  return guardedServices
    .map((service) => {
      const rows = service.methods.map((method) => {
        const scope = scopeOf(method);
        const routes = bindings.filter((binding) => binding.method === method);
        const text = comments[`${service.typeName}.${method.name}`] ?? fault(`${method.name} has no comment`);
        return [
          `\`${method.name}\`${method.methodKind === 'unary' ? '' : ' (stream)'}`,
          routes.map(({ verb, template }) => `\`${verb} ${template.text}\``).join(', '),
          scope === 'any' || scope === 'none' ? openedBy[scope] : `\`${scope}\``,
          firstSentence(text),
        ];
      });
      return `### ${service.name}\n\n${table([['RPC', 'JSON route', 'scope', 'what it does'], ...rows])}`;
    })
    .join('\n\n');
}

function firstSentence(text: string): string {
  const line = text.split('\n\n')[0]?.replaceAll('\n', ' ') ?? '';
  return /^.*?[.:](?= |$)/.exec(line)?.[0].replace(/:$/, '.') ?? line;
}

const units = ['seconds', 'bytes', 'ratio', 'messages', 'batches', 'connections', 'channels', 'deliveries'];

function metricTable(): string {
  const rows = Object.values<Metric>(metrics).map(({ name, kind, help, labels = [] }) => [
    `\`${name}\``,
    kind,
    name.split('_').findLast((part) => units.includes(part)) ?? '',
    labels.map((label) => `\`${label}\``).join(', '),
    help,
  ]);
  return table([['name', 'type', 'unit', 'labels', 'meaning'], ...rows]);
}

function logEventTable(): string {
  const rows = Object.values<LogEventInfo>(logEvents).map(({ level, message, fields, meaning }) => [
    `\`${message}\``,
    level,
    fields.map((field) => `\`${field}\``).join(', '),
    meaning,
  ]);
  return table([['msg', 'level', 'fields', 'meaning, and what to do'], ...rows]);
}

function bytes(value: number): string {
  if (value % 2 ** 20 === 0) return `${value / 2 ** 20} MiB`;
  if (value % 2 ** 10 === 0) return `${value / 2 ** 10} KiB`;
  return value.toLocaleString('en-US');
}

const tables = {
  errors: errorTable(),
  limits: limitTable(),
  routes: routeSections(),
  metrics: metricTable(),
  'log-events': logEventTable(),
};
if (faults.length === 0)
  for (const [name, text] of Object.entries(tables))
    faults.push(...writeSection(`docs/reference/${name}.md`, name, text));
report(faults);
