import { type BadCell, builtInFormat } from './cell-format.ts';
import { FileProblem } from './problem.ts';
import { SheetReader, type SheetRow, withoutEscapes } from './sheet-reader.ts';
import { columnNames, looksLikeHeader, maxRows, type Table, TableBuilder } from './table.ts';
import { attributesOf, readXml } from './xml.ts';
import { ZipArchive } from './zip.ts';

/**
 * Reads workbooks (.xlsx, .xlsm: ECMA-376). The parts stream through, so memory is that of the texts.
 *
 * Invariants:
 *  1. A cell is what Excel shows, or its row has a problem: nothing is changed in silence.
 *  2. The declared sizes bound what is unpacked, and 100,001 rows end the reading.
 */

/** Unpacked bytes of the parts that are read. 100,000 rows of 10 columns take 60 MB. */
const maxUnpackedBytes = 256 * 1024 * 1024;
/** Rows from which width and header line are detected. */
const sampleRows = 100;

/** A sheet of a workbook, before its header is decided. */
export interface OpenSheet {
  readonly sheets: readonly string[];
  readonly sheet: string;
  /** Rows with text that are hidden, by a filter for example. */
  readonly hiddenRows: number;
  /** Ranges of merged cells, of which only the first has a text. */
  readonly mergedRanges: number;
  looksLikeHeader(withHidden: boolean): boolean;
  table(choice: { readonly hasHeader: boolean; readonly withHidden: boolean }): Table;
}

/** Reads one sheet; the first visible one unless named. `onProgress`: of the file's bytes. */
export async function openWorkbook(
  file: Blob,
  wanted: string | undefined,
  onProgress: (bytes: number) => void,
): Promise<OpenSheet> {
  const archive = await ZipArchive.open(file);
  const book = await readBook(archive);
  const visible = book.sheets.find(({ isHidden }) => !isHidden) ?? book.sheets[0];
  const chosen = wanted === undefined ? visible : book.sheets.find(({ name }) => name === wanted);
  if (chosen === undefined) throw new FileProblem('noRows');
  const parts = [chosen.path, book.sharedTexts, book.styles].filter((each) => each !== undefined);
  const unpackedBytes = parts.reduce((sum, path) => sum + archive.unpackedBytes(path), 0);
  if (unpackedBytes > maxUnpackedBytes) throw new FileProblem('tooBig', { megabytes: maxUnpackedBytes >> 20 });
  let bytes = 0;
  const read = async function* (path: string) {
    for await (const chunk of archive.read(path)) {
      yield chunk;
      bytes += chunk.length;
      onProgress((bytes / unpackedBytes) * file.size);
    }
  };
  const { formatValue } = await import('hucre');
  const reader = new SheetReader({
    sharedTexts: book.sharedTexts === undefined ? [] : await readSharedTexts(read(book.sharedTexts)),
    formats: book.styles === undefined ? [] : await readFormats(read(book.styles)),
    is1904: book.is1904,
    formatValue,
    // A header, and one row too many.
    maxRows: maxRows + 2,
  });
  await readXml(read(chosen.path), reader);
  if (reader.rows.length === 0) throw new FileProblem('noRows');
  return openSheet(reader, { sheets: book.sheets.map(({ name }) => name), sheet: chosen.name });
}

function openSheet(reader: SheetReader, names: Pick<OpenSheet, 'sheets' | 'sheet'>): OpenSheet {
  const { rows: all, mergedRanges } = reader;
  const hiddenRows = all.filter(({ isHidden }) => isHidden).length;
  const rowsOf = (withHidden: boolean) =>
    withHidden || hiddenRows === 0 ? all : all.filter(({ isHidden }) => !isHidden);
  const sampleOf = (rows: readonly SheetRow[]) => {
    const sample = rows.slice(0, sampleRows);
    const width = Math.max(...sample.map(({ cells }) => cells.length), 1);
    return { width, sample: sample.map(({ cells }) => padded(cells, width).map(plainText)) };
  };
  return {
    ...names,
    hiddenRows,
    mergedRanges,
    looksLikeHeader: (withHidden) => looksLikeHeader(sampleOf(rowsOf(withHidden)).sample),
    table({ hasHeader, withHidden }) {
      const rows = rowsOf(withHidden);
      const { width, sample } = sampleOf(rows);
      const [head = []] = sample;
      const columns = columnNames(hasHeader ? head : Array.from({ length: width }, () => ''));
      const builder = new TableBuilder(columns);
      let at = hasHeader ? 1 : 0;
      for (; at < rows.length && !builder.isFull; at++) {
        const { line, cells } = rows[at] as SheetRow;
        const texts = padded(cells, width);
        const text = () => cells.map(plainText).join(' | ');
        const bad = texts.findIndex((each) => typeof each !== 'string');
        if (bad === -1) builder.add(line, texts as string[], texts.length === width ? '' : text());
        else {
          const { code, value } = texts[bad] as BadCell;
          builder.fault(line, text(), { code, values: { column: columns[bad] ?? '', value } });
        }
      }
      return builder.build({ isCut: at < rows.length || reader.isDone() });
    },
  };
}

function padded(cells: SheetRow['cells'], width: number): SheetRow['cells'] {
  return cells.length >= width ? cells : [...cells, ...Array.from({ length: width - cells.length }, () => '')];
}

