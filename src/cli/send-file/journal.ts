import { createHash } from 'node:crypto';
import { closeSync, createReadStream, fsyncSync, openSync, readSync, renameSync, statSync, writeSync } from 'node:fs';
import { CommandError } from '../usage.ts';
import type { SendCounts } from './plan.ts';
import { createPrivate, readPrivate } from './private-files.ts';

/**
 * The progress of a run. Keys of its messages start with `run`, so that an entry keeps its key when
 * the run is resumed.
 */
export interface Checkpoint {
  readonly run: string;
  /** The last line with a known result. */
  readonly line: number;
  readonly tally: SendCounts;
  /** Length of the report for these lines. */
  readonly reportBytes: number;
  readonly input: InputFingerprint;
  /** Set once the file was sent completely. */
  readonly finished?: Finished;
}

/** The completion of a run. */
export interface Finished {
  /** ISO 8601. */
  readonly at: string;
  /** SHA-256 of the whole file. */
  readonly digest: string;
}

/** Identifies the file and the options that turn its entries into messages. */
export interface InputFingerprint {
  readonly size: number;
  readonly modified: number;
  /** SHA-256 of the first 64 KiB. */
  readonly head: string;
  /** The options, as JSON. */
  readonly mapping: string;
}

export function fingerprintOf(file: string, mapping: string): InputFingerprint {
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

/** Describes how an input has changed; undefined if it has not. */
export function describeChange(before: InputFingerprint, now: InputFingerprint): string | undefined {
  if (before.mapping !== now.mapping) return 'the options that make its messages have changed';
  if (before.size !== now.size) return `its size was ${before.size} bytes and is ${now.size}`;
  if (before.head !== now.head) return 'its beginning has changed';
  if (before.modified !== now.modified) return `it was modified after ${new Date(before.modified).toISOString()}`;
  return undefined;
}

export function readCheckpoint(journal: string): Checkpoint | undefined {
  const text = readPrivate(journal);
  if (text === undefined) return undefined;
  try {
    const read = JSON.parse(text) as Partial<Checkpoint>;
    if (isCheckpoint(read)) return read;
  } catch {
    // Reported below.
  }
  throw new CommandError(
    `${journal} is not a journal of this version of send: move it away, or use --restart to start over`,
  );
}

/**
 * How a file compares to the one that was sent completely under its name, with the same options.
 */
type Comparison = 'same' | 'grown' | 'other';

/** Compares by content: a copy of the file has another modification time. */
export async function compareWithSent(file: string, before: Checkpoint, mapping: string): Promise<Comparison> {
  const { input, finished } = before;
  const { size } = statSync(file);
  if (finished === undefined || input.mapping !== mapping || size < input.size) return 'other';
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { end: Math.max(input.size - 1, 0) })) hash.update(chunk as Buffer);
  if (hash.digest('hex') !== finished.digest) return 'other';
  return size === input.size ? 'same' : 'grown';
}

function isCheckpoint(read: Partial<Checkpoint>): read is Checkpoint {
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

/**
 * Replaces the journal atomically and durably: after a crash it has the old content or the new one.
 */
export function writeCheckpoint(journal: string, checkpoint: Checkpoint): void {
  const work = `${journal}.new`;
  const fd = createPrivate(work);
  try {
    writeSync(fd, `${JSON.stringify(checkpoint)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(work, journal);
}
