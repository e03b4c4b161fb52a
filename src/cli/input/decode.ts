import { readFileSync } from 'node:fs';
import { InvalidArgumentError } from 'commander';
import { visible } from '../output/output.ts';
import { CommandError } from '../usage.ts';
import { FileFault } from './file-fault.ts';

/** The encoding without --encoding. */
export const defaultEncoding = 'utf-8';

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

type Decoder = InstanceType<typeof TextDecoder>;

/** Invalid bytes are errors, and a byte order mark within the text is text. */
function decoderOf(label: string): Decoder {
  return new TextDecoder(label, { fatal: true, ignoreBOM: true });
}

/** Byte order marks by encoding. */
const marks: readonly (readonly [string, string])[] = [
  ['utf-8', 'efbbbf'],
  ['utf-16le', 'fffe'],
  ['utf-16be', 'feff'],
  ['gb18030', '84319533'],
];

/** Descriptions of files that are not text, by their first bytes in hex. */
const binaries: readonly (readonly [string, string])[] = [
  ['504b0304', 'a ZIP archive: extract it'],
  ['fffe0000', 'UTF-32: save it as UTF-8, or convert it: iconv -f utf-32 -t utf-8 FILE | sendbatch … -'],
  ['0000feff', 'UTF-32: save it as UTF-8, or convert it: iconv -f utf-32 -t utf-8 FILE | sendbatch … -'],
  ['d0cf11e0', 'an old Excel or Word file (.xls, .doc): save it as "CSV UTF-8"'],
  ['255044462d', 'a PDF'],
  ['1f8b', 'compressed by gzip: rename it to .gz, or pipe it: zcat FILE | sendbatch … -'],
  ['28b52ffd', 'compressed by zstd: pipe it: zstdcat FILE | sendbatch … -'],
  ['425a6839314159265359', 'compressed by bzip2: pipe it: bzcat FILE | sendbatch … -'],
  ['fd377a585a00', 'compressed by xz: pipe it: xzcat FILE | sendbatch … -'],
  ['377abcaf271c', 'a 7-Zip archive: extract it'],
  ['526172211a07', 'a RAR archive: extract it'],
  ['53514c69746520666f726d6174203300', 'an SQLite database'],
  ['5041523115', 'a Parquet file'],
  ['4f626a01', 'an Avro file'],
  ['89504e47', 'an image'],
  ['ffd8ff', 'an image'],
  ['7f454c46', 'an executable'],
  ['7b5c727466', 'a document (RTF): save it as plain text'],
];

/** Describes a file that is not text by its first bytes; undefined if it may be text. */
function binaryBy(head: Buffer): string | undefined {
  const latin = head.toString('latin1');
  const hex = head.subarray(0, 16).toString('hex');
  const known = binaries.find(([signature]) => hex.startsWith(signature))?.[1];
  if (hex.startsWith('504b0304') && /xl\/|\[Content_Types\]|_rels\/|docProps\//.test(latin))
    return 'an Excel workbook (.xlsx): save it as "CSV UTF-8"';
  if (known !== undefined) return known;
  if (latin.slice(257, 262) === 'ustar') return 'a tar archive: extract it';
  return undefined;
}

/** Bytes needed to recognize a file: tar has its signature at 257. */
const headBytes = 512;

/** Throws if a file is not text, or has the byte order mark of another encoding. */
function assertText(head: Buffer, label: string): void {
  const binary = binaryBy(head.subarray(0, 64 * 1024));
  if (binary !== undefined) throw new CommandError(`it is ${binary}`);
  const mark = markOf(head);
  if (mark !== undefined && mark.encoding !== label)
    throw new CommandError(
      label === defaultEncoding
        ? `it is ${mark.encoding}, according to its byte order mark: use --encoding ${mark.encoding}`
        : `it is ${mark.encoding}, according to its byte order mark, not ${label}`,
    );
  if (mark !== undefined || label.startsWith('utf-16')) return;
  const zeros = [0, 1].map((side) => head.filter((byte, at) => byte === 0 && at % 2 === side).length);
  const side = zeros.findIndex((count) => count * 4 >= head.length && count > 0);
  if (side !== -1)
    throw new CommandError(
      `every second byte is 0, as in UTF-16: if so, use --encoding ${side === 1 ? 'utf-16le' : 'utf-16be'}`,
    );
}

function markOf(head: Buffer): { readonly encoding: string; readonly bytes: number } | undefined {
  const hex = head.subarray(0, 4).toString('hex');
  const [encoding, mark] = marks.find(([, bytes]) => hex.startsWith(bytes)) ?? [];
  return encoding === undefined || mark === undefined ? undefined : { encoding, bytes: mark.length / 2 };
}

/** Reads the whole text of a file, for templates and lists of uids. */
export function readText(file: string, label: string = defaultEncoding): string {
  const bytes = readFileSync(file === '-' ? 0 : file);
  const where = file === '-' ? 'standard input' : file;
  try {
    assertText(bytes.subarray(0, headBytes), label);
    const skip = markOf(bytes)?.bytes ?? 0;
    return [...new BlockDecoder(label, skip).decode(bytes.subarray(skip))].join('');
  } catch (error) {
    throw error instanceof CommandError ? new CommandError(`${where}: ${error.message}`, { cause: error }) : error;
  }
}

/**
 * The text of a template's file. Editors end a file with a line end, which would be in every
 * message: it is left out.
 */
export function bodyIn(file: string, label?: string): string {
  return readText(file, label).replace(/\r?\n$/, '');
}

/** Bounds memory for a file without line ends. A message to 10,000 receivers takes 2.6 MB. */
const maxLineBytes = 8 * 1024 * 1024;

/**
 * Decodes a stream to pieces that end with complete lines. Throws an error with line and byte where
 * it cannot be decoded.
 */
export async function* decodeLines(input: AsyncIterable<Buffer>, label: string): AsyncGenerator<string> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  let blocks: BlockDecoder | undefined;
  const take = () => {
    const all = held.length === 1 ? (held[0] as Buffer) : Buffer.concat(held);
    if (blocks !== undefined) return all;
    assertText(all, label);
    if (/^\s*<(!doctype html|html|\?xml)/i.test(all.subarray(0, headBytes).toString('latin1')))
      throw new CommandError('it is HTML or XML, not CSV or NDJSON');
    const skip = markOf(all)?.bytes ?? 0;
    blocks = new BlockDecoder(label, skip);
    return all.subarray(skip);
  };
  for await (const chunk of input) {
    held.push(chunk);
    heldBytes += chunk.length;
    if (blocks === undefined && heldBytes < headBytes) continue;
    // Most chunks contain a line end. Chunks without one are joined only when their number has
    // doubled.
    if (blocks !== undefined && !chunk.includes(lineFeed) && heldBytes < maxLineBytes) continue;
    const bytes = take();
    const end = endOfLines(bytes, label);
    if (end > 0) yield* (blocks as unknown as BlockDecoder).decode(bytes.subarray(0, end));
    const rest = bytes.subarray(end);
    if (rest.length > maxLineBytes)
      throw new FileFault((blocks as unknown as BlockDecoder).line, `the line is longer than ${maxLineBytes} bytes`);
    held = rest.length === 0 ? [] : [rest];
    heldBytes = rest.length;
  }
  if (heldBytes === 0) return;
  const bytes = take();
  yield* (blocks as unknown as BlockDecoder).decode(bytes);
}