function plainText(text: string | BadCell): string {
  return typeof text === 'string' ? text : text.value;
}

interface Book {
  readonly sheets: readonly { readonly name: string; readonly path: string; readonly isHidden: boolean }[];
  readonly is1904: boolean;
  /** Paths of parts. */
  readonly sharedTexts: string | undefined;
  readonly styles: string | undefined;
}

/** Finds the parts of a workbook; throws a FileProblem that names what else the archive is. */
async function readBook(archive: ZipArchive): Promise<Book> {
  const main = archive.has('_rels/.rels')
    ? (await readRelations(archive, '')).find(({ type }) => type === 'officeDocument')?.path
    : undefined;
  if (main === undefined || !archive.has(main) || !/\bworkbook\.xml$/i.test(main))
    throw new FileProblem('binary', { kind: otherKind(archive, main) });
  const relations = await readRelations(archive, main);
  const sheets: Book['sheets'][number][] = [];
  let is1904 = false;
  await readXml(limited(archive, main), {
    onOpen(tag, text) {
      const { date1904, name, id, state } = attributesOf(text);
      if (tag === 'workbookPr') is1904 = date1904 === '1' || date1904 === 'true';
      if (tag !== 'sheet' || name === undefined) return;
      const sheet = relations.find((each) => each.id === id);
      // Sheets of charts have no rows.
      if (sheet?.type === 'worksheet')
        sheets.push({ name, path: sheet.path, isHidden: (state ?? 'visible') !== 'visible' });
    },
  });
  const pathOf = (wanted: string) => relations.find(({ type, path }) => type === wanted && archive.has(path))?.path;
  return { sheets, is1904, sharedTexts: pathOf('sharedStrings'), styles: pathOf('styles') };
}

/** What an archive is that is no workbook. */
function otherKind({ names }: ZipArchive, main: string | undefined): string {
  if (main?.toLowerCase().endsWith('.bin')) return 'xlsb';
  if (main !== undefined) return 'document';
  if (names.includes('mimetype') && names.includes('content.xml')) return 'open-document';
  return names.some((name) => name.endsWith('.iwa') || name === 'index.zip') ? 'numbers' : 'zip';
}

/** Unpacked bytes of the small parts. */
const maxPartBytes = 16 * 1024 * 1024;

function limited(archive: ZipArchive, path: string): AsyncIterable<Uint8Array> {
  if (archive.unpackedBytes(path) > maxPartBytes) throw new FileProblem('tooBig', { megabytes: maxPartBytes >> 20 });
  return archive.read(path);
}

interface Relation {
  readonly id: string;
  /** The last part of its URI, which strict and transitional files share. */
  readonly type: string;
  readonly path: string;
}

/** The parts that a part refers to; `''` is the archive. */
async function readRelations(archive: ZipArchive, part: string): Promise<Relation[]> {
  const folder = part.slice(0, part.lastIndexOf('/') + 1);
  const path = `${folder}_rels/${part.slice(folder.length)}.rels`;
  const relations: Relation[] = [];
  if (!archive.has(path)) return relations;
  await readXml(limited(archive, path), {
    onOpen(name, text) {
      if (name !== 'Relationship') return;
      const { Id = '', Type = '', Target = '' } = attributesOf(text);
      relations.push({ id: Id, type: Type.slice(Type.lastIndexOf('/') + 1), path: resolved(folder, Target) });
    },
  });
  return relations;
}

function resolved(folder: string, target: string): string {
  const parts: string[] = [];
  for (const part of (target.startsWith('/') ? target : folder + target).split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '.' && part !== '') parts.push(part);
  }
  return parts.join('/');
}

/** The texts that cells refer to by their number. */
async function readSharedTexts(chunks: AsyncIterable<Uint8Array>): Promise<string[]> {
  const texts: string[] = [];
  let text = '';
  let isInText = false;
  let isPhonetic = false;
  await readXml(chunks, {
    onOpen(name) {
      if (name === 'si') text = '';
      else if (name === 'rPh') isPhonetic = true;
      else if (name === 't') isInText = !isPhonetic;
    },
    onText(part) {
      if (isInText) text += part;
    },
    onClose(name) {
      if (name === 't') isInText = false;
      else if (name === 'rPh') isPhonetic = false;
      else if (name === 'si') texts.push(withoutEscapes(text));
    },
  });
  return texts;
}

/** The number format per cell style. */
async function readFormats(chunks: AsyncIterable<Uint8Array>): Promise<(string | undefined)[]> {
  const own = new Map<number, string>();
  const formats: (string | undefined)[] = [];
  let isInCells = false;
  await readXml(chunks, {
    onOpen(name, text) {
      if (name === 'cellXfs') isInCells = true;
      if (name !== 'numFmt' && !(name === 'xf' && isInCells)) return;
      const { numFmtId, formatCode } = attributesOf(text);
      const id = Number(numFmtId ?? 0);
      if (name === 'xf') formats.push(own.get(id) ?? builtInFormat(id));
      else if (formatCode !== undefined) own.set(id, formatCode);
    },
    onClose(name) {
      if (name === 'cellXfs') isInCells = false;
    },
  });
  return formats;
}
