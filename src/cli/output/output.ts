import { once } from 'node:events';
import { styleText } from 'node:util';

/** Writes a line to stdout, no faster than its reader consumes lines. */
export async function print(line: string): Promise<void> {
  if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain');
}

/** Writes JSON as a line, with terminal controls in its strings as JSON escapes. */
export async function printJson(json: string): Promise<void> {
  await print(safeJson(json));
}

/** Escapes terminal controls in JSON text; its value stays the same. */
export function safeJson(json: string): string {
  return json.replace(terminalControls, (char) => (char === '\n' ? char : escapeOf(char)));
}

/** Writes a line to stderr; stdout is for results. */
export function note(line: string): void {
  process.stderr.write(`${visible(line)}\n`);
}

/**
 * Exits with success when the reader of stdout closes it (`| head -1`), and with an error for any
 * other failure, such as a full disk.
 */
export function endQuietlyWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    note(`sendbatch: cannot write to standard output: ${error.message}`);
    process.exit(1);
  });
}

type Color = 'dim' | 'cyan' | 'green' | 'red' | 'yellow' | 'bold';

/** Colors text for a terminal; respects NO_COLOR and FORCE_COLOR. */
export function paint(color: Color, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return styleText(color, text, { stream });
}

/**
 * Terminal controls: control characters (C0, DEL, C1), bidirectional controls (UAX 9), line
 * separators.
 */
const terminalControls = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/** Text in one line: line ends and tabs become spaces, other terminal controls become escapes. */
export function plain(text: string): string {
  return visible(text.replace(/[\t\r\n]/g, ' '));
}

/**
 * Text of several lines: terminal controls except line ends and tabs become escapes such as \u001b.
 */
export function visible(text: string): string {
  return text.replace(terminalControls, (char) => (char === '\n' || char === '\t' ? char : escapeOf(char)));
}

function escapeOf(char: string): string {
  return `\\u${(char.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`;
}

/** A payload in one line: UTF-8 text as it is, other bytes as base64. */
export function printable(payload: Uint8Array): string {
  try {
    return plain(new TextDecoder('utf-8', { fatal: true }).decode(payload));
  } catch {
    return Buffer.from(payload).toString('base64');
  }
}
