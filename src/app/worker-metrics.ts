import type { Worker } from 'node:cluster';
import { gather } from '../observability/gather.ts';

/**
 * A worker that does not answer for so long, because its event loop is held up, is told as down:
 * the others' metrics are not to wait for it.
 */
const answerMs = 2000;

/**
 * What goes between the workers and the one who forked them. A scrape meets one worker: it asks for
 * the page of all, for which each is asked for its own.
 */
type Word =
  | { readonly metrics: 'page wanted' | 'own wanted'; readonly id: number }
  | { readonly metrics: 'page' | 'own'; readonly id: number; readonly text: string };

let lastId = 0;
const waiting = new Map<number, (text: string) => void>();

/** In a worker: the metrics of all workers. */
export async function metricsOfAll(): Promise<string> {
  const page = await ask('page wanted', (word) => process.send?.(word), answerMs * 2);
  if (page === undefined) throw new Error('the metrics of the workers were not gathered in time');
  return page;
}

/** In a worker: answers for its own metrics. */
export function answerForMetrics(own: () => Promise<string>): void {
  process.on('message', (message) => {
    const word = wordOf(message);
    if (word?.metrics === 'page') waiting.get(word.id)?.(word.text);
    // One that cannot say is down for who asked.
    else if (word?.metrics === 'own wanted')
      own().then(
        (text) => process.connected && process.send?.({ metrics: 'own', id: word.id, text } satisfies Word),
        () => {},
      );
  });
}

/**
 * In the one who forked: answers a worker that wants the page of all. `all`: the workers by their
 * place.
 */
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
