import { Faults, type Place, type Step, stepOf, TranscodeError } from './error.ts';
import { losesDigits, markLossy, sureDigits } from './numbers.ts';

/** The deepest nesting accepted, more than any sane schema needs. Readers may therefore recurse. */
export const deepest = 64;

/**
 * The field that a body is the value of, by its JSON root; for example `messages` for an array.
 * Unset: the body is the request itself.
 */
export interface BodyNames {
  readonly array?: string | undefined;
  readonly object?: string | undefined;
}

/** The position of a text that is part of a body. */
export interface Part {
  /** The offset of its first byte in the body. */
  readonly offset: number;
  /** Its place; undefined at the root of the request. */
  readonly at: Place | undefined;
  /** The index of its first element, for an array. */
  readonly first: number;
}

/**
 * Parses a body, or a part of one. Refuses invalid UTF-8, repeated keys and nesting deeper than
 * `deepest`.
 *
 * Numbers that lost digits are marked (numbers.ts), for fields that keep them unchanged.
 */
export function parseJson(bytes: Uint8Array, names: BodyNames = {}, part?: Part): unknown {
  const text = decodeUtf8(bytes);
  // Before JSON.parse, which accepts any depth: 16 MiB of brackets took 3.2 s and 750 MB.
  const { keys, hasLossy } = scan(bytes);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw part === undefined
      ? new TranscodeError(400, `the body is not JSON: ${error instanceof Error ? error.message : String(error)}`)
      : notJson(part.offset);
  }
  // JSON.parse silently keeps the last of two equal keys. Counting the keys of the text and of the
  // value takes 50 µs for 38 kB, half of the parsing time; only a difference triggers the search.
  if (countKeys(json) !== keys) throw duplicateKey(bytes, names, part);
  if (hasLossy) walk(bytes, { number: (levels, text) => markNumber(levels, text, json) });
  return json;
}

/** Returns the error for a key that occurs twice in an object. */
export function twice(at: Place | undefined, step: Step): TranscodeError {
  const faults = new Faults();
  faults.addAt(at, step, 'is repeated in one object');
  return faults.error() as TranscodeError;
}

export function notJson(offset: number): TranscodeError {
  return new TranscodeError(400, `the body is not JSON: an error within 64 KiB after byte ${offset}`);
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new TranscodeError(400, 'the body is not valid UTF-8');
  }
}

const quote = 0x22;
const backslash = 0x5c;
const colon = 0x3a;
/** Bytes after which a string's end is searched natively, which is ten times as fast. */
const plainBytes = 128;

/** Numbers per body that are compared digit by digit, 1 µs each. */
const comparedNumbers = 50_000;

/**
 * Checks the depth, counts the keys and finds numbers that lose digits. Results for text that is
 * not JSON do not matter.
 */
function scan(bytes: Uint8Array): { readonly keys: number; readonly hasLossy: boolean } {
  let keys = 0;
  let depth = 0;
  let compared = 0;
  let hasLossy = false;
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index] as number;
    if (byte === quote) {
      index = endOfString(bytes, index);
      if (isKey(bytes, index)) keys++;
    } else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > deepest) throw new TranscodeError(400, `the body is nested deeper than ${deepest} levels`);
    } else if (byte === 0x7d || byte === 0x5d) depth--;
    else if (startsNumber(byte)) {
      const end = endOfNumber(bytes, index);
      if (!hasLossy && mayLoseDigits(bytes, index, end)) {
        if (++compared > comparedNumbers)
          throw new TranscodeError(
            400,
            `the body has more than ${comparedNumbers} numbers of more than 15 digits; send them as strings`,
          );
        hasLossy = losesDigits(asciiOf(bytes, index, end));
      }
      index = end - 1;
    }
  }
  return { keys, hasLossy };
}

/** A digit or a minus. */
function startsNumber(byte: number): boolean {
  return (byte >= 0x30 && byte <= 0x39) || byte === 0x2d;
}

/** Returns the end of the number at `start`, exclusive. */
function endOfNumber(bytes: Uint8Array, start: number): number {
  let end = start + 1;
  for (; end < bytes.length; end++) {
    const byte = bytes[end] as number;
    if (!startsNumber(byte) && byte !== 0x2e && byte !== 0x2b && (byte | 0x20) !== 0x65) break;
  }
  return end;
}

function mayLoseDigits(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start > sureDigits) return true;
  for (let index = start; index < end; index++) if (((bytes[index] as number) | 0x20) === 0x65) return true;
  return false;
}

function asciiOf(bytes: Uint8Array, start: number, end: number): string {
  return utf8.decode(bytes.subarray(start, end));
}

