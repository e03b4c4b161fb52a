import type { FileFault } from '../../message-files/file-error.ts';
import type { Reading } from '../input/file-options.ts';

/** What to send, and how. */
export interface SendPlan extends Reading {
  /** A path, or `-`. */
  readonly file: string;
  readonly concurrency: number;
  /** All checks without storing anything, and without a journal. */
  readonly dryRun: boolean;
  readonly journal: string;
  readonly report: string;
  /** What to do if the file or the options differ from those in the journal. */
  readonly onChange: 'refuse' | 'resume' | 'restart';
  /** Whether a file that was sent completely is sent again. */
  readonly again: boolean;
  readonly quiet: boolean;
}

/** Entries by result, so far. */
export interface SendCounts {
  sent: number;
  duplicates: number;
  refused: number;
  /** Left out by --unique. */
  dropped: number;
}

/** The result of a run. */
export interface Outcome extends SendCounts {
  readonly interrupted: boolean;
  readonly seconds: number;
  /** Whether this run continued an earlier one. */
  readonly resumed: boolean;
  /** Why the file could not be read to its end. */
  readonly fault: FileFault | undefined;
}

/** The options that turn entries into messages: with others the same lines make other messages. */
export function mappingJson({ shape, delimiter, encoding, mapping, templates, unique }: SendPlan): string {
  return JSON.stringify({ shape, delimiter, encoding, mapping, templates, unique });
}
