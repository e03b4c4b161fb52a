import type { Cell, CellValue, Workbook } from 'hucre/xlsx';
import { FileProblem } from './problem.ts';
import { columnNames, looksLikeHeader, maxRows, type Table, TableBuilder } from './table.ts';

/** Unpacked bytes of a workbook. 100,000 rows of 10 columns take 60 MB. */
const maxUnpackedBytes = 256 * 1024 * 1024;
/** Digits that Excel keeps; it replaces further ones by zeros. */
const exactNumbers = 1e15;
/** Rows from which the header line is detected. */
const sampleRows = 100;

/** A sheet of a workbook, before its header is decided. */
export interface OpenSheet {
  readonly sheets: readonly string[];
  readonly sheet: string;
  readonly looksLikeHeader: boolean;
  table(hasHeader: boolean): Table;
}

/** Reads one sheet of an .xlsx file; the first visible one unless named. */
export async function openWorkbook(file: Blob, wanted?: string): Promise<OpenSheet> {
  // Most users never open a workbook.
  const { readXlsx } = await import('hucre/xlsx');
  const { formatValue } = await import('hucre');
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (unpackedBytes(bytes) > maxUnpackedBytes) throw new FileProblem('tooBig', { megabytes: maxUnpackedBytes >> 20 });
  const sheets: string[] = [];
  let chosen: string | undefined;
  let book: Workbook;
  try {
    book = await readXlsx(bytes, {
      readStyles: true,
      maxRows: maxRows + 2,
      sheets(info) {
        sheets.push(info.name);
        const isHidden = info.hidden === true || info.veryHidden === true;
        if (chosen !== undefined || (wanted === undefined ? isHidden : info.name !== wanted)) return false;
        chosen = info.name;
        return true;
      },
    });
  } catch (error) {
    throw new FileProblem(error instanceof Error && error.name === 'EncryptedFileError' ? 'encrypted' : 'damaged');
  }
  const [sheet] = book.sheets;
  if (sheet === undefined || sheet.rows.length === 0) throw new FileProblem('noRows');
  const { rows, cells } = sheet;
  const width = Math.max(...rows.slice(0, sampleRows).map(lastFilled), 1);
  const textOf = (row: number, column: number) =>
    cellText(rows[row]?.[column] ?? null, cells?.get(`${row},${column}`), formatValue);
  const textsOf = (row: number) =>
    Array.from({ length: Math.max(width, lastFilled(rows[row] ?? [])) }, (_, column) => textOf(row, column));
  // Titles and empty rows may stand above the table.
  const first = Math.max(
    rows.findIndex((row) => row.some((value) => value !== null && value !== '')),
    0,
  );
  const sample = rows.slice(first, first + sampleRows).map((_, at) => textsOf(first + at).map(plainText));
  return {
    sheets,
    sheet: sheet.name,
    looksLikeHeader: looksLikeHeader(sample),
    table(hasHeader) {
      const head = textsOf(first).map(plainText);
      const builder = new TableBuilder(columnNames(hasHeader ? head : head.map(() => '')));
      let row = hasHeader ? first + 1 : first;
      for (; row < rows.length && !builder.isFull; row++) {
        const texts = textsOf(row);
        const bad = texts.findIndex((text) => typeof text !== 'string');
        if (bad === -1) builder.add(row + 1, texts.map(plainText), texts.map(plainText).join(' | '));
        else {
          const { code, value } = texts[bad] as BadCell;
          const column = hasHeader ? (head[bad] ?? '') : `column_${bad + 1}`;
          builder.fault(row + 1, texts.map(plainText).join(' | '), { code, values: { column, value } });
        }
      }
      return builder.build({ isCut: row < rows.length });
    },
  };
}

/** A cell whose text is not what was entered. */
interface BadCell {
  readonly code: 'longNumber' | 'cellError';
  readonly value: string;
}

function plainText(text: string | BadCell): string {
  return typeof text === 'string' ? text : text.value;
}

function lastFilled(row: readonly CellValue[]): number {
  for (let at = row.length; at > 0; at--) {
    const value = row[at - 1];
    if (value !== null && value !== undefined && value !== '') return at;
  }
  return 0;
}

/**
 * The text of a cell: dates in ISO 8601, numbers as Excel shows them, except that no digit of a
 * number without a format of its own is hidden.
 */
function cellText(
  value: CellValue,
  cell: Cell | undefined,
  formatValue: (value: unknown, format: string) => string,
): string | BadCell {
  if (value === null || value === undefined) return '';
  if (cell?.type === 'error') return { code: 'cellError', value: String(value) };
  if (typeof value === 'string') return value;
  if (typeof value === 'boolean') return value ? 'TRUE' : 'FALSE';
  if (value instanceof Date) return dateText(value);
  if (Math.abs(value) >= exactNumbers) return { code: 'longNumber', value: digitsOf(value) };
  const format = cell?.style?.numFmt;
  // Scientific notation hides digits.
  if (format === undefined || /general|@|E[+-]/i.test(format)) return digitsOf(value);
  return formatValue(value, format).trim();
}

/** A number without exponent, with the 15 digits that Excel keeps. */
function digitsOf(value: number): string {
  return Number(value.toPrecision(15)).toLocaleString('en', { useGrouping: false, maximumFractionDigits: 20 });
}

function dateText(date: Date): string {
  if (Number.isNaN(date.getTime())) return '';
  const [day = '', clock = ''] = date
    .toISOString()
    .replace(/(:00)?\.\d{3}Z$/, '')
    .split('T');
  // Excel stores a time of day as a fraction of the day 0.
  if (date.getUTCFullYear() < 1900 || day === '1900-01-00') return clock;
  return clock === '00:00' ? day : `${day}T${clock}`;
}

const endSignature = 0x06054b50;
const entrySignature = 0x02014b50;

/** The sum of the unpacked sizes that a ZIP archive declares; the reader holds entries to them. */
export function unpackedBytes(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  // A comment of at most 64 KiB follows the end record.
  const least = Math.max(0, end - 65_536);
  while (end >= least && view.getUint32(end, true) !== endSignature) end--;
  if (end < least) throw new FileProblem('damaged');
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  let sum = 0;
  for (let entry = 0; entry < count; entry++) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== entrySignature) throw new FileProblem('damaged');
    sum += view.getUint32(at + 24, true);
    at += 46 + view.getUint16(at + 28, true) + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return sum;
}
