import { EventEmitter } from 'node:events';

/**
 * Rows of a statement with binary results, as they came: DataRow messages of the protocol, one
 * after the other.
 */
export interface DataRows {
  readonly bytes: Buffer;
  readonly start: number;
  readonly end: number;
}

/** Types of protocol messages. */
const dataRow = 0x44;
const rowDescription = 0x54;
/** A type, and a length that counts itself. */
const headBytes = 5;

/** A stream as pg's parser reads it. */
type Source = Pick<EventEmitter, 'on'>;

/**
 * Takes binary rows and their descriptions out of what a server sends; everything else reaches pg's
 * parser, which decodes each column of a row as UTF-8 text. `onRows` is called after the parser has
 * got all that the server sent before the rows. Rows are binary when their description says so of
 * the last column: pg asks for one format for all.
 */
export function takeBinaryRows(source: Source, onRows: (rows: DataRows) => void): EventEmitter {
  const rest = new EventEmitter();
  const splitter = new Splitter((bytes) => rest.emit('data', bytes), onRows);
  source.on('data', (chunk: Buffer) => splitter.read(chunk));
  source.on('end', () => rest.emit('end'));
  return rest;
}

class Splitter {
  readonly #pass: (bytes: Buffer) => void;
  readonly #onRows: (rows: DataRows) => void;
  /** The beginning of a message, and the bytes needed to go on: those of its head, then all. */
  #held: Buffer[] = [];
  #heldBytes = 0;
  #neededBytes = 0;
  /** Bytes to come of a message whose beginning was passed on. */
  #passing = 0;
  #isBinary = false;

  constructor(pass: (bytes: Buffer) => void, onRows: (rows: DataRows) => void) {
    this.#pass = pass;
    this.#onRows = onRows;
  }

  read(chunk: Buffer): void {
    let at = 0;
    // Joins one message only: rows of 8 KB came per chunk, and each byte copied is memory to free.
    while (this.#heldBytes > 0) {
      const end = Math.min(chunk.length, at + this.#neededBytes - this.#heldBytes);
      this.#held.push(chunk.subarray(at, end));
      this.#heldBytes += end - at;
      at = end;
      if (this.#heldBytes < this.#neededBytes) return;
      const joined = Buffer.concat(this.#held, this.#heldBytes);
      this.#held = [];
      this.#heldBytes = 0;
      this.#split(joined);
    }
    if (at < chunk.length) this.#split(at === 0 ? chunk : chunk.subarray(at));
  }

  #split(bytes: Buffer): void {
    let at = Math.min(this.#passing, bytes.length);
    this.#passing -= at;
    /** What was neither passed on nor taken begins here. */
    let from = 0;
    const passUpTo = (end: number) => {
      if (from < end) this.#pass(from === 0 && end === bytes.length ? bytes : bytes.subarray(from, end));
    };
    while (bytes.length - at >= headBytes) {
      const type = bytes[at];
      const end = endOf(bytes, at);
      const isTaken = type === rowDescription || (type === dataRow && this.#isBinary);
      if (end > bytes.length) {
        if (isTaken) break;
        this.#passing = end - bytes.length;
        at = bytes.length;
      } else if (!isTaken) {
        at = end;
      } else if (type === dataRow) {
        passUpTo(at);
        from = endOfRows(bytes, end);
        this.#onRows({ bytes, start: at, end: from });
        at = from;
      } else {
        this.#isBinary = end - at > headBytes + 2 && bytes.readInt16BE(end - 2) === 1;
        if (this.#isBinary) {
          passUpTo(at);
          from = end;
        }
        at = end;
      }
    }
    passUpTo(at);
    if (at === bytes.length) return;
    this.#held = [bytes.subarray(at)];
    this.#heldBytes = bytes.length - at;
    this.#neededBytes = this.#heldBytes < headBytes ? headBytes : endOf(bytes, at) - at;
  }
}

function endOf(bytes: Buffer, at: number): number {
  return at + 1 + bytes.readUInt32BE(at + 1);
}

/** The end of the last whole row of those from here on. */
function endOfRows(bytes: Buffer, start: number): number {
  let at = start;
  while (bytes.length - at >= headBytes && bytes[at] === dataRow) {
    const end = endOf(bytes, at);
    if (end > bytes.length) break;
    at = end;
  }
  return at;
}

/** Bytes of a DataRow message before its first column: its head, and the number of columns. */
const rowHeadBytes = headBytes + 2;

/** Reads the columns of binary rows, row by row, each column by one call. */
export class RowReader {
  readonly bytes: Buffer;
  readonly #end: number;
  #nextRow: number;
  #at = 0;
  /** The last column that `skip` passed: its first byte, and after its last one. */
  start = 0;
  end = 0;

  constructor({ bytes, start, end }: DataRows) {
    this.bytes = bytes;
    this.#nextRow = start;
    this.#end = end;
  }

  /** Goes to the first column of the next row; false after the last one. */
  next(): boolean {
    if (this.#nextRow >= this.#end) return false;
    this.#at = this.#nextRow + rowHeadBytes;
    this.#nextRow = endOf(this.bytes, this.#nextRow);
    return true;
  }

  /** Passes a column; returns false when it is null, which looks empty. */
  skip(): boolean {
    const length = this.bytes.readInt32BE(this.#at);
    this.start = this.#at + 4;
    this.end = this.start + Math.max(0, length);
    this.#at = this.end;
    return length >= 0;
  }

  /** Reads a bigint that is a safe integer, or null. */
  bigint(): number | null {
    if (!this.skip()) return null;
    const value = this.bytes.readInt32BE(this.start) * 2 ** 32 + this.bytes.readUInt32BE(this.start + 4);
    if (!Number.isSafeInteger(value)) throw new RangeError('a bigint from the database is above 2^53-1');
    return value;
  }

  /** Reads a smallint, or null. */
  smallint(): number | null {
    return this.skip() ? this.bytes.readInt16BE(this.start) : null;
  }
}
