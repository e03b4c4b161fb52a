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

/** Who reads has had enough, as `| head -1`: that is a good end. */
export function endQuietlyWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
}

type Colour = 'dim' | 'cyan' | 'green' | 'red' | 'yellow' | 'bold';

/** Colours where a terminal reads them; NO_COLOR and FORCE_COLOR are heard. */
export function paint(colour: Colour, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return styleText(colour, text, { stream });
}

/** Text as text, without what would move the terminal's cursor; bytes as base64. */
export function printable(payload: Uint8Array): string {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(payload);
    return text.replace(/\p{Cc}/gu, ' ');
  } catch {
    return Buffer.from(payload).toString('base64');
  }
}
