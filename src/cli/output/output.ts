import { once } from 'node:events';
import { styleText } from 'node:util';

/** Writes a line to stdout, as fast as whoever reads it takes lines. */
export async function print(line: string): Promise<void> {
  if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain');
}

/** Writes JSON as a line. Inside its strings the characters that terminals obey are escapes, which JSON reads as the characters. */
export async function printJson(json: string): Promise<void> {
  await print(safeJson(json));
}

/** JSON whose text holds nothing that a terminal obeys; its value is the same. */
export function safeJson(json: string): string {
  return json.replace(obeyed, (char) => (char === '\n' ? char : escapeOf(char)));
}

/** A line on stderr, which leaves stdout to what pipes want. */
export function note(line: string): void {
  process.stderr.write(`${visible(line)}\n`);
}

/** Who reads has had enough, as `| head -1`: that is a good end. What else stops stdout, as a full disk behind `> file`, is said in a line. */
export function endQuietlyWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    note(`sendbatch: standard output cannot be written: ${error.message}`);
    process.exit(1);
  });
}

type Color = 'dim' | 'cyan' | 'green' | 'red' | 'yellow' | 'bold';

/** Colors where a terminal reads them; NO_COLOR and FORCE_COLOR are heard. */
export function paint(color: Color, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return styleText(color, text, { stream });
}

/** What a terminal obeys: control characters (C0, DEL, C1), and those that turn the direction of a line (UAX 9) or end it. */
const obeyed = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/** Text in one line, as text: ends of lines and tabs are spaces, and what else a terminal would obey is an escape. */
export function plain(text: string): string {
  return visible(text.replace(/[\t\r\n]/g, ' '));
}

/** Text of several lines: what a terminal would obey is an escape, such as \u001b, but for ends of lines and tabs. */
export function visible(text: string): string {
  return text.replace(obeyed, (char) => (char === '\n' || char === '\t' ? char : escapeOf(char)));
}

function escapeOf(char: string): string {
  return `\\u${(char.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`;
}

/** Text as text, bytes as base64; in one line. */
export function printable(payload: Uint8Array): string {
  try {
    return plain(new TextDecoder('utf-8', { fatal: true }).decode(payload));
  } catch {
    return Buffer.from(payload).toString('base64');
  }
}
