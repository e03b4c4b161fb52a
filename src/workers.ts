import cluster, { type Worker } from 'node:cluster';
import { setTimeout as delay } from 'node:timers/promises';
import type { App } from './app.ts';
import type { Log } from './events.ts';
import { answerForMetrics, serveMetrics } from './worker-metrics.ts';

/** What a worker tells the one who forked it once it listens. */
export type Listening = Pick<App, 'url' | 'database'>;

const stop = 'stop';
/** A worker that ends by itself is replaced, not sooner than this. */
const pauseMs = 1000;

/** Whether this process is one of several that share the port. */
export const isWorker: boolean = cluster.isWorker;

/** In a worker: says that it listens, and stops when it is told to, or when nobody is left to tell it. */
export function joinWorkers({ url, database, metrics }: App, onStop: () => void): void {
  answerForMetrics(metrics);
  process.on('message', (word) => {
    if (word === stop) onStop();
  });
  process.on('disconnect', onStop);
  if (!process.connected) onStop();
  else process.send?.({ url, database } satisfies Listening);
}

/** In a worker that has stopped: lets the process end. */
export function leaveWorkers(): void {
  if (process.connected) process.disconnect();
}

/** Several processes that share the port. */
export interface Workers extends Listening {
  /** Stops them all; resolves to whether all of them stopped in order. */
  stop(): Promise<boolean>;
}

/**
 * Forks workers, each of which is a whole service of its own: they meet in the database only, as instances on several machines do. Resolves once all listen;
 * undefined when one could not start, which has said why. One that ends later is replaced.
 */
export async function startWorkers(count: number, log: Log): Promise<Workers | undefined> {
  const workers = new Set<Worker>();
  /** Those that listen, by place: who replaces a worker takes its place, and goes on with its series. */
  const places = new Map<string, Worker | undefined>();
  let stopping = false;
  let inOrder = true;

  const fork = async (place: string): Promise<Listening | undefined> => {
    const worker = cluster.fork();
    workers.add(worker);
    places.set(place, undefined);
    serveMetrics(worker, () => places);
    return await new Promise((resolve) => {
      let listening = false;
      worker.once('message', (message: Listening) => {
        listening = true;
        places.set(place, worker);
        resolve(message);
      });
      worker.once('exit', (code, signal) => {
        workers.delete(worker);
        places.set(place, undefined);
        if (stopping) inOrder &&= code === 0;
        else if (listening) {
          log.error({ pid: worker.process.pid, code, signal }, 'a worker ended: it is replaced');
          void delay(pauseMs).then(() => (stopping ? undefined : fork(place)));
        }
        resolve(undefined);
      });
    });
  };

  const stopAll = async () => {
    stopping = true;
    await Promise.all(
      [...workers].map(
        (worker) =>
          new Promise<void>((resolve) => {
            worker.once('exit', () => resolve());
            if (worker.isConnected()) worker.send(stop);
          }),
      ),
    );
    return inOrder;
  };

  const started = await Promise.all(Array.from({ length: count }, (_, index) => fork(String(index))));
  const [first] = started;
  if (first !== undefined && started.every((each) => each !== undefined)) return { ...first, stop: stopAll };
  await stopAll();
  return undefined;
}
