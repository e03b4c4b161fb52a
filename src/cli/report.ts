import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, openSync, rmSync, writeSync } from 'node:fs';

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
