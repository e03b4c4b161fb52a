import { ComposeEngine, engineErrorOf, type Network } from './engine.ts';
import type { FromWorker, Method, ToWorker } from './protocol.ts';

/**
 * An upload that makes no progress for this long is taken for lost: a network that changes under it
 * reports nothing.
 */
const silentUploadMs = 60_000;
/** The service stores 100,000 messages in seconds. */
const silentServiceMs = 180_000;

const network: Network = {
  /** `fetch` reports no progress of an upload. */
  createSendBody:
    (onProgress) =>
    ({ url, header, body, signal }) =>
      new Promise((resolve, reject) => {
        const request = new XMLHttpRequest();
        let timer: ReturnType<typeof setTimeout> | undefined;
        const lost = () => reject(new Error('the connection was lost'));
        const expect = (withinMs: number) => {
          clearTimeout(timer);
          timer = setTimeout(() => {
            lost();
            request.abort();
          }, withinMs);
        };
        request.open('POST', url);
        request.responseType = 'arraybuffer';
        for (const [name, value] of header) request.setRequestHeader(name, value);
        request.upload.onprogress = ({ loaded, total }) => {
          expect(silentUploadMs);
          onProgress(loaded, total);
        };
        request.upload.onload = () => {
          expect(silentServiceMs);
          onProgress(body.size, body.size);
        };
        request.onerror = lost;
        request.onabort = () => reject(signal?.reason);
        request.onload = () =>
          resolve({
            status: request.status,
            header: headersOf(request.getAllResponseHeaders()),
            body: new Uint8Array(request.response as ArrayBuffer),
          });
        request.onloadend = () => clearTimeout(timer);
        signal?.addEventListener('abort', () => request.abort(), { once: true });
        expect(silentUploadMs);
        request.send(body);
      }),
  isOnline: () => navigator.onLine,
  whenOnline: (signal) =>
    new Promise((resolve) => {
      addEventListener('online', () => resolve(), { once: true, signal });
      signal.addEventListener('abort', () => resolve(), { once: true });
    }),
};

function headersOf(lines: string): Headers {
  const headers = new Headers();
  for (const line of lines.trim().split(/[\r\n]+/)) {
    const at = line.indexOf(':');
    if (at > 0) headers.append(line.slice(0, at), line.slice(at + 1).trim());
  }
  return headers;
}

const engine = new ComposeEngine(network);
const running = new Map<number, AbortController>();

/** The arguments of each method after those of the page: a signal and a progress callback. */
async function run(
  method: Method,
  values: readonly unknown[],
  signal: AbortSignal,
  report: (progress: unknown) => void,
) {
  const call = engine[method].bind(engine) as (...given: unknown[]) => unknown;
  if (method === 'open') return await call(...values, report);
  if (method === 'audience' || method === 'check' || method === 'submit') return await call(...values, signal, report);
  return await call(...values);
}

addEventListener('message', async ({ data }: MessageEvent<ToWorker>) => {
  const { id } = data;
  if ('abort' in data) return running.get(id)?.abort();
  const controller = new AbortController();
  running.set(id, controller);
  const answer = (message: FromWorker) => postMessage(message);
  try {
    const result = await run(data.method, data.values, controller.signal, (progress) => answer({ id, progress }));
    answer({ id, result });
  } catch (error) {
    answer({ id, error: engineErrorOf(error) });
  } finally {
    running.delete(id);
  }
});
