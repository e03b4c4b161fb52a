// Calls that are served on the HTTP/2 stream itself.
//
// Node's request and response for HTTP/2 are streams in front of the stream, with listeners for
// everything that a handler could ask of them: 8 of the 36 µs of CPU that a small call takes on a
// server that does nothing else. Plain unary gRPC asks for little. The port gives it a
// StreamRequest and a StreamResponse, which have what dispatch and grpc-unary.ts use; all other
// requests get Node's.

import type { Http2SecureServer, Http2Server, IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import type { Handler, Request, Response } from '../rpc/request-context.ts';

/** The request of a call on a stream: its headers, and the stream that has its body. */
export class StreamRequest {
  readonly httpVersionMajor = 2;
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: string[];

  constructor(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, rawHeaders: string[]) {
    this.stream = stream;
    this.headers = headers;
    this.rawHeaders = rawHeaders;
  }

  get method(): string {
    return this.headers[':method'] ?? '';
  }

  get url(): string {
    return this.headers[':path'] ?? '';
  }

  /**
   * The connection's, without what HTTP/2 does not permit; undefined once the stream is closed. Its
   * peer may have reset it with the same packet that opened it.
   */
  get socket() {
    return this.stream.session?.socket;
  }

  /** Whether the body has ended, or nothing of it will follow. */
  get complete(): boolean {
    return this.stream.readableEnded || this.stream.destroyed;
  }

  on(event: string, listener: () => void): this {
    this.stream.on(event, listener);
    return this;
  }

  once(event: string, listener: () => void): this {
    this.stream.once(event, listener);
    return this;
  }

  off(event: string, listener: () => void): this {
    this.stream.off(event, listener);
    return this;
  }

  removeAllListeners(event: string): this {
    this.stream.removeAllListeners(event);
    return this;
  }

  resume(): this {
    this.stream.resume();
    return this;
  }
}

/**
 * The response of a call on a stream. Headers, body and trailers are written to the stream; who
 * ends the answer of a call says so here.
 */
export class StreamResponse {
  readonly stream: ServerHttp2Stream;
  /** Whether it was answered. The stream's own flag is also set when its peer resets it. */
  writableEnded = false;

  constructor(stream: ServerHttp2Stream) {
    this.stream = stream;
  }

  once(event: 'close', listener: () => void): this {
    this.stream.once(event, listener);
    return this;
  }

  off(event: 'close', listener: () => void): this {
    this.stream.off(event, listener);
    return this;
  }
}

/** By its headers, whether a call is served on its stream. */
export type TakesStream = (headers: IncomingHttpHeaders) => boolean;

type StreamListener = (
  this: Http2Server | Http2SecureServer,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: string[],
) => void;

/**
 * Gives the calls that `takes` accepts to the handler with their stream. Node creates its request
 * and response in a listener that a server adds with its first request handler: it gets the others.
 */
export function serveStreams(server: Http2Server | Http2SecureServer, takes: TakesStream, handler: Handler): void {
  const others = server.listeners('stream') as StreamListener[];
  server.removeAllListeners('stream');
  const onStream: StreamListener = (stream, headers, flags, rawHeaders) => {
    if (takes(headers)) {
      const request = new StreamRequest(stream, headers, rawHeaders);
      // All that they lack belongs to handlers that do not get such calls.
      handler(request as unknown as Request, new StreamResponse(stream) as unknown as Response);
    } else for (const other of others) other.call(server, stream, headers, flags, rawHeaders);
  };
  server.on('stream', onStream);
}
