import type { OutgoingHttpHeaders } from 'node:http';
import type { Response } from '../rpc/request-context.ts';
import { encodeGrpcMessage } from './grpc-message.ts';

/**
 * Answers with a single header block that ends the stream. gRPC retry policies (gRFC A6) treat a
 * call as committed, and never retry it, once headers arrive before the trailers.
 */
export function endTrailersOnly(response: Response, fields: OutgoingHttpHeaders): void {
  response.statusCode = 200;
  // writeHead would send the headers immediately, and the end of the stream in another frame.
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) response.setHeader(name, value);
  response.end();
}

/**
 * Defers the headers of an answer until its first byte: if an error comes instead, the answer is
 * Trailers-Only. Needed for Connect's adapter, which always writes headers and trailers.
 */
export function deferHead(response: Response): void {
  const { writeHead, write, addTrailers, end } = response as Writable;
  const original = { writeHead, write, addTrailers, end };
  let head: { status: number; headers: OutgoingHttpHeaders } | undefined;
  let trailers: OutgoingHttpHeaders = {};
  const flush = () => {
    if (head === undefined) return;
    writeHead.call(response, head.status, head.headers);
    head = undefined;
  };
  const own: Writable = {
    writeHead(status, headers = {}) {
      head = { status, headers };
      return response;
    },
    write(...chunk) {
      flush();
      return write.apply(response, chunk);
    },
    addTrailers(fields) {
      const message = fields['grpc-message'];
      trailers =
        typeof message === 'string'
          ? { ...fields, 'grpc-message': encodeGrpcMessage(decodeURIComponent(message)) }
          : fields;
    },
    end() {
      // Node's own `end` calls `writeHead` of the object.
      Object.assign(response, original);
      const failed = (trailers['grpc-status'] ?? '0') !== '0';
      if (head !== undefined && failed && !hasOwnHeaders(head.headers))
        endTrailersOnly(response, { ...head.headers, ...trailers });
      else {
        flush();
        addTrailers.call(response, trailers);
        end.call(response);
      }
      return response;
    },
  };
  Object.assign(response, own);
}

/** Headers of every answer; none of them is metadata of a handler. */
const usualHeaders = new Set(['content-type', 'grpc-encoding', 'grpc-accept-encoding', 'x-request-id']);

/** Whether a handler has set headers. In a single block the client would read them as trailers. */
export function hasOwnHeaders(headers: OutgoingHttpHeaders): boolean {
  return Object.keys(headers).some((name) => !usualHeaders.has(name.toLowerCase()));
}

/** The methods of a response that Connect's adapter writes with. */
interface Writable {
  writeHead(status: number, headers?: OutgoingHttpHeaders): unknown;
  write(...chunk: unknown[]): boolean;
  addTrailers(fields: OutgoingHttpHeaders): void;
  end(): unknown;
}