/** Returns the position of the closing quote of the string at `start`. */
export function endOfString(bytes: Uint8Array, start: number): number {
  let index = start + 1;
  // The next quote, once searched: searching it again at each escape would be quadratic.
  let closing = -1;
  for (;;) {
    const stop = Math.min(index + plainBytes, bytes.length);
    for (; index < stop; index++) {
      const byte = bytes[index];
      if (byte === quote) return index;
      if (byte === backslash) index++;
    }
    if (index >= bytes.length) return bytes.length;
    if (closing < index) closing = bytes.indexOf(quote, index);
    if (closing === -1) return bytes.length;
    const escaped = bytes.subarray(index, closing).indexOf(backslash);
    if (escaped === -1) return closing;
    index += escaped;
  }
}

/** Whether a colon follows the string that ends at `end`. */
export function isKey(bytes: Uint8Array, end: number): boolean {
  let next = end + 1;
  while ((bytes[next] ?? colon) <= 0x20) next++;
  return bytes[next] === colon;
}

/** Bounded recursion: the depth was checked. */
function countKeys(json: unknown): number {
  if (typeof json !== 'object' || json === null) return 0;
  let count = 0;
  if (Array.isArray(json)) {
    for (const element of json) count += countKeys(element);
    return count;
  }
  for (const key of Object.keys(json)) {
    const member = (json as Record<string, unknown>)[key];
    count += typeof member === 'object' ? 1 + countKeys(member) : 1;
  }
  return count;
}

/** An open object or array, and the current position in it. */
interface Level {
  readonly isArray: boolean;
  step: string | number;
}

interface Visitor {
  /** Called for a key of the innermost level. Returning true ends the walk. */
  readonly key?: (levels: readonly Level[], key: string) => boolean;
  readonly number?: (levels: readonly Level[], text: string) => void;
}

/** Walks valid JSON and reports keys and numbers with their places, which JSON.parse cannot. */
function walk(bytes: Uint8Array, { key: onKey, number: onNumber }: Visitor): void {
  const levels: Level[] = [];
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index] as number;
    const level = levels.at(-1);
    if (byte === 0x7b || byte === 0x5b) levels.push({ isArray: byte === 0x5b, step: byte === 0x5b ? 0 : '' });
    else if (byte === 0x7d || byte === 0x5d) levels.pop();
    else if (byte === 0x2c && level !== undefined && typeof level.step === 'number') level.step++;
    else if (byte === quote) {
      const end = endOfString(bytes, index);
      if (isKey(bytes, end) && level !== undefined) {
        level.step = JSON.parse(utf8.decode(bytes.subarray(index, end + 1))) as string;
        if (onKey?.(levels, level.step) === true) return;
      }
      index = end;
    } else if (startsNumber(byte)) {
      const end = endOfNumber(bytes, index);
      if (onNumber !== undefined && mayLoseDigits(bytes, index, end)) onNumber(levels, asciiOf(bytes, index, end));
      index = end - 1;
    }
  }
}

function markNumber(levels: readonly Level[], text: string, json: unknown): void {
  const inner = levels.at(-1);
  if (inner === undefined || !losesDigits(text)) return;
  let parent = json;
  for (const { step } of levels.slice(0, -1)) parent = (parent as Record<string | number, unknown>)[step];
  markLossy(parent as object, String(inner.step));
}

/** Finds the first repeated key in valid JSON. */
function duplicateKey(bytes: Uint8Array, names: BodyNames, part: Part | undefined): TranscodeError {
  const seen = new WeakMap<Level, Set<string>>();
  let error: TranscodeError | undefined;
  walk(bytes, {
    key(levels, key) {
      const level = levels.at(-1) as Level;
      const keys = seen.get(level) ?? new Set();
      seen.set(level, keys);
      if (!keys.has(key)) return !keys.add(key);
      error = twice(placeOf(levels, part ?? { at: rootOf(levels[0]?.isArray ?? false, names), first: 0 }), stepOf(key));
      return true;
    },
  });
  if (error === undefined) throw new Error('keys were counted wrong: no key is there twice');
  return error;
}

/** Returns the place of a body's root. */
export function rootOf(isArray: boolean, names: BodyNames): Place | undefined {
  const step = isArray ? names.array : names.object;
  return step === undefined ? undefined : { parent: undefined, step };
}

/** Returns the place of the innermost level. */
function placeOf(levels: readonly Level[], { at, first }: Pick<Part, 'at' | 'first'>): Place | undefined {
  return levels.slice(0, -1).reduce<Place | undefined>((parent, { step }, depth) => {
    if (typeof step === 'string') return { parent, step: stepOf(step) };
    return { parent, step: depth === 0 ? first + step : step };
  }, at);
}
