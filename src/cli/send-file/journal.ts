import { createHash } from 'node:crypto';
import { closeSync, createReadStream, fsyncSync, openSync, readSync, renameSync, statSync, writeSync } from 'node:fs';
import { CommandError } from '../usage.ts';
import { openFresh, readOwn } from './private-files.ts';

/** What a run came to so far. */
export interface Tally {
  sent: number;
  duplicates: number;
  refused: number;
  /** Left out by --unique. */
  dropped: number;
}

/** Where a run stands: its keys begin with `runPrepared`, so that an entry has the same key in the next try. */
export interface Standing {
  readonly run: string;
  /** The last line whose outcome is known. */
  readonly line: number;
  readonly tally: Tally;
  /** Bytes of the report that belong to these lines. */
  readonly reportBytes: number;
  /** What the entries were made of. */
  readonly input: Input;
  /** Set when all of it was sent. */
  readonly finished?: Finished;
}

/** A file that was sent whole. */
export interface Finished {
  /** When, in ISO 8601. */
  readonly at: string;
  /** SHA-256 of the whole file. */
  readonly digest: string;
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
  const text = readOwn(journal);
  if (text === undefined) return undefined;
  try {
    const read = JSON.parse(text) as Partial<Standing>;
    if (isStanding(read)) return read;
  } catch {
    // Said below.
  }
  throw new CommandError(
    `${journal} is no journal of this version's send: move it away, or give --restart, to begin anew`,
  );
}

/** How a file stands to one that was sent whole from the same place, with the same options. */
export type Likeness = 'same' | 'grown' | 'other';

/** Tells the file that was sent from another under its name, by what it holds: a copy has another time. */
export async function likenessOf(file: string, before: Standing, mapping: string): Promise<Likeness> {
  const { input, finished } = before;
  const { size } = statSync(file);
  if (finished === undefined || input.mapping !== mapping || size < input.size) return 'other';
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { end: Math.max(input.size - 1, 0) })) hash.update(chunk as Buffer);
  if (hash.digest('hex') !== finished.digest) return 'other';
  return size === input.size ? 'same' : 'grown';
}

function isStanding(read: Partial<Standing>): read is Standing {
  const { run, line, tally, reportBytes, input, finished } = read;
  return (
    typeof run === 'string' &&
    [
      line,
      reportBytes,
      tally?.sent,
      tally?.duplicates,
      tally?.refused,
      tally?.dropped ?? 0,
      input?.size,
      input?.modified,
    ].every(Number.isSafeInteger) &&
    typeof input?.head === 'string' &&
    typeof input.mapping === 'string' &&
    (finished === undefined || (typeof finished.at === 'string' && typeof finished.digest === 'string'))
  );
}

/** Written whole under another name first, and on disk before it is in force: a crash leaves the old one or the new one. */
export function writeStanding(journal: string, standing: Standing): void {
  const work = `${journal}.new`;
  const fd = openFresh(work);
  try {
    writeSync(fd, `${JSON.stringify(standing)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(work, journal);
}
