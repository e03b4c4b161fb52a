import cluster, { type Worker } from 'node:cluster';
import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../observability/log.ts';
import type { App } from './start.ts';
import { answerForMetrics, serveMetrics } from './worker-metrics.ts';

/** A worker's message to its parent once it listens. */
export type Listening = Pick<App, 'url' | 'database'>;

/**
 * Messages between a worker and its parent. `here`: the worker receives `stop` from now on; an
 * earlier one is repeated.
 */
const stop = 'stop';
const here = 'here';
/** Forwards SIGHUP, which only the parent receives. */
const reload = 'reload';
/** Pause before a worker that ended is replaced; doubles with each failed attempt. */
const pauseMs = 1000;
const longestPauseMs = 30_000;

/** Whether this process is a worker. */
export const isWorker: boolean = cluster.isWorker;

/** In a worker, first of all: stops when the parent says so or is gone. */
export function hearStop(onStop: () => void): void {
  process.on('message', (word) => {
    if (word === stop) onStop();
  });
  process.on('disconnect', onStop);
  leaving = () => process.off('disconnect', onStop);
  if (process.connected) process.send?.(here);
  else onStop();
}

/** In a worker: reloads files when the parent says so. */
export function hearReload(onReload: () => void): void {
  process.on('message', (word) => {
    if (word === reload) onReload();
  });
}

let leaving: () => void = () => {};

/** In a worker: reports that it listens. */
export function joinWorkers({ url, database, metrics }: App): void {
  answerForMetrics(metrics);
  if (process.connected) process.send?.({ url, database } satisfies Listening);
}

/** In a worker that stopped or could not start: disconnects, so that the process ends. */
export function leaveWorkers(): void {
  leaving();
  if (process.connected) process.disconnect();
}

/** Worker processes that share the port. */
export interface Workers extends Listening {
  /** Stops all workers; resolves to whether all stopped in order. Kills one that takes longer. */
  stop(withinMs: number): Promise<boolean>;
  /** Makes each worker reload certificates and secrets. */
  reload(): void;
  /** Resolves when no worker is left and none can be started. */
  readonly gone: Promise<void>;
}

/**
 * Forks workers. Each is a complete service; like instances on several machines they share the
 * database only. Resolves once all listen; undefined when one could not start, which has reported
 * why. A worker that ends later is replaced, with any number of attempts while another one listens.
 */
export async function startWorkers(count: number, log: Log): Promise<Workers | undefined> {
  const workers = new Set<Worker>();
  /**
   * Listening workers by index: a replacement keeps the index, and so continues the metric series.
   */
  const places = new Map<string, Worker | undefined>();
  let stopping = false;
  let inOrder = true;
  const gone = Promise.withResolvers<void>();

  const fork = async (place: string): Promise<Listening | undefined> => {
    const worker = cluster.fork();
    workers.add(worker);
    places.set(place, undefined);
    serveMetrics(worker, () => places);
    return await new Promise((resolve) => {
      worker.on('message', (word: unknown) => {
        if (word === here) {
          if (stopping) worker.send(stop);
        } else if (isListening(word)) {
          places.set(place, worker);
          resolve(word);
        }
      });
      worker.once('exit', (code, signal) => {
        workers.delete(worker);
        const listened = places.get(place) === worker;
        places.set(place, undefined);
        if (stopping) inOrder &&= code === 0;
        else if (listened) {
          log('workerExited', { pid: worker.process.pid, exitCode: code, signal });
          void replace(place);
        }
        resolve(undefined);
      });
    });
  };

  const replace = async (place: string): Promise<void> => {
    for (let pause = pauseMs; ; pause = Math.min(pause * 2, longestPauseMs)) {
      await delay(pause);
      if (stopping || (await fork(place)) !== undefined || stopping) return;
      if (workers.size === 0) {
        log('noWorkerLeft', { worker: place });
        gone.resolve();
        return;
      }
      log('workerNotReplaced', { worker: place, retryInMs: Math.min(pause * 2, longestPauseMs) });
    }
  };

  const stopAll = async (withinMs: number) => {
    stopping = true;
    const kill = setTimeout(() => {
      for (const { process: worker } of workers) {
        log('workerKilled', { pid: worker.pid });
        worker.kill('SIGKILL');
      }
    }, withinMs);
    await Promise.all(
      [...workers].map(
        (worker) =>
          new Promise<void>((resolve) => {
            worker.once('exit', () => resolve());
            if (worker.isConnected()) worker.send(stop);
          }),
      ),
    );
    clearTimeout(kill);
    return inOrder;
  };

  const reloadAll = () => {
    for (const worker of workers) if (worker.isConnected()) worker.send(reload);
  };

  const started = await Promise.all(Array.from({ length: count }, (_, index) => fork(String(index))));
  const [first] = started;
  if (first !== undefined && started.every((each) => each !== undefined))
    return { ...first, stop: stopAll, reload: reloadAll, gone: gone.promise };
  await stopAll(startStopMs);
  return undefined;
}

/**
 * Time that a worker may need to stop when another one could not start: it completes its own start
 * first.
 */
const startStopMs = 60_000;

function isListening(word: unknown): word is Listening {
  return typeof word === 'object' && word !== null && 'url' in word && 'database' in word;
}
