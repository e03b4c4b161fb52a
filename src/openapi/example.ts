/** A request and its answer: the document shows it, and a test sends it. */
export interface Example {
  /** The operation, such as `POST /v1/templates`. */
  readonly route: string;
  /** The title of the example. */
  readonly summary: string;
  /** The values of the path's variables. */
  readonly path?: Readonly<Record<string, string | number>>;
  /** A list becomes one parameter per entry. */
  readonly query?: Readonly<Record<string, string | number | boolean | readonly string[]>>;
  readonly body?: unknown;
  readonly status: number;
  readonly answer: unknown;
}

/** Returns the key of an example within its operation. */
export function keyOf({ summary }: Example): string {
  return summary.replace(/[^A-Za-z0-9]+/g, '_').replace(/^_+|_+$/g, '');
}
