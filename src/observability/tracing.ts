/** How traces are made and where they go. */
export interface TraceSettings {
  readonly version: string;
  /** Of OTLP over HTTP, with its path. */
  readonly url: string;
  readonly protocol: 'http/protobuf' | 'http/json';
  /** As OTEL_TRACES_SAMPLER names it. */
  readonly sampler: string;
  readonly ratio: number;
}

/** A call that is traced. */
export interface CallSpan {
  readonly traceId: string;
  /** Runs the call's work, so that what it asks of the store is below it. */
  run<T>(work: () => T): T;
  end(code: string, errorType: string | undefined, attributes: Record<string, string | number>): void;
}

/**
 * What the rooms say for traces. Where they are off there is none of it, and nothing is paid but a
 * look whether there is.
 */
export interface Traces {
  /** The span of a call, below the caller's own when it names one (W3C `traceparent`). */
  beginCall(call: {
    readonly method: string;
    readonly system: string;
    readonly protocol: string;
    readonly requestId: string;
    readonly header: { get(name: string): string | null };
  }): CallSpan;
  /** A group commit: below the first of the calls that share it, linked to all of them. */
  readonly group: {
    origin(): unknown;
    around<T>(
      origins: readonly unknown[],
      group: { readonly jobs: number; readonly items: number },
      work: () => Promise<T>,
    ): Promise<T>;
  };
  /** One statement of SQL. Its text has placeholders, never values. */
  statement<T>(statement: { readonly name?: string; readonly text: string }, run: () => Promise<T>): Promise<T>;
  /** The headers that carry the context to whoever is asked: a hook, a webhook. */
  outgoing(): Record<string, string>;
  /** Sends what is left, for two seconds at most. */
  close(): Promise<void>;
}
