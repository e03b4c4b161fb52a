import { createReadStream } from 'node:fs';
import { PassThrough, pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { CommandError } from '../usage.ts';
import { CsvError, CsvReader, type CsvRow, cellsBy, delimiters } from './csv.ts';
import { decodeLines } from './decode.ts';
import { FileFault } from './file-fault.ts';
import { fileTroubles } from './fs-error-messages.ts';

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
  /** Ends by a FileFault where nothing behind it can be read. */
  readonly entries: AsyncIterable<Entry>;
  /** Bytes of the file that were taken so far. */
  bytesRead(): number;
  /** Reads no further: the entries end. */
  close(): void;
}

export type Shape = 'ndjson' | 'csv';

/** How a file is read. */
export interface SourceOptions {
  readonly shape: Shape;
  /** Between columns of CSV; undefined: what the header line shows. */
  readonly delimiter: string | undefined;
  readonly encoding: string;
  /** Names of columns by which a delimiter is told from a character of a name. */
  readonly names: readonly string[];
  /** Told of the header line of CSV before the first entry. */
  readonly onHeader: (names: readonly string[]) => void;
  /** Told what a person should know. */
  readonly onNote: (text: string) => void;
  /** Told of each piece of the file, as it is stored. */
  readonly onBytes?: (chunk: Buffer) => void;
}

/** What a file holds, by its name. */
export function shapeOf(file: string): Shape {
  return /\.(csv|tsv)(\.gz)?$/i.test(file) ? 'csv' : 'ndjson';
}

/** Opens a file, or standard input (`-`); what ends in .gz is unpacked. */
export function openSource(file: string, options: SourceOptions): Source {
  const raw = file === '-' ? process.stdin : createReadStream(file);
  let bytes = 0;
  raw.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    options.onBytes?.(chunk);
  });
  const unpacked = new PassThrough();
  const stages = /\.gz$/i.test(file) ? ([raw, createGunzip(), unpacked] as const) : ([raw, unpacked] as const);
  // A pipeline ends what it leads to with the error, which the reader below then gets.
  pipeline(stages, () => {});
  const text = decodeLines(unpacked as AsyncIterable<Buffer>, options.encoding);
  const entries = options.shape === 'csv' ? readRows(text, options) : readLines(text);
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

