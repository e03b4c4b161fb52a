/**
 * Decodes files of messages: pieces of bytes to pieces of whole lines, for the command line and the
 * console. Uses neither Node nor the DOM.
 *
 * Entry points: `decodeLines`, `markOf`, `kindOf`.
 *
 * Invariants:
 *  1. Invalid bytes are errors that name line and byte; nothing is replaced.
 *  2. A piece ends with a complete line, so a fault leaves all lines before it readable.
 */
import { FileFault } from './file-error.ts';

/** The encoding unless another is given. */
export const defaultEncoding = 'utf-8';

type Decoder = InstanceType<typeof TextDecoder>;

/** Invalid bytes are errors, and a byte order mark within the text is text. */
export function decoderOf(label: string): Decoder {
  return new TextDecoder(label, { fatal: true, ignoreBOM: true });
}

/** Byte order marks by encoding. */
const marks: readonly (readonly [string, string])[] = [
  ['utf-8', 'efbbbf'],
  ['utf-16le', 'fffe'],
  ['utf-16be', 'feff'],
  ['gb18030', '84319533'],
];

/** Kinds of files that are not text, by their first bytes in hex. */
const signatures = [
  ['504b0304', 'zip'],
  ['fffe0000', 'utf-32'],
  ['0000feff', 'utf-32'],
  ['d0cf11e0', 'old-office'],
  ['255044462d', 'pdf'],
  ['1f8b', 'gzip'],
  ['28b52ffd', 'zstd'],
  ['425a6839314159265359', 'bzip2'],
  ['fd377a585a00', 'xz'],
  ['377abcaf271c', '7-zip'],
  ['526172211a07', 'rar'],
  ['53514c69746520666f726d6174203300', 'sqlite'],
  ['5041523115', 'parquet'],
  ['4f626a01', 'avro'],
  ['89504e47', 'image'],
  ['ffd8ff', 'image'],
  ['7f454c46', 'executable'],
  ['7b5c727466', 'rtf'],
] as const;

export type BinaryKind = (typeof signatures)[number][1] | 'xlsx' | 'tar';

/** The kind of a file that is not text, by its first bytes; undefined if it may be text. */
export function kindOf(head: Uint8Array): BinaryKind | undefined {
  const latin = latinOf(head.subarray(0, 64 * 1024));
  const hex = hexOf(head.subarray(0, 16));
  if (hex.startsWith('504b0304') && /xl\/|\[Content_Types\]|_rels\/|docProps\//.test(latin)) return 'xlsx';
  const known = signatures.find(([signature]) => hex.startsWith(signature))?.[1];
  if (known !== undefined) return known;
  return latin.slice(257, 262) === 'ustar' ? 'tar' : undefined;
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Bytes as characters of the same numbers. */
export function latinOf(bytes: Uint8Array): string {
  let text = '';
  // The arguments of a call are bounded.
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return text;
}

/** Bytes needed to recognize a file: tar has its signature at 257. */
export const headBytes = 512;

/** The byte order mark at the start of a file, if any. */
export function markOf(head: Uint8Array): { readonly encoding: string; readonly bytes: number } | undefined {
  const hex = hexOf(head.subarray(0, 4));
  const [encoding, mark] = marks.find(([, bytes]) => hex.startsWith(bytes)) ?? [];
  return encoding === undefined || mark === undefined ? undefined : { encoding, bytes: mark.length / 2 };
}

/** UTF-16 without a byte order mark: every second byte of ASCII is 0. */
export function wideEncodingOf(head: Uint8Array): 'utf-16le' | 'utf-16be' | undefined {
  const zeros = [0, 1].map((side) => head.filter((byte, at) => byte === 0 && at % 2 === side).length);
  const side = zeros.findIndex((count) => count * 4 >= head.length && count > 0);
  return side === -1 ? undefined : side === 1 ? 'utf-16le' : 'utf-16be';
}

/** Bounds memory for a file without line ends. A message to 10,000 receivers takes 2.6 MB. */
const maxLineBytes = 8 * 1024 * 1024;

/** How the bytes of a file are decoded. */
export interface DecodeOptions {
  /** A WHATWG label. */
  readonly encoding: string;
  /** Checks the first bytes, at least `headBytes` unless the file is shorter; throws to refuse. */
  readonly onHead?: (head: Uint8Array) => void;
  /** Words to append to the error of invalid bytes: the line, and the place of the byte. */
  readonly hint?: (line: Uint8Array, at: number) => string;
}

/**
 * Decodes a stream to pieces that end with complete lines. Throws an error with line and byte where
 * it cannot be decoded.
 */
export async function* decodeLines(input: AsyncIterable<Uint8Array>, options: DecodeOptions): AsyncGenerator<string> {
  const { encoding, onHead } = options;
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  let blocks: BlockDecoder | undefined;
  const take = () => {
    const all = joined(held, heldBytes);
    if (blocks !== undefined) return { bytes: all, decoder: blocks };
    onHead?.(all);
    const skip = markOf(all)?.bytes ?? 0;
    blocks = new BlockDecoder(options, skip);
    return { bytes: all.subarray(skip), decoder: blocks };
  };
  for await (const chunk of input) {
    held.push(chunk);
    heldBytes += chunk.length;
    if (blocks === undefined && heldBytes < headBytes) continue;
    // Most chunks contain a line end. Chunks without one are joined only when their number has
    // doubled.
    if (blocks !== undefined && !chunk.includes(lineFeed) && heldBytes < maxLineBytes) continue;
    const { bytes, decoder } = take();
    const end = endOfLines(bytes, encoding);
    if (end > 0) yield* decoder.decode(bytes.subarray(0, end));
    const rest = bytes.subarray(end);
    if (rest.length > maxLineBytes) throw new FileFault(decoder.line, `the line is longer than ${maxLineBytes} bytes`);
    held = rest.length === 0 ? [] : [rest];
    heldBytes = rest.length;
  }
  if (heldBytes === 0) return;
  const { bytes, decoder } = take();
  yield* decoder.decode(bytes);
}

/** Decodes a whole file. */
export function decodeAll(bytes: Uint8Array, options: DecodeOptions): string {
  options.onHead?.(bytes.subarray(0, headBytes));
  const skip = markOf(bytes)?.bytes ?? 0;
  return [...new BlockDecoder(options, skip).decode(bytes.subarray(skip))].join('');
}

function joined(parts: readonly Uint8Array[], length: number): Uint8Array {
  if (parts.length === 1 && parts[0] !== undefined) return parts[0];
  const all = new Uint8Array(length);
  let at = 0;
  for (const each of parts) {
    all.set(each, at);
    at += each.length;
  }
  return all;
}

const lineFeed = 0x0a;

/** Where the last whole line ends. Where lines end with CR alone, behind the last of these. */
function endOfLines(bytes: Uint8Array, label: string): number {
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
  readonly #hint: DecodeOptions['hint'];
  #byte: number;
  line = 1;

  constructor({ encoding, hint }: DecodeOptions, firstByte: number) {
    this.#label = encoding;
    this.#decoder = decoderOf(encoding);
    this.#hint = hint;
    this.#byte = firstByte;
  }

  /** Decodes complete lines. Yields the lines before one that cannot be decoded, then throws. */
  *decode(block: Uint8Array): Generator<string> {
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
  #badLineOf(block: Uint8Array): number {
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
  #faultOf(block: Uint8Array): FileFault {
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
    const guesses = this.#hint?.(block, good) ?? '';
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
