import type { Response } from '../rpc/request-context.ts';

type Callback = (error?: Error | null) => void;

/**
 * Ends the write that is under way when a connection is destroyed. Node then neither calls it back nor emits `drain` in some cases (TLS; a peer that reads
 * nothing): Connect's adapter would wait for ever, and its reader would never be released.
 */
export function endCutWrites(response: Response): void {
  const write = response.write.bind(response) as (chunk: unknown, encoding: string, done: Callback) => boolean;
  response.write = ((chunk: unknown, encoding: string, done?: Callback) =>
    write(chunk, encoding, (error) => done?.(error ? leftBy(error) : undefined))) as typeof response.write;
  response.on('error', () => {});
  response.once('close', () => {
    if (!response.writableEnded) response.emit('error', leftBy());
  });
}

/** The one code that Connect's adapter takes for a caller that hung up: it prints any other to the console. */
function leftBy(cause?: Error): Error {
  return Object.assign(new Error('the caller disconnected', { cause }), { code: 'ERR_STREAM_DESTROYED' });
}
