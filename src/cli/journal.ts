import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { CommandError } from './usage.ts';

/** What a run came to so far. */
export interface Tally {
  sent: number;
  duplicates: number;
  refused: number;
}

/** Where a run stands: its keys begin with `run`, so that an entry has the same key in the next try. */
export interface Standing {
  readonly run: string;
  /** The last line whose outcome is known. */
  readonly line: number;
  readonly tally: Tally;
  /** Bytes of the report that belong to these lines. */
  readonly reportBytes: number;
  /** What the entries were made of. */
  readonly input: Input;
}

/** The file and the options that made messages of it. */
export interface Input {
  readonly size: number;
  readonly modified: number;
  /** SHA-256 of the first 64 KiB. */
  readonly head: string;
  /** The mapping, as JSON: another one would make other messages of the same lines. */
  readonly mapping: string;
}

/** Looks at a file. */
export function inputOf(file: string, mapping: string): Input {
  const { size, mtimeMs } = statSync(file);
  const fd = openSync(file, 'r');
  try {
    const head = Buffer.alloc(Math.min(size, 64 * 1024));
    const read = readSync(fd, head, 0, head.length, 0);
    return {
      size,
      modified: Math.round(mtimeMs),
      head: createHash('sha256').update(head.subarray(0, read)).digest('hex'),
      mapping,
    };
  } finally {
    closeSync(fd);
  }
}

/** What of an input is another than it was; undefined when it is the same. */
export function changeOf(before: Input, now: Input): string | undefined {
  if (before.mapping !== now.mapping) return 'the options that make messages of it are others';
  if (before.size !== now.size) return `its size was ${before.size} bytes and is ${now.size}`;
  if (before.head !== now.head) return 'its beginning is another';
  if (before.modified !== now.modified) return `it was written to after ${new Date(before.modified).toISOString()}`;
  return undefined;
}

export function readStanding(journal: string): Standing | undefined {
  if (!existsSync(journal)) return undefined;
  try {
    const read = JSON.parse(readFileSync(journal, 'utf8')) as Partial<Standing>;
    if (isStanding(read)) return read;
  } catch {
    // Said below.
  }
  throw new CommandError(
    `${journal} is no journal of this version's send: move it away, or give --restart, to begin anew`,
  );
}

function isStanding(read: Partial<Standing>): read is Standing {
  const { run, line, tally, reportBytes, input } = read;
  return (
    typeof run === 'string' &&
    [line, reportBytes, tally?.sent, tally?.duplicates, tally?.refused, input?.size, input?.modified].every(
      Number.isSafeInteger,
    ) &&
    typeof input?.head === 'string' &&
    typeof input.mapping === 'string'
  );
}

/** Written whole under another name first, and on disk before it is in force: a crash leaves the old one or the new one. */
export function writeStanding(journal: string, standing: Standing): void {
  const work = `${journal}.new`;
  const fd = openSync(work, 'w');
  try {
    writeSync(fd, `${JSON.stringify(standing)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(work, journal);
}
