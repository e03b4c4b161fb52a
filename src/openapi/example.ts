/** An exchange with the service, as the document shows it and as a test has it. */
export interface Example {
  /** The operation: `POST /v1/templates`. */
  readonly route: string;
  /** What it shows. */
  readonly summary: string;
  /** What goes into the braces of the path. */
  readonly path?: Readonly<Record<string, string | number>>;
  /** A list comes as a parameter for each of its entries. */
  readonly query?: Readonly<Record<string, string | number | boolean | readonly string[]>>;
  readonly body?: unknown;
  readonly status: number;
  readonly answer: unknown;
}

/** A key for an example among those of its operation. */
export function keyOf({ summary }: Example): string {
  return summary.replace(/[^A-Za-z0-9]+/g, '_').replace(/^_+|_+$/g, '');
}
