import { ComposeEngine, type CreateSendBody, engineErrorOf } from './engine.ts';
import type { FromWorker, Method, ToWorker } from './protocol.ts';

/** `fetch` reports no progress of an upload. */
const createSendBody: CreateSendBody =
  (onProgress) =>
  ({ url, header, body, signal }) =>
    new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open('POST', url);
      request.responseType = 'arraybuffer';
      for (const [name, value] of header) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded, total }) => onProgress(loaded, total);
      request.upload.onload = () => onProgress(body.size, body.size);
      request.onerror = () => reject(new Error('the connection was lost'));
      request.onabort = () => reject(signal?.reason);
      request.onload = () =>
        resolve({
          status: request.status,
          header: headersOf(request.getAllResponseHeaders()),
          body: new Uint8Array(request.response as ArrayBuffer),
        });
      signal?.addEventListener('abort', () => request.abort(), { once: true });
      request.send(body);
    });

function headersOf(lines: string): Headers {
  const headers = new Headers();
  for (const line of lines.trim().split(/[\r\n]+/)) {
    const at = line.indexOf(':');
    if (at > 0) headers.append(line.slice(0, at), line.slice(at + 1).trim());
  }
  return headers;
}

const engine = new ComposeEngine(createSendBody);
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
