/** Limits of a connection. Times in milliseconds. */
export interface ConnectionBounds {
  /** For the first byte, and for all headers of a request. */
  readonly headersMs: number;
  /**
   * For a whole HTTP/1.1 request, or its next `requestBytes`; on HTTP/2 for its next frame. Also
   * for the client to accept an answer: the next piece of it, on HTTP/2 all of it.
   */
  readonly requestMs: number;
  readonly requestBytes: number;
  /** Idle time of a kept-alive HTTP/1.1 connection. */
  readonly keepAliveMs: number;
  /** Idle time of an HTTP/2 connection. */
  readonly sessionIdleMs: number;
  /** Time between HTTP/2 pings. A peer that has not answered one by the next is disconnected. */
  readonly pingMs: number;
  readonly headerBytes: number;
  readonly streams: number;
  readonly connections: number;
}

/** Limits that floods reach and real clients do not. */
export const connectionBounds: ConnectionBounds = {
  headersMs: 10_000,
  requestMs: 60_000,
  requestBytes: 4 * 1024 * 1024,
  keepAliveMs: 75_000,
  sessionIdleMs: 10 * 60_000,
  pingMs: 60_000,
  headerBytes: 32 * 1024,
  streams: 250,
  connections: 10_000,
};
