import { readFileSync } from 'node:fs';

/** A setting that is missing, odd or impossible: its message is one line for the one who set it, with what cannot be seen as escapes. */
export class ConfigError extends Error {
  constructor(message: string) {
    super(visible(message));
  }
}

/** What an editor does not show, or shows as a space or a line's end: a copy of a name from a web page may hold it. */
const unseen = /[\p{C}\p{DI}\p{Zl}\p{Zp}\ufffd]|(?! )\p{Zs}/gu;

/** A text with everything that cannot be seen as escapes. */
export function visible(text: string): string {
  return text.replace(unseen, (sign) => {
    const code = sign.codePointAt(0) ?? 0;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\u{${code.toString(16)}}`;
  });
}

/** Reads a file of settings: UTF-8, with or without a byte order mark. `what` begins the message when it is not, or cannot be read. */
export function readSettingsFile(path: string, what: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new ConfigError(`${what} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (bytes[0] === 0x30 && bytes[1] !== undefined && bytes[1] >= 0x80)
    throw new ConfigError(`${what} is in DER, not in PEM: write it out with openssl (x509 or pkey, -inform der)`);
  // An editor's "Unicode" is UTF-16: with a mark, or with every second byte zero.
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff) || bytes.includes(0))
    throw new ConfigError(`${what} is UTF-16, or holds zero bytes: save it as UTF-8`);
  try {
    // The decoder takes the byte order mark away.
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    const line = firstOddLine(bytes);
    throw new ConfigError(`${what} is not UTF-8 (line ${line}): save it as UTF-8`);
  }
}

function firstOddLine(bytes: Buffer): number {
  let line = 1;
  for (let from = 0; ; line++) {
    const end = bytes.indexOf(0x0a, from);
    const part = bytes.subarray(from, end === -1 ? undefined : end);
    if (end === -1 || Buffer.compare(Buffer.from(part.toString('utf8')), part) !== 0) return line;
    from = end + 1;
  }
}
