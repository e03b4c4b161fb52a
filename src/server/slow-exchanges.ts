import type { ServerResponse } from 'node:http';
import type { OpenList } from './open-list.ts';

/** Time limits of an HTTP/1.1 request and of the next piece of its answer. */
export interface ExchangeTime {
  readonly requestMs: number;
  /** A request that has sent this many more bytes gets another `requestMs`. */
  readonly requestBytes: number;
}

/** Longest interval between two checks. */
const checkMs = 1000;

/**
 * Closes stalled HTTP/1.1 exchanges. One timer serves all: timers of their own would cost a small
 * call more than its headers do.
 * 1. A slow upload. Node has only one timeout per request, with which 256 MiB would need 36 Mbit/s;
 *    here each 4 MiB have a minute.
 * 2. A written answer that the client does not accept, for which Node has no timeout. (Streams have
 *    that of their writer.)
 */
export function closeSlowExchanges(
  responses: OpenList<ServerResponse>,
  { requestMs, requestBytes }: ExchangeTime,
): () => void {
  /** Unfinished uploads and their bytes at the last checkpoint. */
  const uploads = new WeakMap<ServerResponse, { since: number; bytesRead: number }>();
  const timed = new WeakSet<ServerResponse>();
  const check = (response: ServerResponse) => {
    const { complete, socket } = response.req;
    if (complete) {
      if (!response.writableEnded || timed.has(response)) return;
      timed.add(response);
      socket.setTimeout(requestMs);
      return;
    }
    const upload = uploads.get(response);
    const now = performance.now();
    if (upload === undefined) uploads.set(response, { since: now, bytesRead: socket.bytesRead });
    else if (now - upload.since >= requestMs) {
      const received = socket.bytesRead - upload.bytesRead;
      if (received < requestBytes) close(response);
      else uploads.set(response, { since: now, bytesRead: socket.bytesRead });
    }
  };
  const timer = setInterval(
    () => {
      for (const response of responses.values()) check(response);
    },
    Math.min(checkMs, Math.max(50, requestMs / 4)),
  ).unref();
  return () => clearInterval(timer);
}

function close({ req: { socket }, headersSent }: ServerResponse): void {
  if (!headersSent) socket.write('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n');
  socket.destroy();
}
