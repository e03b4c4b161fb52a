import cluster, { type Worker } from 'node:cluster';
import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../observability/log.ts';
import type { App } from './start.ts';
import { answerForMetrics, serveMetrics } from './worker-metrics.ts';

/** What a worker tells the one who forked it once it listens. */
export type Listening = Pick<App, 'url' | 'database'>;

/**
 * Between a worker and the one who forked it: `here` says that the worker hears `stop` from now on,
 * which may have come too early for it.
 */
const stop = 'stop';
const here = 'here';
/** Sent for a SIGHUP, which only the parent gets. */
const reload = 'reload';
/**
 * A worker that ends by itself is replaced, not sooner than this; each failed attempt doubles it.
 */
const pauseMs = 1000;
const longestPauseMs = 30_000;

/** Whether this process is one of several that share the port. */
export const isWorker: boolean = cluster.isWorker;

/**
 * In a worker, before anything else: stops when it is told to, or when nobody is left to tell it.
 */
export function hearStop(onStop: () => void): void {
  process.on('message', (word) => {
    if (word === stop) onStop();
  });
  process.on('disconnect', onStop);
  leaving = () => process.off('disconnect', onStop);
  if (process.connected) process.send?.(here);
  else onStop();
}

/** In a worker: reads its files again when the parent says so. */
export function hearReload(onReload: () => void): void {
  process.on('message', (word) => {
    if (word === reload) onReload();
  });
}

let leaving: () => void = () => {};

/** In a worker: says that it listens. */
export function joinWorkers({ url, database, metrics }: App): void {
  answerForMetrics(metrics);
  if (process.connected) process.send?.({ url, database } satisfies Listening);
}

/** In a worker that has stopped, or could not start: lets the process end. */
export function leaveWorkers(): void {
  leaving();
  if (process.connected) process.disconnect();
}

/** Several processes that share the port. */
export interface Workers extends Listening {
  /**
   * Stops them all; resolves to whether all of them stopped in order. One that has not stopped
   * within this time is killed.
   */
  stop(withinMs: number): Promise<boolean>;
  /** Makes each worker read its certificates and secrets again. */
  reload(): void;
  /** Resolves when no worker is left and none could be started. */
  readonly gone: Promise<void>;
}

/**
 * Forks workers, each of which is a whole service of its own: they meet in the database only, as
 * instances on several machines do. Resolves once all listen; undefined when one could not start,
 * which has said why. One that ends later is replaced, however many attempts that takes while
 * another one listens.
 */
export async function startWorkers(count: number, log: Log): Promise<Workers | undefined> {
  const workers = new Set<Worker>();
  /**
   * Those that listen, by place: who replaces a worker takes its place, and goes on with its
   * series.
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
 * What a worker may take to stop when another one could not start: its own start is finished first.
 */
const startStopMs = 60_000;

function isListening(word: unknown): word is Listening {
  return typeof word === 'object' && word !== null && 'url' in word && 'database' in word;
}
