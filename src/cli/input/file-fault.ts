import { CommandError } from '../usage.ts';

/** What ends a file where it stands: nothing behind it can be read. */
export class FileFault extends CommandError {
  /** The line that is at fault. */
  readonly line: number;
  readonly why: string;

  constructor(line: number, why: string, { file, cause }: { readonly file?: string; readonly cause?: unknown } = {}) {
    super(`${file === undefined ? '' : `${file}: `}line ${line}: ${why}`, { cause });
    this.line = line;
    this.why = why;
  }
}
