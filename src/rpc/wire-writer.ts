const zero = 0x30;
/** Halves of the digits of a number up to 2^53-1, which fit into 32 bits. */
const half = 1e9;
/** Ranges up to this length are copied by a loop: three times as fast as a view of a short one. */
const loopBytes = 128;

/** Bytes of a number with its tag; 0 is left out. */
export function numberBytes(value: number): number {
  return value === 0 ? 0 : 1 + varintBytes(value);
}

/** Bytes of a field with a length, with its tag; an empty one is left out. */
export function rangeBytes(length: number): number {
  return length === 0 ? 0 : 1 + varintBytes(length) + length;
}

export function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 128; rest /= 128) bytes++;
  return bytes;
}

/** Writes answers in Protobuf and in JSON into memory of a sufficient size. */
export class WireWriter {
  readonly bytes: Buffer;
  #at: number;

  /** `room`: bytes to leave free at the start, beside `size`. */
  constructor(size: number, room = 0) {
    this.bytes = Buffer.allocUnsafe(room + size);
    this.#at = room;
  }

  /** What was written, as text. */
  text(): string {
    return this.bytes.toString('utf8', 0, this.#at);
  }

  /** A field that is left out when it is 0. */
  number(tag: number, value: number): void {
    if (value === 0) return;
    this.bytes[this.#at++] = tag;
    this.#varint(value);
  }

  /** The tag and the length of a field. */
  length(tag: number, value: number): void {
    this.bytes[this.#at++] = tag;
    this.#varint(value);
  }

  /** A field with a range of bytes, which is left out when it is empty. */
  range(tag: number, from: Uint8Array, start: number, end: number): void {
    if (start === end) return;
    this.length(tag, end - start);
    this.copy(from, start, end);
  }

  byte(value: number): void {
    this.bytes[this.#at++] = value;
  }

  copy(from: Uint8Array, start: number, end: number): void {
    if (end - start > loopBytes) {
      this.bytes.set(from.subarray(start, end), this.#at);
      this.#at += end - start;
      return;
    }
    const bytes = this.bytes;
    let at = this.#at;
    for (let index = start; index < end; index++) bytes[at++] = from[index] as number;
    this.#at = at;
  }

  utf8(text: string): void {
    this.#at += this.bytes.write(text, this.#at);
  }

  ascii(text: string): void {
    for (let index = 0; index < text.length; index++) this.bytes[this.#at++] = text.charCodeAt(index);
  }

  /** A whole number up to 2^53-1 in decimal. */
  digits(value: number): void {
    const high = Math.floor(value / half);
    if (high === 0) this.#digits(value, 1);
    else {
      this.#digits(high, 1);
      this.#digits(value - high * half, 9);
    }
  }

  #digits(value: number, least: number): void {
    let count = least;
    for (let rest = (value / 10 ** least) | 0; rest > 0; rest = (rest / 10) | 0) count++;
    let rest = value | 0;
    for (let index = this.#at + count - 1; index >= this.#at; index--) {
      const next = (rest / 10) | 0;
      this.bytes[index] = zero + rest - next * 10;
      rest = next;
    }
    this.#at += count;
  }

  /** A whole number up to 2^53-1. */
  #varint(value: number): void {
    let rest = value;
    for (; rest >= 2 ** 31; rest = Math.floor(rest / 128)) this.bytes[this.#at++] = (rest % 128) | 0x80;
    for (; rest >= 128; rest >>>= 7) this.bytes[this.#at++] = (rest & 0x7f) | 0x80;
    this.bytes[this.#at++] = rest;
  }
}
