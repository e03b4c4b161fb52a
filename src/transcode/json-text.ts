import { TranscodeError } from './error.ts';

/** Deeper JSON than any message of a sane schema; what reads it may recurse. */
const deepest = 64;

/** Parses a body: valid UTF-8, one JSON value, no key twice in an object, not nested without end. */
export function parseJson(bytes: Uint8Array): unknown {
  const text = decode(bytes);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new TranscodeError(400, `the body is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  // JSON.parse keeps the last of two equal keys in silence. Counting the keys of the text and of the value costs a fifth of the parsing; only
  // when they differ is the text searched for the key.
  if (countKeys(json) !== countKeysOfText(text)) {
    const key = duplicateKey(text);
    throw new TranscodeError(400, `the body has the key ${JSON.stringify(key)} twice in one object`, [
      { field: key.slice(0, 64), description: 'is there twice' },
    ]);
  }
  return json;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new TranscodeError(400, 'the body is not valid UTF-8');
  }
}

function countKeys(json: unknown): number {
  let count = 0;
  let level: unknown[] = [json];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > deepest) throw new TranscodeError(400, `the body is nested deeper than ${deepest} levels`);
    const next: unknown[] = [];
    for (const value of level) {
      if (Array.isArray(value)) {
        for (const element of value) if (typeof element === 'object' && element !== null) next.push(element);
      } else if (typeof value === 'object' && value !== null) {
        for (const key of Object.keys(value)) {
          count++;
          const member = (value as Record<string, unknown>)[key];
          if (typeof member === 'object' && member !== null) next.push(member);
        }
      }
    }
    level = next;
  }
  return count;
}

const quote = '"';
const backslash = 92;
const colon = 58;

/** Where the string that starts at `start` ends; the text is known to be JSON. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf(quote, start + 1); ; end = text.indexOf(quote, end + 1)) {
    let slashes = 0;
    while (text.charCodeAt(end - 1 - slashes) === backslash) slashes++;
    if (slashes % 2 === 0) return end;
  }
}

/** A string is a key when a colon follows it. */
function isKeyEnd(text: string, end: number): boolean {
  let next = end + 1;
  while (text.charCodeAt(next) <= 32) next++;
  return text.charCodeAt(next) === colon;
}

function countKeysOfText(text: string): number {
  let count = 0;
  for (let start = text.indexOf(quote); start !== -1; ) {
    const end = endOfString(text, start);
    if (isKeyEnd(text, end)) count++;
    start = text.indexOf(quote, end + 1);
  }
  return count;
}

/** The first key that an object of the text has twice. */
function duplicateKey(text: string): string {
  const open: Set<string>[] = [];
  for (let index = 0; index < text.length; index++) {
    const character = text[index];
    if (character === '{') open.push(new Set());
    else if (character === '}') open.pop();
    else if (character === quote) {
      const end = endOfString(text, index);
      if (isKeyEnd(text, end)) {
        const key: string = JSON.parse(text.slice(index, end + 1));
        const keys = open.at(-1);
        if (keys?.has(key)) return key;
        keys?.add(key);
      }
      index = end;
    }
  }
  throw new Error('keys were counted wrong: no key is there twice');
}
