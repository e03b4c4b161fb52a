/** How traces are sampled and exported. */
export interface TraceSettings {
  readonly version: string;
  /** OTLP over HTTP, with its path. */
  readonly url: string;
  readonly protocol: 'http/protobuf' | 'http/json';
  /** A value of OTEL_TRACES_SAMPLER. */
  readonly sampler: string;
  readonly ratio: number;
}

/** The span of a call. */
export interface CallSpan {
  readonly traceId: string;
  /** Runs the work of the call, so that its statements become child spans. */
  run<T>(work: () => T): T;
  end(code: string, errorType: string | undefined, attributes: Record<string, string | number>): void;
}

/**
 * Tracing, as the other folders see it. Undefined without traces, which then cost one check per
 * use.
 */
export interface Traces {
  /**
   * Starts the span of a call, as a child of the caller's span if there is one (W3C `traceparent`).
   */
  beginCall(call: {
    readonly method: string;
    readonly system: string;
    readonly protocol: string;
    readonly requestId: string;
    readonly header: { get(name: string): string | null };
  }): CallSpan;
  /** The span of a group commit: child of the first call of the group, linked to all of them. */
  readonly group: {
    origin(): unknown;
    around<T>(
      origins: readonly unknown[],
      group: { readonly jobs: number; readonly items: number },
      work: () => Promise<T>,
    ): Promise<T>;
  };
  /** The span of an SQL statement. Its text has placeholders, never values. */
  statement<T>(statement: { readonly name?: string; readonly text: string }, run: () => Promise<T>): Promise<T>;
  /** Headers that propagate the context to a hook or webhook. */
  outgoing(): Record<string, string>;
  /** Exports the remaining spans, within 2 s. */
  close(): Promise<void>;
}
