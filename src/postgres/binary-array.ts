/** Element types of arrays, by their OID in PostgreSQL. */
const oids = { bytea: 17, bigint: 20, smallint: 21, integer: 23, text: 25, uuid: 2950 };
/** Ranges up to this length are copied by a loop. */
const loopBytes = 128;
/** Bytes of the header: dimensions, null flag, element type, length, lower bound, 32 bits each. */
const headBytes = 20;

/**
 * An array parameter in PostgreSQL's binary format, written element by element. In the text format
 * that pg uses for arrays, bytea takes twice the bytes, and each element is quoted and parsed.
 * Grows as needed.
 */
export class BinaryArray {
  readonly #type: keyof typeof oids;
  #bytes: Buffer;
  #end = headBytes;
  #length = 0;
  #some = false;

  /** `expected`: bytes that most likely suffice for all elements. */
  constructor(type: keyof typeof oids, expected: number) {
    this.#type = type;
    this.#bytes = Buffer.allocUnsafe(headBytes + expected);
  }

  smallint(value: number): void {
    this.#element(2);
    this.#end = this.#bytes.writeInt16BE(value, this.#end);
  }

  integer(value: number): void {
    this.#element(4);
    this.#end = this.#bytes.writeInt32BE(value, this.#end);
  }

  /** Appends an integer from 0 to 2^53-1. */
  bigint(value: number): void {
    this.#element(8);
    this.#end = this.#bytes.writeUInt32BE(Math.floor(value / 2 ** 32), this.#end);
    this.#end = this.#bytes.writeUInt32BE(value >>> 0, this.#end);
  }

  bytes(value: Uint8Array): void {
    this.#element(value.length);
    this.#bytes.set(value, this.#end);
    this.#end += value.length;
  }

  /** Appends a range of bytes. A loop is three times as fast as a view where the range is short. */
  slice(from: Uint8Array, start: number, end: number): void {
    const length = end - start;
    this.#element(length);
    if (length > loopBytes) this.#bytes.set(from.subarray(start, end), this.#end);
    else {
      const bytes = this.#bytes;
      let at = this.#end;
      for (let index = start; index < end; index++) bytes[at++] = from[index] as number;
    }
    this.#end += length;
  }

  /** Appends bytes held as a Latin-1 string, or the first ones of them. */
  latin1(value: string, length = value.length): void {
    this.#element(length);
    this.#end += this.#bytes.write(value, this.#end, length, 'latin1');
  }

  /** Appends text: at most three UTF-8 bytes per UTF-16 unit. */
  text(value: string): void {
    this.#room(4 + value.length * 3);
    const length = this.#bytes.write(value, this.#end + 4);
    this.#element(length);
    this.#end += length;
  }

  null(): void {
    this.#room(4);
    this.#end = this.#bytes.writeInt32BE(-1, this.#end);
    this.#length++;
  }

  /** The parameter; `null` if all elements are: `unnest` pads missing arrays with NULLs. */
  value(): Buffer | null {
    if (!this.#some && this.#length > 0) return null;
    let end = 0;
    for (const word of [this.#length === 0 ? 0 : 1, 1, oids[this.#type]]) end = this.#bytes.writeInt32BE(word, end);
    if (this.#length === 0) return this.#bytes.subarray(0, end);
    end = this.#bytes.writeInt32BE(this.#length, end);
    this.#bytes.writeInt32BE(1, end);
    return this.#bytes.subarray(0, this.#end);
  }

  #element(bytes: number): void {
    this.#room(4 + bytes);
    this.#end = this.#bytes.writeInt32BE(bytes, this.#end);
    this.#length++;
    this.#some = true;
  }

  #room(bytes: number): void {
    if (this.#end + bytes <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe((this.#end + bytes) * 2);
    this.#bytes.copy(larger, 0, 0, this.#end);
    this.#bytes = larger;
  }
}

/** An array parameter of integers from 0 to 2^53-1. */
export function bigintArray(values: readonly number[]): Buffer | null {
  const array = new BinaryArray('bigint', values.length * 12);
  for (const value of values) array.bigint(value);
  return array.value();
}

/** The length of an element, and a bigint. */
const elementBytes = 12;
const high = 2 ** 32;

/** A bigint[] in PostgreSQL's binary format. Values above 2^53 are rounded, and stay above. */
export function int8Values(packed: Buffer | null | undefined): Float64Array {
  const values = new Float64Array(countOf(packed));
  if (packed)
    for (let index = 0, at = headBytes + 4; index < values.length; index++, at += elementBytes)
      values[index] = packed.readInt32BE(at) * high + packed.readUInt32BE(at + 4);
  return values;
}

/** The lower 53 bits of hashes, as a bigint[] in PostgreSQL's binary format. */
export function hashValues(packed: Buffer | null | undefined): Float64Array {
  const values = new Float64Array(countOf(packed));
  if (packed)
    for (let index = 0, at = headBytes + 4; index < values.length; index++, at += elementBytes)
      values[index] = (packed.readUInt32BE(at) & 0x1fffff) * high + packed.readUInt32BE(at + 4);
  return values;
}

function countOf(packed: Buffer | null | undefined): number {
  return packed ? (packed.length - headBytes) / elementBytes : 0;
}
