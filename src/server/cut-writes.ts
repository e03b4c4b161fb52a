import type { Response } from '../rpc/request-context.ts';

type Callback = (error?: Error | null) => void;

/**
 * Ends a pending write when the connection is destroyed. Node sometimes calls no callback then and
 * emits no `drain` (TLS; a peer that reads nothing): Connect's adapter would wait for ever and its
 * reader would never be released.
 */
export function endCutWrites(response: Response): void {
  const write = response.write.bind(response) as (chunk: unknown, encoding: string, done: Callback) => boolean;
  response.write = ((chunk: unknown, encoding: string, done?: Callback) =>
    write(chunk, encoding, (error) => done?.(error ? disconnectError(error) : undefined))) as typeof response.write;
  response.on('error', () => {});
  response.once('close', () => {
    if (!response.writableEnded) response.emit('error', disconnectError());
  });
}

/**
 * The only code that Connect's adapter treats as a disconnect; it prints all others to the console.
 */
function disconnectError(cause?: Error): Error {
  return Object.assign(new Error('the caller disconnected', { cause }), { code: 'ERR_STREAM_DESTROYED' });
}
