import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
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

/** The report of entries that were refused: a line of JSON each. */
export interface Report {
  /** How long it is on disk. */
  bytes(): number;
  add(line: number, reason: string, message: string, text: string): void;
  /** Puts on disk what was added. */
  flush(): void;
  close(): void;
}

/**
 * A report, opened by its first flush: a run that cannot begin leaves the last one's alone. What a killed run wrote beyond what its journal knows of is cut off: those
 * entries are sent again, and said again.
 */
export function createReport(file: string, keptBytes: number): Report {
  let fd: number | undefined;
  let bytes = 0;
  let lines: string[] = [];
  const open = () => {
    const opened = openSync(file, keptBytes > 0 && existsSync(file) ? 'r+' : 'w');
    bytes = Math.min(keptBytes, fstatSync(opened).size);
    ftruncateSync(opened, bytes);
    return opened;
  };
  return {
    bytes: () => bytes,
    add: (line, reason, message, text) => {
      lines.push(`${JSON.stringify({ line, reason, message, text })}\n`);
    },
    flush() {
      fd ??= open();
      if (lines.length === 0) return;
      const chunk = Buffer.from(lines.join(''));
      for (let done = 0; done < chunk.length; ) done += writeSync(fd, chunk, done, chunk.length - done, bytes + done);
      fsyncSync(fd);
      bytes += chunk.length;
      lines = [];
    },
    close() {
      if (fd === undefined) return;
      closeSync(fd);
      if (bytes === 0) rmSync(file, { force: true });
    },
  };
}

/** Holds a file against a second run on it, until the end of this one; a lock whose holder is gone is taken over. Returns what frees it. */
export function lock(file: string): () => void {
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, String(process.pid));
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        // A link is made or is not, and it has its content from the first moment on.
        linkSync(mine, file);
        return () => rmSync(file, { force: true });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const holder = holderOf(file);
      if (holder !== undefined && isAlive(holder)) break;
      takeAway(file, holder);
    }
    const holder = holderOf(file) ?? 'another process';
    throw new CommandError(
      `another run is sending this file (process ${holder}): wait for its end; if there is none, remove ${file}`,
    );
  } finally {
    rmSync(mine, { force: true });
  }
}

/** Of two that do this at once one moves the other's fresh lock: whoever moved a lock that is not the dead one's puts it back. */
function takeAway(file: string, dead: number | undefined): void {
  const aside = `${file}.${process.pid}.dead`;
  try {
    renameSync(file, aside);
    if (holderOf(aside) !== dead && !existsSync(file)) linkSync(aside, file);
  } catch (error) {
    if (!['ENOENT', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
  rmSync(aside, { force: true });
}

function holderOf(file: string): number | undefined {
  try {
    const pid = Number(readFileSync(file, 'utf8'));
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
