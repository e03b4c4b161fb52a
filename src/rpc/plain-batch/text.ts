import { isUtf8 } from 'node:buffer';

/** Classes of bytes, as bits. */
const forbidden = 1;
const reserved = 2;
const beyondAscii = 4;

/** The class of each byte: control characters, `"` and `\` are forbidden, `@#&` are reserved. */
const classes = new Uint8Array(256);
for (let byte = 0; byte < 256; byte++) classes[byte] = byte < 0x20 ? forbidden : byte < 0x80 ? 0 : beyondAscii;
for (const character of '"\\') classes[character.charCodeAt(0)] = forbidden;
for (const character of '@#&') classes[character.charCodeAt(0)] = reserved;

/**
 * Whether bytes are a plain text: valid UTF-8 without control characters, `"` and `\`, and, with
 * `isName`, without `@#&`. A byte order mark at the start is not plain: decoders drop it.
 */
export function isPlainText(bytes: Uint8Array, start: number, end: number, isName: boolean): boolean {
  let found = 0;
  for (let index = start; index < end; index++) found |= classes[bytes[index] as number] as number;
  if (found === 0) return true;
  if ((found & forbidden) !== 0 || (isName && (found & reserved) !== 0)) return false;
  return (found & beyondAscii) === 0 || (bytes[start] !== 0xef && isUtf8(bytes.subarray(start, end)));
}
