/** The six bits of each character, in the standard and the URL-safe alphabet; 64 for all others. */
const bits = new Uint8Array(256).fill(64);
for (const [index, character] of [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'].entries())
  bits[character.charCodeAt(0)] = index;
bits['-'.charCodeAt(0)] = 62;
bits['_'.charCodeAt(0)] = 63;

const padding = 0x3d;

/**
 * Decodes base64, with or without padding, into `into` from `at` on. Returns where the decoded
 * bytes end; -1 when the text is not base64.
 */
export function decodeBase64(bytes: Uint8Array, start: number, end: number, into: Uint8Array, at: number): number {
  let last = end;
  while (last > start && bytes[last - 1] === padding && end - last < 2) last--;
  const left = (last - start) % 4;
  if (left === 1 || (last < end && (end - start) % 4 !== 0)) return -1;
  const whole = last - left;
  let found = 0;
  let to = at;
  for (let index = start; index < whole; index += 4) {
    const a = bits[bytes[index] as number] as number;
    const b = bits[bytes[index + 1] as number] as number;
    const c = bits[bytes[index + 2] as number] as number;
    const d = bits[bytes[index + 3] as number] as number;
    found |= a | b | c | d;
    const group = (a << 18) | (b << 12) | (c << 6) | d;
    into[to++] = group >>> 16;
    into[to++] = group >>> 8;
    into[to++] = group;
  }
  if (left > 0) {
    const a = bits[bytes[whole] as number] as number;
    const b = bits[bytes[whole + 1] as number] as number;
    const c = left === 3 ? (bits[bytes[whole + 2] as number] as number) : 0;
    found |= a | b | c;
    into[to++] = (a << 2) | (b >>> 4);
    if (left === 3) into[to++] = (b << 4) | (c >>> 2);
  }
  return (found & 64) === 0 ? to : -1;
}
