import { CsvError, CsvReader, type CsvRow, cellsBy, delimiters } from '../../../src/message-files/csv.ts';
import { decodeLines } from '../../../src/message-files/decode.ts';
import { FileFault } from '../../../src/message-files/file-error.ts';
import { chunksOf } from './encoding.ts';
import { FileProblem, problemOf } from './problem.ts';
import { columnNames, looksLikeHeader, type RowFault, type Table, TableBuilder } from './table.ts';

/** How a text file is read. */
export interface TextOptions {
  readonly encoding: string;
  readonly delimiter: string;
  readonly hasHeader: boolean;
  /** Called with the bytes read so far. */
  readonly onProgress?: (bytes: number) => void;
}

/** Bytes from which delimiter and header line are detected. */
const sampleBytes = 256 * 1024;
/** Rows from which they are detected. */
const sampleRows = 100;

/** The beginning of a text file; invalid bytes are replaced. */
export async function sampleOf(file: Blob, encoding: string): Promise<string> {
  const bytes = new Uint8Array(await file.slice(0, sampleBytes).arrayBuffer());
  return new TextDecoder(encoding).decode(bytes, { stream: true });
}

/** The delimiter that splits most rows of a sample into the same number of cells. */
export function detectDelimiter(sample: string): string {
  const declared = /^sep=(.)\r?\n/i.exec(sample)?.[1];
  if (declared !== undefined) return declared;
  const scored = delimiters.map((delimiter) => ({ delimiter, score: scoreOf(sample, delimiter) }));
  scored.sort((a, b) => b.score - a.score);
  return scored[0] !== undefined && scored[0].score > 0 ? scored[0].delimiter : ',';
}

function scoreOf(sample: string, delimiter: string): number {
  const counts = new Map<number, number>();
  const rows = sampleRowsOf(sample, delimiter);
  if (rows.length === 0) return cellsBy(sample.split('\n', 1)[0] ?? '', delimiter).length > 1 ? 0.1 : 0;
  for (const { length } of rows) counts.set(length, (counts.get(length) ?? 0) + 1);
  const [width, count] = [...counts].sort((a, b) => b[1] - a[1])[0] ?? [1, 0];
  return width < 2 ? 0 : (count / rows.length) * Math.log2(width);
}

/** The first rows of a sample; what cannot be read is left out. */
export function sampleRowsOf(sample: string, delimiter: string): string[][] {
  const rows: string[][] = [];
  const { reader, rest } = readerOf(sample, delimiter);
  try {
    for (const row of reader.push(rest)) {
      if (row.fault === undefined) rows.push([...row.cells]);
      if (rows.length === sampleRows) return rows;
    }
    // A sample of a larger file ends within a row.
    if (sample.length * 4 < sampleBytes || rows.length === 0) for (const row of reader.end()) rows.push([...row.cells]);
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
  }
  return rows;
}

/** Whether the first row of a sample names the columns. */
export function detectHeader(sample: string, delimiter: string): boolean {
  return looksLikeHeader(sampleRowsOf(sample, delimiter));
}

/** Excel writes a line `sep=;` before the table. */
function readerOf(text: string, delimiter: string): { readonly reader: CsvReader; readonly rest: string } {
  const [sep] = /^sep=.\r?\n/i.exec(text) ?? [''];
  return { reader: new CsvReader(delimiter, sep === '' ? 1 : 2), rest: text.slice(sep.length) };
}

/** Reads CSV or TSV. Throws a FileProblem for a file without any row. */
export async function readText(
  file: Blob,
  { encoding, delimiter, hasHeader, onProgress }: TextOptions,
): Promise<Table> {
  let reader: CsvReader | undefined;
  let builder: TableBuilder | undefined;
  let isCut = false;
  const take = (rows: Iterable<CsvRow>) => {
    for (const row of rows) {
      if (builder === undefined) {
        builder = new TableBuilder(hasHeader ? columnNames(row.cells) : columnNames(row.cells.map(() => '')));
        if (hasHeader) continue;
      }
      if (builder.isFull) {
        isCut = true;
        return;
      }
      if (row.fault === undefined) builder.add(row.line, row.cells, row.text);
      else builder.fault(row.line, row.text, problemOf(row.fault));
    }
  };
  let end: RowFault | undefined;
  try {
    for await (const piece of decodeLines(counted(file, onProgress), { encoding })) {
      let text = piece;
      if (reader === undefined) ({ reader, rest: text } = readerOf(piece, delimiter));
      take(reader.push(text));
      if (isCut) break;
    }
    if (!isCut && reader !== undefined) take(reader.end());
  } catch (error) {
    end = faultOf(error);
  }
  if (builder === undefined) {
    if (end !== undefined) throw new FileProblem(end.problem.code, { ...end.problem.values, line: end.line });
    throw new FileProblem('noRows');
  }
  return builder.build({ end, isCut });
}

/** The place at which reading ended; other errors are thrown again. */
export function faultOf(error: unknown): RowFault {
  if (error instanceof CsvError) return { line: error.line, text: '', problem: problemOf(error.message) };
  if (error instanceof FileFault) return { line: error.line, text: '', problem: problemOf(error.why) };
  throw error;
}

/** The chunks of a file, counted. */
export async function* counted(file: Blob, onProgress: TextOptions['onProgress']): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const chunk of chunksOf(file)) {
    yield chunk;
    bytes += chunk.length;
    onProgress?.(bytes);
  }
}
