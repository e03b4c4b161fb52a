// Writes the figures of docs/operations/sizing.md: those of bench/RESULTS.md. Run by `npm run
// generate`; `--check` compares and changes nothing.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { report, table, writeSection } from './markdown.ts';

const page = 'docs/operations/sizing.md';
const results = readFileSync(join(import.meta.dirname, '../bench/RESULTS.md'), 'utf8');

/** The text of a section of the results. */
function section(title: string): string {
  const [, text] = results.split(`\n## ${title}\n`, 2);
  if (text === undefined) throw new Error(`bench/RESULTS.md has no section "${title}"`);
  return text.split('\n## ', 1)[0] ?? '';
}

/** The rows of a section's tables, by their first cell; a cell by the name of its column. */
function rowsOf(title: string): Map<string, Map<string, string>> {
  const rows = new Map<string, Map<string, string>>();
  let head: string[] = [];
  for (const line of section(title).split('\n')) {
    const cells = line.startsWith('|') ? line.slice(1, -1).split('|') : undefined;
    if (cells === undefined) head = [];
    else if (head.length === 0) head = cells.map((cell) => cell.trim());
    else if (!line.startsWith('| -'))
      rows.set(cells[0]?.trim() ?? '', new Map(cells.map((cell, index) => [head[index] ?? '', cell.trim()])));
  }
  return rows;
}

function cell(title: string, row: string, column: string): string {
  const found = rowsOf(title).get(row)?.get(column);
  if (found === undefined) throw new Error(`bench/RESULTS.md, "${title}": no ${column} of "${row}"`);
  return found;
}

/** What a pattern finds in a section. */
function match(title: string, pattern: RegExp): string {
  const [, found] = pattern.exec(section(title)) ?? [];
  if (found === undefined) throw new Error(`bench/RESULTS.md, "${title}": no ${pattern.source}`);
  return found;
}

/** The median in front of a spread: `0.62 (0.57–0.70)`. */
const median = (text: string) => text.split(' ', 1)[0] ?? '';
const rounded = (text: string) => Number.parseFloat(text).toFixed(0);
const latency = (text: string) => `${text.split(' / ').map(rounded).join(' / ')} ms`;

/** The least and the greatest figure of a column, of all rows. */
function range(title: string, column: string): string {
  return span(
    title,
    [...rowsOf(title)].map(([row]) => cell(title, row, column)),
  );
}

function span(title: string, cells: readonly string[]): string {
  const all = cells.map(Number.parseFloat);
  const [least, greatest] = [Math.min(...all), Math.max(...all)];
  if (!Number.isFinite(least + greatest)) throw new Error(`bench/RESULTS.md, "${title}": not numbers: ${cells}`);
  return `${least.toFixed(0)} to ${greatest.toFixed(0)}`;
}

const endToEnd = 'End to end against raw, Zipf';
const singles = 'Single messages';
const openLoop = 'Open loop at half of saturation';
const cpuColumn = 'µs per message (PostgreSQL + Node)';

/** CPU per message in µs: all, PostgreSQL, the service. */
function cpuOf(title: string, row: string): readonly [number, number, number] {
  const [all = NaN, postgres = NaN, service = NaN] = cell(title, row, cpuColumn)
    .split(/[^\d.]+/)
    .filter((part) => part !== '')
    .map(Number);
  return [all, postgres, service];
}

function rates(): string {
  const served = (load: string, title: string, row: string) => [
    load,
    cell(title, row, 'messages/s'),
    latency(cell(title, row, 'p50 / p99 ms')),
  ];
  const halfLatency = `${range(openLoop, 'p50 ms')} / ${range(openLoop, 'p99 ms')} ms`;
  const large = match('A table of 20 million messages', /empty table: ([\d.]+)/);
  return table([
    ['load', 'messages/s', 'p50 / p99'],
    served('batches of 100, gRPC, 128 in flight', endToEnd, 'gRPC'),
    served('batches of 100, JSON, 128 in flight', endToEnd, 'JSON'),
    served('the same with `WORKERS=2`, gRPC', endToEnd, 'gRPC, 2 workers'),
    served('single messages, gRPC, 128 in flight', singles, 'gRPC'),
    served('single messages, JSON, 128 in flight', singles, 'JSON'),
    ['at half of saturation, batches of 50, gRPC', `${range(openLoop, 'sent/s')} k`, halfLatency],
    ['one batch of 100 at a time, idle service', '', `${cell('One batch at a time', 'gRPC', 'p50 ms')} ms (p50)`],
    [
      'on top of 20 million messages (storage)',
      `${large} of an empty table`,
      'the once-only index no longer fits the cache',
    ],
  ]);
}

function cpuPerMessage(): string {
  const [all, postgres, service] = cpuOf(endToEnd, 'gRPC');
  const [grpc] = cpuOf(singles, 'gRPC');
  const [json] = cpuOf(singles, 'JSON');
  return `Per message in batches of 100 over gRPC: about ${postgres.toFixed(0)} µs of PostgreSQL and ${service.toFixed(0)} µs of the service. So 10,000 messages per second need about ${(all / 100).toFixed(1)} cores, and single messages about ${((grpc + json) / 2 / all).toFixed(0)} times as much (${json.toFixed(0)} to ${grpc.toFixed(0)} µs each). **Batch size is the strongest lever.**`;
}

function features(): string {
  const rate = (title: string, row: string) => median(cell(title, row, 'by rate'));
  const counted = 'Rates counted against no rates';
  const template = 'A template against messages written out';
  return table([
    ['feature', 'rate against without'],
    ['senders are members, not system uids', rate('Members of channels against system senders', 'members')],
    ['a quota of the caller, in memory', rate(counted, 'of the caller')],
    ['quotas of caller, senders and channels', rate(counted, 'of caller, senders and channels')],
    ['half of the messages were sent before', rate('Half of the messages sent before', 'half repeated')],
    [
      'a template instead of payloads of 500 bytes',
      `${match(template, /by rate ([\d.]+)/)}, with ${match(template, /([\d.]+) times fewer bytes/)} times fewer bytes`,
    ],
  ]);
}

function memory(): string {
  const idle = 'Idle readers';
  const grown = 'Memory after ten million messages';
  const [, ...megabytes] = [...(rowsOf(grown).get('MB')?.values() ?? [])];
  return table([
    ['what', 'resident memory of a process'],
    ['after 1 to 10 million messages, 32 in flight', `${span(grown, megabytes)} MB`],
    [
      'under twice the capacity, with load shedding',
      `${match('Overload: at twice the capacity', /refuses had ([\d.]+) MB/)} MB`,
    ],
    [
      'idle, and per idle tail',
      `${median(cell(idle, 'gRPC', 'MB before'))} MB, and ${range(idle, 'KB per subscription')} kB per tail, by protocol`,
    ],
    ['request bodies', 'at most 256 MiB in all, then the slowest uploads are refused'],
  ]);
}

report([
  ...writeSection(page, 'rates', `${rates()}\n\n${cpuPerMessage()}\n\n${features()}`),
  ...writeSection(page, 'memory', memory()),
]);
