import type { OutgoingHttpHeaders } from 'node:http';
import type { Response } from '../rpc/request-context.ts';
import { encodeGrpcMessage } from './grpc-message.ts';

/**
 * Answers with one block of headers that ends the stream. Retry policies of gRPC clients (gRFC A6) regard a call as committed when headers come before
 * the trailers, and never retry it.
 */
export function endTrailersOnly(response: Response, fields: OutgoingHttpHeaders): void {
  response.statusCode = 200;
  // writeHead would send the headers before it knows that nothing follows them, and a frame of its own would end the stream.
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) response.setHeader(name, value);
  response.end();
}

/**
 * Holds the headers of an answer back until its first byte: when an error comes instead, the answer is Trailers-Only. For Connect's adapter, which writes headers,
 * and then trailers, whatever becomes of a call.
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

/** Headers that every answer has: none of them is metadata that a handler wants read as a header. */
const usualHeaders = new Set(['content-type', 'grpc-encoding', 'grpc-accept-encoding', 'x-request-id']);

/** Whether a handler has set headers: in one block with the trailers a client would find them among those. */
function hasOwnHeaders(headers: OutgoingHttpHeaders): boolean {
  return Object.keys(headers).some((name) => !usualHeaders.has(name.toLowerCase()));
}

/** The part of a response by which Connect's adapter writes. */
interface Writable {
  writeHead(status: number, headers?: OutgoingHttpHeaders): unknown;
  write(...chunk: unknown[]): boolean;
  addTrailers(fields: OutgoingHttpHeaders): void;
  end(): unknown;
}
