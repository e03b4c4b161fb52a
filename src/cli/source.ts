import { createReadStream } from 'node:fs';
import { PassThrough, pipeline, type Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { CsvError, parse } from 'csv-parse';
import { fileTroubles } from './file-trouble.ts';
import { CommandError } from './usage.ts';

/** One entry of a file: a line of NDJSON, or a row of CSV. */
export interface Entry {
  /** The line that it begins on, from 1. */
  readonly line: number;
  /** As it stands there. */
  readonly text: string;
  /** What it holds: a row's columns by their names, or a line as it is. */
  readonly content: { readonly row: Readonly<Record<string, string>> } | { readonly json: string } | { fault: string };
}

/** A file that is read once, from the front. */
export interface Source {
  readonly entries: AsyncIterable<Entry>;
  /** Bytes of the file that were taken so far. */
  bytesRead(): number;
  /** Reads no further: the entries end. */
  close(): void;
}

export type Shape = 'ndjson' | 'csv';

/** What a file holds, by its name. */
export function shapeOf(file: string): { shape: Shape; delimiter: string } {
  const name = file.toLowerCase().replace(/\.gz$/, '');
  return { shape: /\.(csv|tsv)$/.test(name) ? 'csv' : 'ndjson', delimiter: name.endsWith('.tsv') ? '\t' : ',' };
}

/** Opens a file, or standard input (`-`); what ends in .gz is unpacked. */
export function openSource(file: string, shape: Shape, delimiter: string): Source {
  const raw = file === '-' ? process.stdin : createReadStream(file);
  let bytes = 0;
  raw.on('data', (chunk: Buffer | string) => {
    bytes += chunk.length;
  });
  const plain = new PassThrough();
  const rawThenPlain = /\.gz$/i.test(file) ? ([raw, createGunzip(), plain] as const) : ([raw, plain] as const);
  // A pipeline ends what it leads to with the error, which the reader below then gets.
  pipeline(rawThenPlain, () => {});
  const entries = shape === 'csv' ? readRows(plain, delimiter) : readLines(plain);
  let closed = false;
  return {
    entries: withPlainErrors(entries, file, () => closed),
    bytesRead: () => bytes,
    close() {
      closed = true;
      raw.destroy();
    },
  };
}

/** A line's text at most: a message to 10,000 receivers takes 2.6 MB; a file of one line without end must not go into memory. */
const longestLine = 8 * 1024 * 1024;

async function* readLines(input: Readable): AsyncGenerator<Entry> {
  const decoder = new TextDecoder();
  let line = 0;
  let rest = '';
  for await (const chunk of input as AsyncIterable<Buffer>) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    for (const text of lines) {
      line++;
      if (text.trim() !== '') yield entryOf(line, text);
    }
    if (rest.length > longestLine)
      throw new CommandError(`line ${line + 1} is longer than ${longestLine} characters; is this NDJSON?`);
  }
  rest += decoder.decode();
  if (rest.trim() !== '') yield entryOf(line + 1, rest);
}

function entryOf(line: number, text: string): Entry {
  const json = text.replace(/\r$/, '');
  return { line, text: json, content: { json } };
}

/** A payload is 64 KiB at most, base64 adds a third; a quote that is never closed must not take the rest of the file into memory. */
const longestRow = 1024 * 1024;

async function* readRows(input: Readable, delimiter: string): AsyncGenerator<Entry> {
  const faults: Entry[] = [];
  let columns = false;
  const parser = parse({
    bom: true,
    delimiter,
    columns: (header: string[]) => {
      const names = header.map((name) => name.trim());
      const odd = names.find((name, index) => name === '' || names.indexOf(name) !== index);
      if (odd !== undefined)
        throw new CommandError(
          odd === ''
            ? 'a column of the header line has no name'
            : `the header line has the column ${JSON.stringify(odd)} twice`,
        );
      columns = true;
      return names;
    },
    info: true,
    raw: true,
    skip_empty_lines: true,
    max_record_size: longestRow,
    skip_records_with_error: true,
    on_skip: (error, raw) => {
      const text = (raw ?? '').trim();
      const { message = 'cannot be read', lines } = (error ?? {}) as { message?: string; lines?: number };
      faults.push({ line: Number(lines ?? 0), text, content: { fault: message } });
      return undefined;
    },
  });
  pipeline(input, parser, () => {});
  const rows = parser as AsyncIterable<{
    record: Record<string, string>;
    raw: string;
    info: { lines: number };
  }>;
  for await (const { record, raw, info } of rows) {
    const text = raw.trim();
    const line = info.lines - (text.match(/\n/g)?.length ?? 0);
    // The parser is ahead of what is taken from it: what it could not read comes at its place.
    while (faults[0] !== undefined && faults[0].line < line) yield faults.shift() as Entry;
    yield { line, text, content: { row: record } };
  }
  yield* faults;
  if (!columns) throw new CommandError('there is no header line, which names the columns');
}

/** What is wrong with a file in one line; defects keep their stack. */
async function* withPlainErrors(
  entries: AsyncIterable<Entry>,
  file: string,
  isClosed: () => boolean,
): AsyncGenerator<Entry> {
  try {
    yield* entries;
  } catch (error) {
    if (isClosed()) return;
    const code = (error as NodeJS.ErrnoException).code ?? '';
    const ofFile = error instanceof CsvError || error instanceof CommandError || /^(E[A-Z]+|Z_.*)$/.test(code);
    if (!ofFile) throw error;
    const why = fileTroubles[code] ?? (error as Error).message;
    throw new CommandError(`${file === '-' ? 'standard input' : file}: ${why}`, { cause: error });
  }
}
