import type { Worker } from 'node:cluster';
import { gather } from '../observability/gather.ts';

/**
 * A worker that does not answer within this time is reported as down, so that the others' metrics
 * do not wait for it.
 */
const answerMs = 2000;

/**
 * Messages between workers and their parent. A scrape reaches one worker: it requests the page of
 * all, for which each worker is asked for its own.
 */
type Word =
  | { readonly metrics: 'page wanted' | 'own wanted'; readonly id: number }
  | { readonly metrics: 'page' | 'own'; readonly id: number; readonly text: string };

let lastId = 0;
const waiting = new Map<number, (text: string) => void>();

/** In a worker: requests the metrics of all workers. */
export async function metricsOfAll(): Promise<string> {
  const page = await ask('page wanted', (word) => process.send?.(word), answerMs * 2);
  if (page === undefined) throw new Error('the metrics of the workers were not gathered in time');
  return page;
}

/** In a worker: answers requests for its own metrics. */
export function answerForMetrics(own: () => Promise<string>): void {
  process.on('message', (message) => {
    const word = wordOf(message);
    if (word?.metrics === 'page') waiting.get(word.id)?.(word.text);
    // A worker that fails is reported as down.
    else if (word?.metrics === 'own wanted')
      own().then(
        (text) => process.connected && process.send?.({ metrics: 'own', id: word.id, text } satisfies Word),
        () => {},
      );
  });
}

/** In the parent: answers requests for the page of all. `all`: workers by index. */
export function serveMetrics(worker: Worker, all: () => ReadonlyMap<string, Worker | undefined>): void {
  worker.on('message', (message) => {
    const word = wordOf(message);
    if (word?.metrics === 'own') waiting.get(word.id)?.(word.text);
    else if (word?.metrics === 'page wanted')
      void pageOf(all()).then((text) => {
        if (worker.isConnected()) worker.send({ metrics: 'page', id: word.id, text } satisfies Word);
      });
  });
}

async function pageOf(workers: ReadonlyMap<string, Worker | undefined>): Promise<string> {
  const texts = await Promise.all(
    [...workers].map(async ([place, worker]): Promise<[string, string | undefined]> => {
      if (worker === undefined || !worker.isConnected()) return [place, undefined];
      return [place, await ask('own wanted', (word) => worker.send(word), answerMs)];
    }),
  );
  return gather(new Map(texts));
}

async function ask(what: 'page wanted' | 'own wanted', send: (word: Word) => void, ms: number) {
  const id = ++lastId;
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const timer = setTimeout(() => resolve(undefined), ms);
  waiting.set(id, resolve);
  send({ metrics: what, id });
  return await promise.finally(() => {
    clearTimeout(timer);
    waiting.delete(id);
  });
}

function wordOf(message: unknown): Word | undefined {
  return typeof message === 'object' && message !== null && 'metrics' in message ? (message as Word) : undefined;
}
