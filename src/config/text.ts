import { readFileSync } from 'node:fs';

/**
 * A missing or invalid setting. Its message is one line for the operator, with invisible characters
 * escaped.
 */
export class ConfigError extends Error {
  constructor(message: string) {
    super(visible(message));
  }
}

/**
 * Characters that an editor shows not at all, or as a space or line end: text copied from a web
 * page may contain them.
 */
const invisible = /[\p{C}\p{DI}\p{Zl}\p{Zp}\ufffd]|(?! )\p{Zs}/gu;

/** Escapes invisible characters. */
export function visible(text: string): string {
  return text.replace(invisible, (sign) => {
    const code = sign.codePointAt(0) ?? 0;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\u{${code.toString(16)}}`;
  });
}

/** Reads a UTF-8 file, with or without byte order mark. `what` starts the message of an error. */
export function readSettingsFile(path: string, what: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new ConfigError(`${what} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (bytes[0] === 0x30 && bytes[1] !== undefined && bytes[1] >= 0x80)
    throw new ConfigError(`${what} is in DER, not in PEM: convert it with openssl (x509 or pkey, -inform der)`);
  // What editors call "Unicode" is UTF-16: with a byte order mark, or with every second byte zero.
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff) || bytes.includes(0))
    throw new ConfigError(`${what} is UTF-16, or contains zero bytes: save it as UTF-8`);
  try {
    // The decoder removes the byte order mark.
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    const line = firstInvalidLine(bytes);
    throw new ConfigError(`${what} is not UTF-8 (line ${line}): save it as UTF-8`);
  }
}

function firstInvalidLine(bytes: Buffer): number {
  let line = 1;
  for (let from = 0; ; line++) {
    const end = bytes.indexOf(0x0a, from);
    const part = bytes.subarray(from, end === -1 ? undefined : end);
    if (end === -1 || Buffer.compare(Buffer.from(part.toString('utf8')), part) !== 0) return line;
    from = end + 1;
  }
}
