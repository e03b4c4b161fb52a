/** A row of CSV: its cells, or why it is invalid. */
export interface CsvRow {
  /** Its first line, from 1. */
  readonly line: number;
  /** As in the file, without the line end. */
  readonly text: string;
  readonly cells: readonly string[];
  /** Set if the row is invalid but the next ones can be read. */
  readonly fault?: string;
}

/** An error after which the start of the next row is unknown. */
export class CsvError extends Error {
  readonly line: number;
  constructor(line: number, message: string) {
    super(message);
    this.line = line;
  }
}

/**
 * Bounds memory when a quote is never closed. A payload has at most 64 KiB; base64 adds a third.
 */
const maxRowChars = 1024 * 1024;

const [quote, lineFeed, carriageReturn] = [0x22, 0x0a, 0x0d];
type State = 'start' | 'plain' | 'quoted' | 'quote' | 'return';

/**
 * Reads rows of CSV (RFC 4180) from text in pieces. Quotes enclose a whole cell, and are doubled
 * within it. A quote in an unquoted cell makes its row invalid; the row's end is still certain.
 * Text after a closing quote, or a quote that is never closed, is an error of the file: what
 * follows could be text or rows. Lines end with LF or CRLF, or all with CR.
 */
export class CsvReader {
  readonly #delimiter: number;
  #text = '';
  #at = 0;
  #state: State = 'start';
  #line: number;
  #rowAt = 0;
  #rowLine: number;
  #cellAt = 0;
  #cellEnd = 0;
  #quoteLine = 1;
  #cells: string[] = [];
  #wasQuoted = false;
  #isEscaped = false;
  #fault: string | undefined;
  /** Whether lines end with CR alone; unknown before the first line end. */
  #endsByReturn: boolean | undefined;

  constructor(delimiter: string, firstLine = 1) {
    this.#delimiter = delimiter.charCodeAt(0);
    this.#line = firstLine;
    this.#rowLine = firstLine;
  }