const lineFeed = 0x0a;

/** Where the last whole line ends. Where lines end with CR alone, behind the last of these. */
function endOfLines(bytes: Buffer, label: string): number {
  if (label.startsWith('utf-16')) {
    const [low, high] = label === 'utf-16le' ? [0, 1] : [1, 0];
    for (let at = bytes.length - (bytes.length % 2) - 2; at >= 0; at -= 2)
      if (bytes[at + low] === lineFeed && bytes[at + high] === 0) return at + 2;
    return 0;
  }
  const end = bytes.lastIndexOf(lineFeed) + 1;
  return end > 0 || bytes.length < maxLineBytes / 8 ? end : bytes.lastIndexOf(0x0d) + 1;
}

/** Decodes pieces of whole lines, and knows where each begins. */
class BlockDecoder {
  readonly #label: string;
  readonly #decoder: Decoder;
  #byte: number;
  line = 1;

  constructor(label: string, firstByte: number) {
    this.#label = label;
    this.#decoder = decoderOf(label);
    this.#byte = firstByte;
  }

  /** Decodes complete lines. Yields the lines before one that cannot be decoded, then throws. */
  *decode(block: Buffer): Generator<string> {
    let text: string | undefined;
    try {
      text = this.#decoder.decode(block);
    } catch {
      // Decoded line by line below.
    }
    if (text !== undefined) {
      this.#byte += block.length;
      this.line += count(text);
      return yield text;
    }
    const lineAt = this.#badLineOf(block);
    if (lineAt > 0) yield* this.decode(block.subarray(0, lineAt));
    throw this.#faultOf(block.subarray(lineAt));
  }

  /** Start of the first line that cannot be decoded; 0 for UTF-16. */
  #badLineOf(block: Buffer): number {
    if (this.#label.startsWith('utf-16')) return 0;
    for (let from = 0; ; ) {
      const end = block.indexOf(lineFeed, from) + 1;
      try {
        if (end === 0) return from;
        this.#decoder.decode(block.subarray(from, end));
        from = end;
      } catch {
        return from;
      }
    }
  }

  /** Locates the first invalid byte by line and offset. */
  #faultOf(block: Buffer): FileFault {
    const decoder = decoderOf(this.#label);
    let good = 0;
    let text = '';
    try {
      for (let at = 0; at < block.length; at++) {
        const more = decoder.decode(block.subarray(at, at + 1), { stream: true });
        text += more;
        if (more !== '') good = at + 1;
      }
      decoder.decode();
    } catch {
      // The invalid byte follows the last good one.
    }
    const wide = this.#label.startsWith('utf-16');
    const byte = (block[good] ?? 0).toString(16).padStart(2, '0').toUpperCase();
    const ofLine = wide ? '' : `, byte ${good + 1} of its line`;
    const guesses = this.#label === defaultEncoding ? hints(block.subarray(0, 2000), good) : '';
    return new FileFault(
      this.line + count(text),
      `byte ${this.#byte + good + 1} (0x${byte}${ofLine}) is not valid ${this.#label === defaultEncoding ? 'UTF-8' : this.#label}${guesses}`,
    );
  }
}

function count(text: string): number {
  let lines = 0;
  for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) lines++;
  return lines;
}

/**
 * Shows the text around the invalid byte in other encodings, so that the operator can recognize the
 * right one.
 */
function hints(line: Buffer, at: number): string {
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
