import { TranscodeError } from './error.ts';
import { quoted } from './scalar.ts';

/** Deeper JSON than any message of a sane schema; what reads it may recurse. */
export const deepest = 64;

/** Parses a body: valid UTF-8, one JSON value, no key twice in an object, not nested without end. `offset`: where it stands in the whole body, for what is wrong with it. */
export function parseJson(bytes: Uint8Array, offset = 0): unknown {
  const text = decodeUtf8(bytes);
  // First, since JSON.parse takes any depth: 16 MiB of brackets held the process for 3.2 s and 750 MB.
  const keys = scan(bytes);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw offset === 0
      ? new TranscodeError(400, `the body is not JSON: ${error instanceof Error ? error.message : String(error)}`)
      : notJson(offset);
  }
  // JSON.parse keeps the last of two equal keys in silence. Counting the keys of the text and of the value takes 50 µs for 38 kB, half of the
  // parsing; only when they differ is the text searched for the key.
  if (countKeys(json) !== keys) throw twice(duplicateKey(bytes));
  return json;
}

export function twice(key: string): TranscodeError {
  return new TranscodeError(400, `the body has the key ${quoted(key)} twice in one object`, [
    { field: key.slice(0, 64), description: 'is there twice' },
  ]);
}

export function notJson(offset: number): TranscodeError {
  return new TranscodeError(400, `the body is not JSON: an error at byte ${offset} or in the 64 KiB after it`);
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

/** How many keys the text has, and that it is not too deep; what it says of a text that is not JSON does not matter. */
function scan(bytes: Uint8Array): number {
  let keys = 0;
  let depth = 0;
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index];
    if (byte === quote) {
      index = endOfString(bytes, index);
      if (isKey(bytes, index)) keys++;
    } else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > deepest) throw new TranscodeError(400, `the body is nested deeper than ${deepest} levels`);
    } else if (byte === 0x7d || byte === 0x5d) depth--;
  }
  return keys;
}

/** Where the closing quote of the string is that starts at `start`. */
export function endOfString(bytes: Uint8Array, start: number): number {
  let index = start + 1;
  for (; index < bytes.length; index++) {
    const byte = bytes[index];
    if (byte === quote) break;
    if (byte === backslash) index++;
  }
  return index;
}

/** Whether a colon follows the string that ends at `end`. */
export function isKey(bytes: Uint8Array, end: number): boolean {
  let next = end + 1;
  while ((bytes[next] ?? colon) <= 0x20) next++;
  return bytes[next] === colon;
}

/** Recursion ends: the text was not too deep. */
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

/** The first key that an object of the text, which is JSON, has twice. */
function duplicateKey(bytes: Uint8Array): string {
  const open: Set<string>[] = [];
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index];
    if (byte === 0x7b) open.push(new Set());
    else if (byte === 0x7d) open.pop();
    else if (byte === quote) {
      const end = endOfString(bytes, index);
      if (isKey(bytes, end)) {
        const key: string = JSON.parse(utf8.decode(bytes.subarray(index, end + 1)));
        const keys = open.at(-1);
        if (keys?.has(key)) return key;
        keys?.add(key);
      }
      index = end;
    }
  }
  throw new Error('keys were counted wrong: no key is there twice');
}
