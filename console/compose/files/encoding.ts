import {
  decoderOf,
  defaultEncoding,
  headBytes,
  kindOf,
  latinOf,
  markOf,
  wideEncodingOf,
} from '../../../src/message-files/decode.ts';
import { FileProblem } from './problem.ts';

/** Encodings that the page offers. */
export const encodings = [
  'utf-8',
  'gb18030',
  'windows-1252',
  'utf-16le',
  'utf-16be',
  'big5',
  'shift_jis',
  'euc-kr',
  'windows-1250',
  'windows-1251',
] as const;

export interface DetectedEncoding {
  readonly encoding: string;
  /** Whether the file begins with a byte order mark. */
  readonly hasMark: boolean;
}

/** Yields the chunks of a file. Not every browser can iterate over its stream. */
export async function* chunksOf(file: Blob): AsyncGenerator<Uint8Array> {
  const reader = file.stream().getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel();
  }
}

/** The kind of a file by its first bytes; throws a FileProblem for one that holds no table. */
export async function fileKind(file: Blob): Promise<'text' | 'workbook'> {
  const head = new Uint8Array(await file.slice(0, 64 * 1024).arrayBuffer());
  if (head.length === 0) throw new FileProblem('empty');
  const kind = kindOf(head);
  // Its directory tells a workbook from other archives.
  if (kind === 'xlsx' || kind === 'zip') return 'workbook';
  if (kind === 'old-office' && (await isProtected(file, head))) throw new FileProblem('encrypted');
  if (kind !== undefined) throw new FileProblem('binary', { kind });
  if (looksBinary(head)) throw new FileProblem('binary', { kind: 'other' });
  if (/^\s*<(!doctype html|html|\?xml)/i.test(latinOf(head.subarray(0, headBytes)))) throw new FileProblem('markup');
  return 'text';
}

/**
 * Whether a compound file, which old Office files are too, is a workbook with a password: its
 * directory has an entry EncryptedPackage (MS-OFFCRYPTO 2.3.4.4).
 */
async function isProtected(file: Blob, head: Uint8Array): Promise<boolean> {
  if (head.length < headBytes) return false;
  const view = new DataView(head.buffer, head.byteOffset);
  const sectorBytes = 2 ** Math.min(view.getUint16(30, true), 16);
  const directoryAt = (view.getUint32(48, true) + 1) * sectorBytes;
  const directory = await file.slice(directoryAt, directoryAt + 4096).arrayBuffer();
  return new TextDecoder('utf-16le').decode(directory).includes('EncryptedPackage');
}

/** Whether bytes are no text in any encoding: many control characters, and not UTF-16. */
function looksBinary(head: Uint8Array): boolean {
  if (markOf(head) !== undefined || wideEncodingOf(head.subarray(0, headBytes)) !== undefined) return false;
  const controls = head.filter((byte) => byte < 0x09 || (byte > 0x0d && byte < 0x1b)).length;
  return controls * 20 > head.length;
}

/**
 * Detects the encoding of a text file from all of its bytes: by its byte order mark, as UTF-8 if it
 * is valid, otherwise as GB 18030 or Windows-1252, whichever its bytes resemble more.
 */
export async function detectEncoding(file: Blob): Promise<DetectedEncoding> {
  const head = new Uint8Array(await file.slice(0, 64 * 1024).arrayBuffer());
  const mark = markOf(head);
  if (mark !== undefined) return { encoding: mark.encoding, hasMark: true };
  const wide = wideEncodingOf(head.subarray(0, headBytes));
  if (wide !== undefined) return { encoding: wide, hasMark: false };
  const decoder = decoderOf(defaultEncoding);
  const score = new ByteScore();
  let isUtf8 = true;
  for await (const chunk of chunksOf(file)) {
    score.add(chunk);
    if (isUtf8) isUtf8 = decodes(decoder, chunk);
  }
  if (isUtf8) isUtf8 = decodes(decoder);
  return { encoding: isUtf8 ? defaultEncoding : score.encoding, hasMark: false };
}

function decodes(decoder: InstanceType<typeof TextDecoder>, chunk?: Uint8Array): boolean {
  try {
    decoder.decode(chunk, { stream: chunk !== undefined });
    return true;
  } catch {
    return false;
  }
}

/**
 * Tells Chinese from Western text. A Chinese character of GB 2312 is two bytes above 0xA0; in
 * Western text a byte above 0x7F stands mostly alone between ASCII letters.
 */
class ByteScore {
  #chinese = 0;
  #western = 0;

  add(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] as number;
      if (byte < 0x80) continue;
      const next = bytes[at + 1];
      // A chunk may end within a character.
      if (next === undefined) return;
      if (byte >= 0xa1 && byte <= 0xf7 && next >= 0xa1 && next <= 0xfe) {
        this.#chinese++;
        at++;
      } else if (next >= 0x30 && next <= 0x39 && (bytes[at + 2] ?? 0) >= 0x81) {
        this.#chinese++;
        at += 3;
      } else this.#western++;
    }
  }

  get encoding(): string {
    return this.#chinese > this.#western ? 'gb18030' : 'windows-1252';
  }
}