  /** Yields the rows that end within this piece. */
  *push(piece: string): Generator<CsvRow> {
    this.#text = this.#text.slice(this.#rowAt) + piece;
    this.#at -= this.#rowAt;
    this.#cellAt -= this.#rowAt;
    this.#cellEnd -= this.#rowAt;
    this.#rowAt = 0;
    for (; this.#at < this.#text.length; this.#at++) {
      const ended = this.#read(this.#text.charCodeAt(this.#at));
      if (ended !== undefined && !isEmpty(ended)) yield ended;
    }
    if (this.#at - this.#rowAt > maxRowChars) throw this.#tooLong();
  }

  /** Yields the row that ends with the file, if any. */
  *end(): Generator<CsvRow> {
    if (this.#state === 'quoted') throw new CsvError(this.#quoteLine, 'the quote opened here is never closed');
    if (this.#rowAt === this.#text.length) return;
    if (this.#state === 'return') this.#endsByReturn = true;
    const row = this.#endRow(this.#state === 'return' ? this.#at - 1 : this.#at, this.#at);
    if (!isEmpty(row)) yield row;
  }

  /** Reads one character; returns the row that it ends. */
  #read(char: number): CsvRow | undefined {
    switch (this.#state) {
      case 'start':
        this.#cellAt = this.#at;
        this.#wasQuoted = char === quote;
        this.#isEscaped = false;
        if (char !== quote) {
          this.#state = 'plain';
          return this.#plain(char);
        }
        this.#quoteLine = this.#line;
        this.#state = 'quoted';
        return undefined;
      case 'plain':
        return this.#plain(char);
      case 'quoted':
        if (char === quote) this.#state = 'quote';
        else if (char === (this.#endsByReturn ? carriageReturn : lineFeed)) this.#line++;
        return undefined;
      case 'quote':
        if (char === quote) {
          this.#isEscaped = true;
          this.#state = 'quoted';
          return undefined;
        }
        this.#cellEnd = this.#at;
        return this.#afterCell(char) ?? this.#assertEnded(char);
      case 'return':
        return this.#afterReturn(char);
    }
  }

  #plain(char: number): CsvRow | undefined {
    if (char === quote) this.#fault ??= 'quote in an unquoted cell: quote the whole cell, and double the quotes in it';
    this.#cellEnd = this.#at;
    return this.#afterCell(char);
  }

  /** Ends a cell at its delimiter or line end. */
  #afterCell(char: number): CsvRow | undefined {
    if (char === this.#delimiter) {
      this.#endCell();
      this.#state = 'start';
      return undefined;
    }
    if (char === lineFeed) return this.#endLine(this.#at);
    if (char !== carriageReturn) return undefined;
    if (this.#endsByReturn) return this.#endLine(this.#at);
    // The first CR, or one after a quote: the next character tells whether it ends the line.
    if (this.#endsByReturn === undefined || this.#state === 'quote') this.#state = 'return';
    return undefined;
  }

  /** Only a delimiter or a line end may follow a closing quote. */
  #assertEnded(char: number): undefined {
    if (this.#state === 'start' || this.#state === 'return') return undefined;
    throw new CsvError(
      this.#quoteLine,
      `the quote opened here is closed before the end of the cell (${JSON.stringify(String.fromCharCode(char))} follows): double quotes within a cell, or remove quotes around a part of it`,
    );
  }

  #afterReturn(char: number): CsvRow | undefined {
    if (char === lineFeed) {
      this.#endsByReturn ??= false;
      return this.#endLine(this.#at - 1);
    }
    if (this.#endsByReturn === false) {
      this.#state = 'quote';
      this.#assertEnded(carriageReturn);
    }
    this.#endsByReturn = true;
    const row = this.#endLine(this.#at - 1, this.#at);
    this.#read(char);
    return row;
  }

  #endCell(): void {
    const [from, to] = this.#wasQuoted ? [this.#cellAt + 1, this.#cellEnd - 1] : [this.#cellAt, this.#cellEnd];
    const cell = this.#text.slice(from, to);
    this.#cells.push(this.#isEscaped ? cell.replaceAll('""', '"') : cell);
  }

  #endLine(end: number, next = this.#at + 1): CsvRow {
    if (this.#endsByReturn === undefined) this.#endsByReturn = false;
    const row = this.#endRow(end, next);
    this.#line++;
    this.#rowLine = this.#line;
    return row;
  }

  #endRow(end: number, next: number): CsvRow {
    if (end - this.#rowAt > maxRowChars) throw this.#tooLong();
    const isPlain = this.#state === 'plain';
    if (this.#state === 'start') {
      // An empty cell follows a trailing delimiter.
      this.#cellAt = end;
      this.#wasQuoted = false;
      this.#isEscaped = false;
    }
    if (!this.#wasQuoted) this.#cellEnd = end;
    else if (this.#state === 'quote') this.#cellEnd = end;
    // The CR of a CRLF was read as text.
    if (
      isPlain &&
      !this.#endsByReturn &&
      this.#text.charCodeAt(this.#cellEnd - 1) === carriageReturn &&
      this.#cellEnd > this.#cellAt
    )
      this.#cellEnd--;
    this.#endCell();
    const text = this.#text.slice(this.#rowAt, end).replace(/\r$/, '');
    const row = {
      line: this.#rowLine,
      text,
      cells: this.#cells,
      ...(this.#fault === undefined ? {} : { fault: this.#fault }),
    };
    this.#cells = [];
    this.#fault = undefined;
    this.#rowAt = next;
    this.#state = 'start';
    return row;
  }

  #tooLong(): CsvError {
    return this.#state === 'quoted'
      ? new CsvError(
          this.#quoteLine,
          `more than ${maxRowChars} characters follow the quote opened here: it is probably never closed`,
        )
      : new CsvError(this.#rowLine, `the row is longer than ${maxRowChars} characters`);
  }
}

/** Empty lines are skipped. */
function isEmpty({ cells, text }: CsvRow): boolean {
  return cells.length === 1 && text === '';
}

export const delimiters = [',', ';', '\t', '|'] as const;

/** Splits a line at each delimiter outside quotes. */
export function cellsBy(line: string, delimiter: string): string[] {
  const cells = [''];
  let isQuoted = false;
  for (const char of line) {
    if (char === '"') isQuoted = !isQuoted;
    else if (char === delimiter && !isQuoted) cells.push('');
    else cells[cells.length - 1] += char;
  }
  return cells;
}
