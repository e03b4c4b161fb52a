import type { ServerResponse } from 'node:http';

/** How long an HTTP/1.1 request may take to come, and the next piece of its answer to be taken. */
export interface ExchangeTime {
  readonly requestMs: number;
  /** Bytes by which a request that came so far has another `requestMs`. */
  readonly requestBytes: number;
}

/** Longest interval between two checks. */
const checkMs = 1000;

/**
 * Closes HTTP/1.1 exchanges that stand still. One check serves all of them; timers of their own cost
 * each small call more than its headers do.
 *  - A request that does not come. Node has only one time for all of a request, with which a batch of
 *    256 MiB would need 36 Mbit/s; here every 4 MiB have a minute.
 *  - A written answer that the client does not take, for which Node has no timeout. (The answer of a
 *    stream has that of its writer.)
 */
export function closeSlowExchanges(
  responses: ReadonlySet<ServerResponse>,
  { requestMs, requestBytes }: ExchangeTime,
): () => void {
  /** Bytes of unfinished requests at their last check point. */
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
      const brought = socket.bytesRead - upload.bytesRead;
      if (brought < requestBytes) close(response);
      else uploads.set(response, { since: now, bytesRead: socket.bytesRead });
    }
  };
  const timer = setInterval(
    () => {
      for (const response of responses) check(response);
    },
    Math.min(checkMs, Math.max(50, requestMs / 4)),
  ).unref();
  return () => clearInterval(timer);
}

function close({ req: { socket }, headersSent }: ServerResponse): void {
  if (!headersSent) socket.write('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n');
  socket.destroy();
}
