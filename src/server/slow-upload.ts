import type { IncomingMessage, ServerResponse } from 'node:http';

/** How long an HTTP/1.1 request may take to come. */
export interface UploadTime {
  readonly requestMs: number;
  /** Bytes by which a request that came so far has another `requestMs`. */
  readonly requestBytes: number;
}

/**
 * Cuts a request that does not come. Node has one time for all of a request: a batch of 256 MiB as NDJSON would need 36 Mbit/s for the minute that is plenty for any other, so that a request which comes
 * as fast as 0.6 Mbit/s has another minute, and another.
 */
export function closeSlowUpload(
  request: IncomingMessage,
  response: ServerResponse,
  { requestMs, requestBytes }: UploadTime,
): void {
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
  if (encoding === undefined && length === '0') return;
  const { socket } = request;
  let before = socket.bytesRead;
  const timer = setInterval(() => {
    if (request.complete) return clearInterval(timer);
    const brought = socket.bytesRead - before;
    before = socket.bytesRead;
    if (brought >= requestBytes) return;
    clearInterval(timer);
    if (!response.headersSent) socket.write('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n');
    socket.destroy();
  }, requestMs).unref();
  response.once('close', () => clearInterval(timer));
}
