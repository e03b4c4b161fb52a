import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, rmSync, writeSync } from 'node:fs';
import type { JsonObject } from '@bufbuild/protobuf';
import { safeJson } from '../output/output.ts';
import { openAgain, openFresh } from './private-files.ts';

/** An entry that was refused. */
export interface RefusedEntry {
  readonly line: number;
  /** The channel's id as the entry has it: in a person channel the receiver. */
  readonly recipient?: string | undefined;
  readonly reason: string;
  readonly message: string;
  /** The entry as it stands in the file. */
  readonly text: string;
  /** The message under its key, where it is one: the report can be sent again as it is. */
  readonly draft?: JsonObject | undefined;
}

/** Of a line whose message is in `draft` too, as much as shows which it is. */
const shownText = 1000;

/** The report of entries that were refused: a line of JSON each. */
export interface Report {
  /** How long it is on disk. */
  bytes(): number;
  add(entry: RefusedEntry): void;
  /** Puts on disk what was added. */
  flush(): void;
  close(): void;
}

/**
 * A report of a run with its own templates, opened by its first flush: a run that cannot begin leaves the last one's alone. What a killed run wrote beyond what its journal knows of is cut off: those
 * entries are sent again, and said again.
 */
export function createReport(file: string, keptBytes: number, templates: readonly JsonObject[] = []): Report {
  let fd: number | undefined;
  let bytes = 0;
  let lines: string[] = [];
  let hasTemplates = keptBytes > 0;
  const open = () => {
    const opened = keptBytes > 0 && existsSync(file) ? openAgain(file) : openFresh(file);
    bytes = Math.min(keptBytes, fstatSync(opened).size);
    if (fstatSync(opened).isFile()) ftruncateSync(opened, bytes);
    return opened;
  };
  return {
    bytes: () => bytes,
    add({ draft, text, ...entry }) {
      // Templates of the run stand once, where the first message is that may need them.
      const own = draft !== undefined && !hasTemplates && templates.length > 0 ? { templates } : {};
      if (draft !== undefined) hasTemplates = true;
      const shown = draft === undefined ? text : text.slice(0, shownText);
      lines.push(`${safeJson(JSON.stringify({ ...entry, text: shown, ...own, draft }))}\n`);
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
      const isFile = fstatSync(fd).isFile();
      closeSync(fd);
      if (bytes === 0 && isFile) rmSync(file, { force: true });
    },
  };
}
