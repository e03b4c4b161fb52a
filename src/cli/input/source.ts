import { createReadStream } from 'node:fs';
import { PassThrough, pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { CsvError, CsvReader, type CsvRow, cellsBy, delimiters } from '../../message-files/csv.ts';
import { FileFault } from '../../message-files/file-error.ts';
import { CommandError } from '../usage.ts';
import { decodeLines } from './decode.ts';
import { fsErrorMessages } from './fs-error-messages.ts';

/** An entry of a file: a line of NDJSON or a row of CSV. */
export interface Entry {
  /** Its first line, from 1. */
  readonly line: number;
  /** As in the file. */
  readonly text: string;
  /** The cells of a row by column, the text of a line, or why the row is invalid. */
  readonly content: { readonly row: Readonly<Record<string, string>> } | { readonly json: string } | { fault: string };
}

/** A file that is read once, from its start. */
export interface Source {
  /** Throws a FileFault where the rest of the file cannot be read. */
  readonly entries: AsyncIterable<Entry>;
  /** Bytes of the file read so far. */
  bytesRead(): number;
  /** Stops reading: the entries end. */
  close(): void;
}

export type Shape = 'ndjson' | 'csv';

/** How a file is read. */
export interface SourceOptions {
  readonly shape: Shape;
  /** Delimiter of CSV; undefined: detected in the header line. */
  readonly delimiter: string | undefined;
  readonly encoding: string;
  /** Known column names, to detect the delimiter. */
  readonly names: readonly string[];
  /** Called with the header line of CSV, before the first entry. */
  readonly onHeader: (names: readonly string[]) => void;
  /** Called with notes for the operator. */
  readonly onNote: (text: string) => void;
  /** Called with each chunk of the file, as it is stored. */
  readonly onBytes?: (chunk: Buffer) => void;
}

/** The format of a file, by its name. */
export function shapeOf(file: string): Shape {
  return /\.(csv|tsv)(\.gz)?$/i.test(file) ? 'csv' : 'ndjson';
}

/** Opens a file or standard input (`-`); decompresses names that end in .gz. */
export function openSource(file: string, options: SourceOptions): Source {
  const raw = file === '-' ? process.stdin : createReadStream(file);
  let bytes = 0;
  raw.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    options.onBytes?.(chunk);
  });
  const unpacked = new PassThrough();
  const stages = /\.gz$/i.test(file) ? ([raw, createGunzip(), unpacked] as const) : ([raw, unpacked] as const);
  // On an error the pipeline destroys its last stream with it, so the reader below gets the error.
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
  /** The first line, until the second one shows what the file is. */
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
          throw new CommandError('it is a JSON array, not one message per line: convert it with jq -c ".[]" FILE');
        first = isObject(text) ? undefined : entry;
        if (first !== undefined) continue;
      }
      if (first !== undefined) {
        if (!isObject(text))
          throw new CommandError('its first lines are not JSON objects; if it is CSV, use --input csv');
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
  if (header === undefined) throw new CommandError('it has no header line with the names of the columns');
}

/** A longer first line is not a header line. */
const maxHeaderChars = 1024 * 1024;

/**
 * Creates the reader once the header line is complete; undefined before. Excel writes a line
 * `sep=;` before it.
 */
function openReader(
  text: string,
  options: SourceOptions,
): { readonly reader: CsvReader; readonly rest: string } | undefined {
  const [sep, said = ''] = /^sep=(.)\r?\n/i.exec(text) ?? [];
  if (sep !== undefined) {
    if (options.delimiter !== undefined && options.delimiter !== said)
      throw new CommandError(
        `its first line declares the delimiter ${JSON.stringify(said)}, which differs from --delimiter`,
      );
    return { reader: new CsvReader(said, 2), rest: text.slice(sep.length) };
  }
  if (options.delimiter !== undefined) return { reader: new CsvReader(options.delimiter), rest: text };
  const line = headerLine(text);
  if (line === undefined) {
    if (text.length > maxHeaderChars) throw new CommandError('it has no header line with the names of the columns');
    return undefined;
  }
  return { reader: new CsvReader(detect(line, options)), rest: text };
}

/** The first line that is not empty; line ends within quotes do not count. */
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

/**
 * Detects the delimiter of a header line: of several candidates, the one that yields more known
 * names.
 */
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
      `its header line contains ${able.map(wordOf).join(' and ')}: set the delimiter with --delimiter`,
    );
  if (best.delimiter !== ',') onNote(`detected delimiter ${wordOf(best.delimiter)} (--delimiter overrides it)`);
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
      ? 'a column in the header line has no name'
      : `the header line contains the column ${JSON.stringify(odd)} twice`,
  );
}

function rowOf({ line, text, cells, fault }: CsvRow, header: readonly string[]): Entry {
  const place = { line, text };
  if (fault !== undefined) return { ...place, content: { fault } };
  if (cells.length !== header.length)
    return { ...place, content: { fault: `expected ${header.length} columns, got ${cells.length}` } };
  // No prototype: a column may be named __proto__.
  const row: Record<string, string> = Object.create(null);
  for (const [index, name] of header.entries()) row[name] = cells[index] ?? '';
  return { ...place, content: { row } };
}

/** Reports errors of a file in one line; unexpected errors keep their stack. */
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
    throw new CommandError(`${name}: ${fsErrorMessages[code] ?? (error as Error).message}`, { cause: error });
  }
}
