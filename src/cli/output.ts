import { once } from 'node:events';
import { styleText } from 'node:util';

/** Writes a line to stdout, as fast as whoever reads it takes lines. */
export async function print(line: string): Promise<void> {
  if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain');
}

/** A line on stderr, which leaves stdout to what pipes want. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Who reads has had enough, as `| head -1`: that is a good end. What else stops stdout, as a full disk behind `> file`, is said in a line. */
export function endQuietlyWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    note(`sendbatch: standard output cannot be written: ${error.message}`);
    process.exit(1);
  });
}

type Colour = 'dim' | 'cyan' | 'green' | 'red' | 'yellow' | 'bold';

/** Colours where a terminal reads them; NO_COLOR and FORCE_COLOR are heard. */
export function paint(colour: Colour, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return styleText(colour, text, { stream });
}

/** Text without what would move the terminal's cursor. */
export function plain(text: string): string {
  return text.replace(/\p{Cc}/gu, ' ');
}

/** Text as text, bytes as base64; in one line. */
export function printable(payload: Uint8Array): string {
  try {
    return plain(new TextDecoder('utf-8', { fatal: true }).decode(payload));
  } catch {
    return Buffer.from(payload).toString('base64');
  }
}
