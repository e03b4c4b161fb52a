import { type BadCell, type FormatValue, numberText } from './cell-format.ts';
import { FileProblem } from './problem.ts';
import { attributesOf, type XmlReceiver } from './xml.ts';

/** A row of a sheet with text in any cell. */
export interface SheetRow {
  /** From 1. */
  readonly line: number;
  readonly isHidden: boolean;
  /** Up to the last cell with text. */
  readonly cells: readonly (string | BadCell)[];
}

/** What the cells of a sheet refer to. */
export interface SheetContext {
  readonly sharedTexts: readonly string[];
  /** The number format per cell style. */
  readonly formats: readonly (string | undefined)[];
  readonly is1904: boolean;
  readonly formatValue: FormatValue;
  /** Reading ends after this many rows. */
  readonly maxRows: number;
}

/** Limits of Excel. */
const [maxLine, maxColumns] = [1_048_576, 16_384];

/** Collects the rows of a sheet from its XML. Rows without text are left out. */
export class SheetReader implements XmlReceiver {
  readonly rows: SheetRow[] = [];
  /** Ranges of merged cells, of which only the first has a text. */
  mergedRanges = 0;
  readonly #context: SheetContext;
  #line = 0;
  #isHidden = false;
  #cells: (string | BadCell)[] | undefined;
  #column = 0;
  #type = '';
  #style = -1;
  #hasFormula = false;
  /** The text of the value; undefined outside of one. */
  #value: string | undefined;
  #isInValue = false;
  #isPhonetic = false;

  constructor(context: SheetContext) {
    this.#context = context;
  }

  isDone(): boolean {
    return this.rows.length >= this.#context.maxRows;
  }

  onOpen(name: string, attributes: string): void {
    switch (name) {
      case 'row':
        this.#openRow(attributes);
        return;
      case 'c':
        this.#openCell(attributes);
        return;
      case 'f':
        this.#hasFormula = true;
        return;
      case 'v':
      case 't':
        this.#isInValue = !this.#isPhonetic;
        return;
      case 'rPh':
        this.#isPhonetic = true;
        return;
      case 'mergeCell':
        this.mergedRanges++;
    }
  }

  onText(text: string): void {
    if (this.#isInValue) this.#value = (this.#value ?? '') + text;
  }

  onClose(name: string): void {
    switch (name) {
      case 'v':
      case 't':
        this.#isInValue = false;
        return;
      case 'rPh':
        this.#isPhonetic = false;
        return;
      case 'c':
        this.#closeCell();
        return;
      case 'row':
        this.#closeRow();
        return;
    }
  }

  #openRow(text: string): void {
    const { r, hidden } = attributesOf(text);
    this.#line = r === undefined ? this.#line + 1 : Number(r);
    if (!Number.isInteger(this.#line) || this.#line < 1 || this.#line > maxLine) throw new FileProblem('damaged');
    this.#isHidden = hidden === '1' || hidden === 'true';
    this.#cells = [];
    this.#column = -1;
  }

  #openCell(text: string): void {
    const { r, t = '', s } = attributesOf(text);
    this.#column = r === undefined ? this.#column + 1 : columnOf(r);
    if (this.#column >= maxColumns) throw new FileProblem('damaged');
    this.#type = t;
    this.#style = s === undefined ? 0 : Number(s);
    this.#hasFormula = false;
    this.#value = undefined;
  }

  #closeCell(): void {
    const text = this.#cellText();
    const cells = this.#cells;
    if (cells === undefined || text === '') return;
    while (cells.length < this.#column) cells.push('');
    cells[this.#column] = text;
  }

  #closeRow(): void {
    const cells = this.#cells;
    this.#cells = undefined;
    if (cells !== undefined && cells.length > 0) this.rows.push({ line: this.#line, isHidden: this.#isHidden, cells });
  }

  #cellText(): string | BadCell {
    const value = this.#value ?? '';
    switch (this.#type) {
      case 's': {
        const text = value === '' ? '' : this.#context.sharedTexts[Number(value)];
        if (text === undefined) throw new FileProblem('damaged');
        return text;
      }
      case 'str':
      case 'inlineStr':
        return withoutEscapes(value);
      case 'b':
        return value === '' ? '' : value === '1' || value === 'true' ? 'TRUE' : 'FALSE';
      case 'e':
        return { code: 'cellError', value };
      case 'd':
        return value.replace(/T00:00:00(\.0+)?$/, '').replace(/(T\d\d:\d\d):00(\.0+)?$/, '$1');
      default: {
        // A program that writes formulas without computing them leaves the value out.
        if (value === '') return this.#hasFormula ? { code: 'noValue', value: '' } : '';
        const number = Number(value);
        if (!Number.isFinite(number)) throw new FileProblem('damaged');
        return numberText(number, this.#context.formats[this.#style], this.#context);
      }
    }
  }
}

/** The column of a reference such as `AB12`, from 0. */
function columnOf(reference: string): number {
  let column = 0;
  for (const letter of reference) {
    const code = letter.toUpperCase().charCodeAt(0) - 64;
    if (code < 1 || code > 26) break;
    column = column * 26 + code;
  }
  if (column === 0) throw new FileProblem('damaged');
  return column - 1;
}

/** Characters that XML cannot hold are written as `_x000D_`. */
export function withoutEscapes(text: string): string {
  if (!text.includes('_x')) return text;
  return text.replace(/_x([0-9A-F]{4})_/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
