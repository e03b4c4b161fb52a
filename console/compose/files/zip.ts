import { FileProblem } from './problem.ts';

/** An entry of an archive, as its directory declares it. */
interface Entry {
  readonly name: string;
  readonly isEncrypted: boolean;
  readonly method: number;
  readonly packedBytes: number;
  readonly unpackedBytes: number;
  /** Where its local header begins. */
  readonly at: number;
}

const signatures = {
  entry: 0x02014b50,
  local: 0x04034b50,
  end: 0x06054b50,
  wideEnd: 0x06064b50,
  wideLocator: 0x07064b50,
};
const [endBytes, locatorBytes, wideEndBytes, entryBytes, localBytes] = [22, 20, 56, 46, 30];
/** A comment of this length may follow the end record. */
const maxCommentBytes = 65_535;
/** Bounds the directory: a workbook has some dozens of entries. */
const maxDirectoryBytes = 8 * 1024 * 1024;
const [stored, deflated] = [0, 8];
/** A value that is in the ZIP64 record instead. */
const wide = 0xffffffff;

/**
 * Reads a ZIP archive piece by piece, with the decompression of the platform: the parts of a
 * workbook that are not needed are never unpacked. An entry that unpacks to more than its directory
 * declares is an error, so the sum of the declared sizes bounds the work.
 *
 * Source: APPNOTE.TXT 6.3.10 of PKWARE.
 */
export class ZipArchive {
  readonly #file: Blob;
  readonly #entries = new Map<string, Entry>();

  private constructor(file: Blob, entries: readonly Entry[]) {
    this.#file = file;
    // Some programs write \ as the separator; names differ in case between programs.
    for (const entry of entries) this.#entries.set(keyOf(entry.name), entry);
  }

  /** Reads the directory; throws a FileProblem for a file without one. */
  static async open(file: Blob): Promise<ZipArchive> {
    const { at, bytes, count } = await directoryOf(file);
    if (bytes > maxDirectoryBytes) throw new FileProblem('damaged');
    return new ZipArchive(file, entriesIn(await viewOf(file, at, bytes), count));
  }

  get names(): readonly string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(keyOf(name));
  }

  /** The declared size of an entry; 0 if there is none. */
  unpackedBytes(name: string): number {
    return this.#entries.get(keyOf(name))?.unpackedBytes ?? 0;
  }

  /** Unpacks an entry. */
  async *read(name: string): AsyncGenerator<Uint8Array> {
    const entry = this.#entries.get(keyOf(name));
    if (entry === undefined) throw new FileProblem('damaged');
    if (entry.isEncrypted) throw new FileProblem('encrypted');
    if (entry.method !== stored && entry.method !== deflated) throw new FileProblem('damaged');
    const local = await viewOf(this.#file, entry.at, localBytes);
    if (local.getUint32(0, true) !== signatures.local) throw new FileProblem('damaged');
    const from = entry.at + localBytes + local.getUint16(26, true) + local.getUint16(28, true);
    const packed = this.#file.slice(from, from + entry.packedBytes).stream() as ReadableStream<Uint8Array<ArrayBuffer>>;
    const reader = (
      entry.method === stored ? packed : packed.pipeThrough(new DecompressionStream('deflate-raw'))
    ).getReader();
    let bytes = 0;
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        bytes += value.length;
        if (bytes > entry.unpackedBytes) throw new FileProblem('damaged');
        yield value;
      }
      if (bytes !== entry.unpackedBytes) throw new FileProblem('damaged');
    } catch (error) {
      throw error instanceof FileProblem ? error : new FileProblem('damaged');
    } finally {
      await reader.cancel().catch(() => {});
    }
  }
}

function keyOf(name: string): string {
  return name.replaceAll('\\', '/').replace(/^\//, '').toLowerCase();
}

async function viewOf(file: Blob, at: number, bytes: number): Promise<DataView> {
  const part = await file.slice(at, at + bytes).arrayBuffer();
  if (part.byteLength < bytes) throw new FileProblem('damaged');
  return new DataView(part);
}

/** Where the directory is. */
async function directoryOf(
  file: Blob,
): Promise<{ readonly at: number; readonly bytes: number; readonly count: number }> {
  const tailAt = Math.max(0, file.size - endBytes - maxCommentBytes);
  const tail = await viewOf(file, tailAt, file.size - tailAt);
  let end = tail.byteLength - endBytes;
  while (end >= 0 && tail.getUint32(end, true) !== signatures.end) end--;
  if (end < 0) throw new FileProblem('damaged');
  const locator = end - locatorBytes;
  if (locator >= 0 && tail.getUint32(locator, true) === signatures.wideLocator) {
    const wideEnd = await viewOf(file, Number(tail.getBigUint64(locator + 8, true)), wideEndBytes);
    if (wideEnd.getUint32(0, true) !== signatures.wideEnd) throw new FileProblem('damaged');
    const [count = 0, bytes = 0, at = 0] = [32, 40, 48].map((offset) => Number(wideEnd.getBigUint64(offset, true)));
    return { at, bytes, count };
  }
  return {
    count: tail.getUint16(end + 10, true),
    bytes: tail.getUint32(end + 12, true),
    at: tail.getUint32(end + 16, true),
  };
}

function entriesIn(view: DataView, count: number): Entry[] {
  const entries: Entry[] = [];
  const utf8 = new TextDecoder();
  let at = 0;
  while (entries.length < count) {
    if (at + entryBytes > view.byteLength || view.getUint32(at, true) !== signatures.entry)
      throw new FileProblem('damaged');
    const [nameBytes = 0, extraBytes = 0, commentBytes = 0] = [28, 30, 32].map((offset) =>
      view.getUint16(at + offset, true),
    );
    const end = at + entryBytes + nameBytes + extraBytes + commentBytes;
    if (end > view.byteLength) throw new FileProblem('damaged');
    const wideValues = wideValuesIn(view, at + entryBytes + nameBytes, extraBytes);
    // The record has only those that do not fit, in this order.
    const [unpackedBytes = 0, packedBytes = 0, localAt = 0] = [24, 20, 42].map((offset) => {
      const value = view.getUint32(at + offset, true);
      return value === wide ? (wideValues.shift() ?? value) : value;
    });
    entries.push({
      name: utf8.decode(new Uint8Array(view.buffer, view.byteOffset + at + entryBytes, nameBytes)),
      isEncrypted: (view.getUint16(at + 8, true) & 1) === 1,
      method: view.getUint16(at + 10, true),
      packedBytes,
      unpackedBytes,
      at: localAt,
    });
    at = end;
  }
  return entries;
}

const wideExtra = 1;

/** The numbers of the ZIP64 record of an entry. */
function wideValuesIn(view: DataView, from: number, bytes: number): number[] {
  for (let at = from; at + 4 <= from + bytes; ) {
    const size = view.getUint16(at + 2, true);
    if (view.getUint16(at, true) === wideExtra) {
      const count = Math.floor(Math.min(size, from + bytes - at - 4) / 8);
      return Array.from({ length: count }, (_, index) => Number(view.getBigUint64(at + 4 + index * 8, true)));
    }
    at += 4 + size;
  }
  return [];
}
