/** An expected error of a file. Its message fits into one line and says what to do. */
export class FileError extends Error {}

/** An error of a file after which nothing more can be read. */
export class FileFault extends FileError {
  /** The invalid line. */
  readonly line: number;
  readonly why: string;

  constructor(line: number, why: string, { file, cause }: { readonly file?: string; readonly cause?: unknown } = {}) {
    super(`${file === undefined ? '' : `${file}: `}line ${line}: ${why}`, { cause });
    this.line = line;
    this.why = why;
  }
}