async function* readLines(pieces: AsyncIterable<string>): AsyncGenerator<Entry> {
  let line = 0;
  /** The first line, while the second is not known. */
  let first: Entry | undefined;
  let isFirst = true;
  for await (const piece of pieces) {
    const lines = piece.split('\n');
    if (lines.at(-1) === '') lines.pop();
    for (const text of lines) {
      line++;
      if (text.trim() === '') continue;
      const entry = entryOf(line, text);
      if (isFirst) {
        isFirst = false;
        if (/^\s*(\[\s*$|\[\s*\{)/.test(text))
          throw new CommandError('it is an array in JSON, not a message a line: jq -c ".[]" FILE makes lines of it');
        first = isObject(text) ? undefined : entry;
        if (first !== undefined) continue;
      }
      if (first !== undefined) {
        if (!isObject(text))
          throw new CommandError('its first lines are no objects in JSON: is it CSV? Then give --input csv');
        yield first;
        first = undefined;
      }
      yield entry;
    }
  }
  if (first !== undefined) yield first;
}

function isObject(text: string): boolean {
  return text.trimStart().startsWith('{');
}

function entryOf(line: number, text: string): Entry {
  const json = text.replace(/\r$/, '');
  return { line, text: json, content: { json } };
}

async function* readRows(pieces: AsyncIterable<string>, options: SourceOptions): AsyncGenerator<Entry> {
  let reader: CsvReader | undefined;
  let header: readonly string[] | undefined;
  let held = '';
  const take = function* (rows: Iterable<CsvRow>): Generator<Entry> {
    for (const row of rows) {
      if (header !== undefined) yield rowOf(row, header);
      else {
        header = namesOf(row);
        options.onHeader(header);
      }
    }
  };
  for await (const piece of pieces) {
    held += piece;
    if (reader === undefined) {
      const opened = openReader(held, options);
      if (opened === undefined) continue;
      reader = opened.reader;
      held = opened.rest;
    }
    const text = held;
    held = '';
    yield* take(reader.push(text));
  }
  if (reader === undefined) {
    const opened = openReader(`${held}\n`, options);
    reader = opened?.reader ?? new CsvReader(',');
    yield* take(reader.push(opened?.rest ?? held));
  }
  yield* take(reader.end());
  if (header === undefined) throw new CommandError('there is no header line, which names the columns');
}

/** A header line that is longer is none. */
const longestHeader = 1024 * 1024;

/** A reader by the header line; undefined: that has not come yet. Excel writes `sep=;` as a line before it. */
function openReader(
  text: string,
  options: SourceOptions,
): { readonly reader: CsvReader; readonly rest: string } | undefined {
  const [sep, said = ''] = /^sep=(.)\r?\n/i.exec(text) ?? [];
  if (sep !== undefined) {
    if (options.delimiter !== undefined && options.delimiter !== said)
      throw new CommandError(
        `its first line says that columns are separated by ${JSON.stringify(said)}, not as --delimiter says`,
      );
    return { reader: new CsvReader(said, 2), rest: text.slice(sep.length) };
  }
  if (options.delimiter !== undefined) return { reader: new CsvReader(options.delimiter), rest: text };
  const line = headerLine(text);
  if (line === undefined) {
    if (text.length > longestHeader) throw new CommandError('it has no header line, which names the columns');
    return undefined;
  }
  return { reader: new CsvReader(detect(line, options)), rest: text };
}

/** The first line that holds something, by its end outside quotes. */
function headerLine(text: string): string | undefined {
  let isQuoted = false;
  let from = 0;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '"') isQuoted = !isQuoted;
    if (isQuoted || (char !== '\n' && char !== '\r')) continue;
    if (at > from) return text.slice(from, at);
    from = at + 1;
  }
  return undefined;
}

/** What separates the columns of a header line. Where several characters could, that by which more of the known names come out. */
function detect(line: string, { names, onNote }: SourceOptions): string {
  const able = delimiters.filter((each) => cellsBy(line, each).length > 1);
  const scored = able.map((each) => ({
    delimiter: each,
    known: cellsBy(line, each).filter((cell) => names.includes(cell.trim().toLowerCase())).length,
  }));
  scored.sort((a, b) => b.known - a.known);
  const [best, second] = scored;
  if (best === undefined) return ',';
  if (second !== undefined && second.known === best.known)
    throw new CommandError(
      `its header line has ${able.map(wordOf).join(' and ')}: give --delimiter, which says what separates the columns`,
    );
  if (best.delimiter !== ',') onNote(`columns are separated by ${wordOf(best.delimiter)} (--delimiter says otherwise)`);
  return best.delimiter;
}

function wordOf(delimiter: string): string {
  return delimiter === '\t' ? 'tabs' : JSON.stringify(delimiter);
}

function namesOf({ cells, fault, line }: CsvRow): string[] {
  if (fault !== undefined) throw new FileFault(line, fault);
  const names = cells.map((name) => name.trim());
  const odd = names.find((name, index) => name === '' || names.indexOf(name) !== index);
  if (odd === undefined) return names;
  throw new CommandError(
    odd === ''
      ? 'a column of the header line has no name'
      : `the header line has the column ${JSON.stringify(odd)} twice`,
  );
}

function rowOf({ line, text, cells, fault }: CsvRow, header: readonly string[]): Entry {
  const place = { line, text };
  if (fault !== undefined) return { ...place, content: { fault } };
  if (cells.length !== header.length)
    return { ...place, content: { fault: `columns length is ${header.length}, got ${cells.length}` } };
  // No prototype: a column may be named __proto__.
  const row: Record<string, string> = Object.create(null);
  for (const [index, name] of header.entries()) row[name] = cells[index] ?? '';
  return { ...place, content: { row } };
}

/** What is wrong with a file in one line; defects keep their stack. */
async function* withPlainErrors(
  entries: AsyncIterable<Entry>,
  file: string,
  isClosed: () => boolean,
): AsyncGenerator<Entry> {
  const name = file === '-' ? 'standard input' : file;
  try {
    yield* entries;
  } catch (error) {
    if (isClosed()) return;
    if (error instanceof CsvError) throw new FileFault(error.line, error.message, { cause: error, file: name });
    if (error instanceof FileFault) throw new FileFault(error.line, error.why, { cause: error, file: name });
    const code = (error as NodeJS.ErrnoException).code ?? '';
    const isOfFile = error instanceof CommandError || /^(E[A-Z]+|Z_.*)$/.test(code);
    if (!isOfFile) throw error;
    throw new CommandError(`${name}: ${fileTroubles[code] ?? (error as Error).message}`, { cause: error });
  }
}
