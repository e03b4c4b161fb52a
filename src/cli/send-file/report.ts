import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, rmSync, writeSync } from 'node:fs';
import type { JsonObject } from '@bufbuild/protobuf';
import { safeJson } from '../output/output.ts';
import { createPrivate, reopenPrivate } from './private-files.ts';

/** A refused entry. */
export interface RefusedEntry {
  readonly line: number;
  /** The channel id of the entry: in a person channel the receiver. */
  readonly recipient?: string | undefined;
  readonly reason: string;
  readonly message: string;
  /** The entry as in the file. */
  readonly text: string;
  /** The message with its key, if the entry is valid: the report can be sent again as it is. */
  readonly draft?: JsonObject | undefined;
}

/** Where `draft` has the message, `text` is only a preview. */
const previewChars = 1000;

/** The report of refused entries: one JSON line each. */
export interface Report {
  /** Its length on disk. */
  bytes(): number;
  add(entry: RefusedEntry): void;
  /** Writes the added entries durably. */
  flush(): void;
  close(): void;
}

/**
 * Opens the report with the first flush: a run that fails before keeps the report of the last one.
 * Truncates it to `keptBytes`: a killed run may have written entries that its journal does not
 * count, and they are sent again.
 */
export function createReport(file: string, keptBytes: number, templates: readonly JsonObject[] = []): Report {
  let fd: number | undefined;
  let bytes = 0;
  let lines: string[] = [];
  let hasTemplates = keptBytes > 0;
  const open = () => {
    const opened = keptBytes > 0 && existsSync(file) ? reopenPrivate(file) : createPrivate(file);
    bytes = Math.min(keptBytes, fstatSync(opened).size);
    if (fstatSync(opened).isFile()) ftruncateSync(opened, bytes);
    return opened;
  };
  return {
    bytes: () => bytes,
    add({ draft, text, ...entry }) {
      // Templates of the run are written once, with the first message that may need them.
      const own = draft !== undefined && !hasTemplates && templates.length > 0 ? { templates } : {};
      if (draft !== undefined) hasTemplates = true;
      const preview = draft === undefined ? text : text.slice(0, previewChars);
      lines.push(`${safeJson(JSON.stringify({ ...entry, text: preview, ...own, draft }))}\n`);
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
