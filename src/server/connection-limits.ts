/** What bounds a connection. Times in milliseconds. */
export interface ConnectionBounds {
  /** For the first byte, and for all headers of a request. */
  readonly headersMs: number;
  /** For a whole request, or the next `requestBytes` of it; on HTTP/2 for the next frame of it. And for an answer to be taken: its next piece, on HTTP/2 all of it. */
  readonly requestMs: number;
  readonly requestBytes: number;
  /** A kept-alive HTTP/1.1 connection without a request. */
  readonly keepAliveMs: number;
  /** An HTTP/2 connection without a frame. */
  readonly sessionIdleMs: number;
  /** Between two HTTP/2 pings; a peer that answers none until the next is gone. */
  readonly pingMs: number;
  readonly headerBytes: number;
  readonly streams: number;
  readonly connections: number;
}

/** Bounds that real clients do not meet and floods do. */
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
