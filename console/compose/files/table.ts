import { FileProblem, type Problem } from './problem.ts';

/** The rows of a file, as text. */
export interface Table {
  /** Names of the columns, unique and not empty. */
  readonly columns: readonly string[];
  /** Cells per row, one per column. */
  readonly rows: readonly (readonly string[])[];
  /** First line of each row in the file, from 1. */
  readonly lines: readonly number[];
  /** The line of each row as in the file, if its lines are messages. */
  readonly texts: readonly string[] | undefined;
  /** Rows that cannot be read. */
  readonly faults: readonly RowFault[];
  /** Where reading ended before the end of the file: nothing can be sent. */
  readonly end: RowFault | undefined;
  /** Whether the file has more than `maxRows` rows; the rest was not read. */
  readonly isCut: boolean;
  /** Rows without any text, which are left out. */
  readonly blankRows: number;
}

/** A row that cannot be sent, and why. */
export interface RowFault {
  readonly line: number;
  /** The beginning of the row, as in the file. */
  readonly text: string;
  readonly problem: Problem;
}

/** Rows of a batch: the service's limit. */
export const maxRows = 100_000;

/** The page lists the columns in each of its choices. */
const maxColumns = 500;

/** Characters of a row that a fault shows. */
const shownChars = 200;

/** Collects rows while a file is read. */
export class TableBuilder {
  readonly #columns: readonly string[];
  readonly #rows: (readonly string[])[] = [];
  readonly #lines: number[] = [];
  readonly #texts: string[] | undefined;
  readonly #faults: RowFault[] = [];
  #blankRows = 0;

  constructor(columns: readonly string[], { keepsTexts = false }: { readonly keepsTexts?: boolean } = {}) {
    if (columns.length > maxColumns)
      throw new FileProblem('tooManyColumns', { actual: columns.length, limit: maxColumns });
    this.#columns = columns;
    this.#texts = keepsTexts ? [] : undefined;
  }

  /** Whether there is no place for another row. */
  get isFull(): boolean {
    return this.#rows.length + this.#faults.length >= maxRows;
  }

  get rowCount(): number {
    return this.#rows.length;
  }

  add(line: number, cells: readonly string[], text = ''): void {
    if (cells.every((cell) => cell.trim() === '')) {
      this.#blankRows++;
      return;
    }
    if (cells.length === this.#columns.length) {
      this.#rows.push(cells);
      this.#lines.push(line);
      this.#texts?.push(text);
      return;
    }
    const values = { expected: this.#columns.length, actual: cells.length };
    this.fault(line, text, { code: 'wrongColumns', values });
  }

  fault(line: number, text: string, problem: Problem): void {
    this.#faults.push({ line, text: text.slice(0, shownChars), problem });
  }

  build({ end, isCut = false }: { readonly end?: RowFault | undefined; readonly isCut?: boolean } = {}): Table {
    return {
      columns: this.#columns,
      rows: this.#rows,
      lines: this.#lines,
      texts: this.#texts,
      faults: this.#faults,
      end,
      isCut,
      blankRows: this.#blankRows,
    };
  }
}

/** Names for columns: trimmed, unique, and `column_3` for an empty one. */
export function columnNames(cells: readonly string[]): string[] {
  const names = new Set<string>();
  for (const [index, cell] of cells.entries()) {
    const name = cell.trim() || `column_${index + 1}`;
    let unique = name;
    for (let copy = 2; names.has(unique); copy++) unique = `${name}_${copy}`;
    names.add(unique);
  }
  return [...names];
}

/** Whether a first row names the columns rather than being data. */
export function looksLikeHeader(rows: readonly (readonly string[])[]): boolean {
  const [first, ...others] = rows;
  if (first === undefined || first.every((cell) => cell.trim() === '')) return false;
  if (first.some((cell) => /^[+\d][\d\s.,:/-]*$/.test(cell.trim()))) return false;
  // A value that occurs again below is data.
  return !first.some((cell, index) => cell !== '' && others.some((row) => row[index] === cell));
}
