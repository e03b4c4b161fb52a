import { readFileSync } from 'node:fs';
import { InvalidArgumentError } from 'commander';
import * as files from '../../message-files/decode.ts';
import { type BinaryKind, decodeAll, decoderOf, defaultEncoding, headBytes } from '../../message-files/decode.ts';
import { FileError } from '../../message-files/file-error.ts';
import { visible } from '../output/output.ts';
import { CommandError } from '../usage.ts';

/**
 * A parser of WHATWG encoding labels. Accepts encodings in which the byte 0x0A is always a line
 * end, and UTF-16.
 */
export function encoding(text: string): string {
  const known = labelOf(text);
  if (known === undefined || /^(iso-2022|replacement|x-user)/.test(known))
    throw new InvalidArgumentError(
      'Expected utf-8, utf-16le, utf-16be, windows-1252 (and 1250 to 1258), gbk, gb18030, big5, shift_jis, euc-jp, euc-kr, koi8-r, iso-8859-2, …',
    );
  // Node 22.13 and some later versions decode windows-1252 as ISO 8859-1: 0x80 becomes a control
  // character, not the euro.
  if (known === 'windows-1252' && decoderOf(known).decode(Uint8Array.of(0x80)) !== '€')
    throw new InvalidArgumentError(`Node ${process.version} decodes windows-1252 incorrectly; use a newer version.`);
  return known;
}

function labelOf(text: string): string | undefined {
  try {
    return new TextDecoder(text.trim()).encoding;
  } catch {
    return undefined;
  }
}

/** Descriptions of files that are not text. */
const binaries: Readonly<Record<BinaryKind, string>> = {
  zip: 'a ZIP archive: extract it',
  xlsx: 'an Excel workbook (.xlsx): save it as "CSV UTF-8"',
  'utf-32': 'UTF-32: save it as UTF-8, or convert it: iconv -f utf-32 -t utf-8 FILE | sendbatch … -',
  'old-office': 'an old Excel or Word file (.xls, .doc): save it as "CSV UTF-8"',
  pdf: 'a PDF',
  gzip: 'compressed by gzip: rename it to .gz, or pipe it: zcat FILE | sendbatch … -',
  zstd: 'compressed by zstd: pipe it: zstdcat FILE | sendbatch … -',
  bzip2: 'compressed by bzip2: pipe it: bzcat FILE | sendbatch … -',
  xz: 'compressed by xz: pipe it: xzcat FILE | sendbatch … -',
  '7-zip': 'a 7-Zip archive: extract it',
  rar: 'a RAR archive: extract it',
  tar: 'a tar archive: extract it',
  sqlite: 'an SQLite database',
  parquet: 'a Parquet file',
  avro: 'an Avro file',
  image: 'an image',
  executable: 'an executable',
  rtf: 'a document (RTF): save it as plain text',
};

/** Throws if a file is not text, or has the byte order mark of another encoding. */
function assertText(head: Uint8Array, label: string): void {
  const kind = files.kindOf(head);
  if (kind !== undefined) throw new CommandError(`it is ${binaries[kind]}`);
  const mark = files.markOf(head);
  if (mark !== undefined && mark.encoding !== label)
    throw new CommandError(
      label === defaultEncoding
        ? `it is ${mark.encoding}, according to its byte order mark: use --encoding ${mark.encoding}`
        : `it is ${mark.encoding}, according to its byte order mark, not ${label}`,
    );
  if (mark !== undefined || label.startsWith('utf-16')) return;
  const wide = files.wideEncodingOf(head);
  if (wide !== undefined) throw new CommandError(`every second byte is 0, as in UTF-16: if so, use --encoding ${wide}`);
}

/** Reads the whole text of a file, for templates and lists of uids. */
export function readText(file: string, label: string = defaultEncoding): string {
  const bytes = readFileSync(file === '-' ? 0 : file);
  const where = file === '-' ? 'standard input' : file;
  try {
    return decodeAll(bytes, { encoding: label, onHead: (head) => assertText(head, label), hint: hintFor(label) });
  } catch (error) {
    throw error instanceof CommandError || error instanceof FileError
      ? new CommandError(`${where}: ${error.message}`, { cause: error })
      : error;
  }
}

/**
 * The text of a template's file. Editors end a file with a line end, which would be in every
 * message: it is left out.
 */
export function bodyIn(file: string, label?: string): string {
  return readText(file, label).replace(/\r?\n$/, '');
}

/** Decodes a file of messages to pieces that end with complete lines. */
export function decodeLines(input: AsyncIterable<Uint8Array>, label: string): AsyncGenerator<string> {
  return files.decodeLines(input, {
    encoding: label,
    onHead(head) {
      assertText(head, label);
      if (/^\s*<(!doctype html|html|\?xml)/i.test(files.latinOf(head.subarray(0, headBytes))))
        throw new CommandError('it is HTML or XML, not CSV or NDJSON');
    },
    hint: hintFor(label),
  });
}

/** Hints for files that were read without --encoding. */
function hintFor(label: string): (line: Uint8Array, at: number) => string {
  return (line, at) => (label === defaultEncoding ? hints(line.subarray(0, 2000), at) : '');
}

/**
 * Shows the text around the invalid byte in other encodings, so that the operator can recognize the
 * right one.
 */
function hints(line: Uint8Array, at: number): string {
  const read = ['windows-1252', 'gb18030', 'big5', 'shift_jis'].flatMap((label) => {
    try {
      // The line may be cut in the middle of a character.
      const text = decoderOf(label).decode(line, { stream: true });
      const from = Math.max(0, decoderOf(label).decode(line.subarray(0, at), { stream: true }).length - 8);
      const end = text.indexOf('\n', from) === -1 ? undefined : text.indexOf('\n', from);
      return [`--encoding ${label} reads ${JSON.stringify(visible(text.slice(from, end).slice(0, 20)))}`];
    } catch {
      return [];
    }
  });
  return read.length === 0 ? '' : `; ${read.join(', ')}`;
}
