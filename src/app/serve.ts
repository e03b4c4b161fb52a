import { type Config, ConfigError, loadConfig } from '../config/index.ts';
import { createLog, type Log } from '../observability/log.ts';
import { ListenError, tryPort } from '../server/port.ts';
import { hearsReload } from './reload.ts';
import type { App } from './start.ts';
import { version } from './version.ts';
import { metricsOfAll } from './worker-metrics.ts';
import { hearReload, hearStop, isWorker, joinWorkers, type Listening, leaveWorkers, startWorkers } from './workers.ts';

/**
 * What a worker may take to stop beyond its drain and its grace: a start is finished first, the
 * embedded PostgreSQL writes a checkpoint.
 */
const stopSlackMs = 60_000;
/** What may still be under way after the stop, such as the last lines of the log, has so long. */
const lingerMs = 500;

/**
 * Serves until a signal stops it; settings come from the environment. `fail` is told in one line
 * why it cannot.
 */
export async function serve(fail: (message: string) => void): Promise<void> {
  try {
    const config = loadConfig();
    const log = createLog({ level: config.logLevel, format: config.logFormat });
    if (!isWorker) {
      for (const warning of config.warnings) log('settingSuspicious', { warning });
      await tryPort(config);
    }
    if (config.workers > 1 && !isWorker) await serveInWorkers(config, log);
    else await serveHere(config, log);
  } catch (thrown) {
    fail(await inOneLine(thrown));
    if (isWorker) leaveWorkers();
  }
}

async function serveHere(config: Config, log: Log): Promise<void> {
  let listens = false;
  let app: App | undefined;
  if (hearsReload(config)) {
    process.on('SIGHUP', () => app?.reload());
    if (isWorker) hearReload(() => app?.reload());
  }
  // The embedded PostgreSQL would outlive a start that is broken off: it is finished first. One
  // that waits for another's database ends where it is.
  const mayBreakOff = 'url' in config.database;
  const stop = stopOnce(log, async () => {
    if (listens || !mayBreakOff) await (await orNever(starting)).stop();
  });
  // Loaded once the settings are valid: a refused start takes 0.13 s of CPU instead of 0.75 s, and
  // the process that forks workers never loads the service.
  const starting = import('./start.ts').then(({ start }) => start(config, log, isWorker ? metricsOfAll : undefined));
  if (isWorker) hearStop(stop);
  if (isWorker || !mayBreakOff) stopOnSignals(stop, log);
  app = await starting;
  listens = true;
  if (!isWorker && mayBreakOff) stopOnSignals(stop, log);
  if (isWorker) joinWorkers(app);
  else greet(config, log, app);
}

/** Each worker logs for itself; this process only forks, greets and passes the signals on. */
async function serveInWorkers(config: Config, log: Log): Promise<void> {
  // Workers whose parent ends exit at once, and leave the embedded PostgreSQL behind: such a start
  // is finished first.
  const mayBreakOff = 'url' in config.database;
  const starting = startWorkers(config.workers, log);
  if (hearsReload(config)) process.on('SIGHUP', () => void starting.then((workers) => workers?.reload()));
  const stop = stopOnce(log, async () => {
    const started = await starting;
    if (started === undefined) return;
    if (!(await started.stop(config.drainDelayMs + 2 * config.shutdownGraceMs + stopSlackMs)))
      throw new Error('a worker did not stop in order');
  });
  if (!mayBreakOff) stopOnSignals(stop, log);
  const workers = await starting;
  if (workers === undefined) {
    process.exitCode = 1;
    return;
  }
  void workers.gone.then(() => process.exit(1));
  if (mayBreakOff) stopOnSignals(stop, log);
  greet(config, log, workers);
}

function greet(config: Config, log: Log, listening: Listening): void {
  log('listening', { url: listening.url, database: listening.database, version, workers: config.workers });
  if (process.stdout.isTTY || config.logFormat !== 'json') console.log(greeting(listening));
}

/** A start that fails is told by the one who waits for it, and ends the process. */
async function orNever<T>(starting: Promise<T>): Promise<T> {
  return await starting.catch(() => new Promise<never>(() => {}));
}

/**
 * What to do about an error that ends the start, in one line. Throws any other error: its stack is
 * needed.
 */
async function inOneLine(thrown: unknown): Promise<string> {
  if (thrown instanceof ConfigError || thrown instanceof ListenError) return thrown.message;
  const opening = await import('./database.ts');
  const error = opening.inOneLine(thrown);
  if (!opening.isForTheUser(error)) throw error;
  return error.message;
}

/** Stops, once, however often it is called; returns false from the second time on. */
function stopOnce(log: Log, work: () => Promise<void>): () => boolean {
  let stopping = false;
  return () => {
    if (stopping) return false;
    stopping = true;
    work().then(
      () => {
        log('stopped');
        process.exitCode = 0;
        leaveWorkers();
        // Nothing of ours is left; a library that still tries to reach a collector of traces does
        // not hold the process.
        setTimeout(() => process.exit(0), lingerMs).unref();
      },
      (error) => {
        log('stopFailed', { err: error });
        process.exit(1);
      },
    );
    return true;
  };
}

/**
 * Ctrl-C comes twice at once: from the terminal, and from npm, which passes on what it got from the
 * terminal too.
 */
const echoMs = 500;

/**
 * The first signal drains and stops; the second one ends at once. In a worker a signal comes from
 * the terminal, to all at once: the word of the process that forked it may have come sooner.
 */
function stopOnSignals(stop: () => boolean, log: Log): void {
  let first = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    if (first !== 0 && performance.now() - first < echoMs) return;
    const isFirst = first === 0;
    first ||= performance.now();
    if (stop()) log('stopping', { signal });
    else if (!isFirst) {
      log('stopForced', { signal });
      process.exit(1);
    }
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
}

function greeting({ url, database }: Listening): string {
  return `
  sendbatch ${version} listens on ${url} (gRPC, gRPC-Web, Connect, JSON)
  messages are kept in ${database}

  Send a first message:

    curl -X POST ${url}/message/sendbatch -H 'Content-Type: application/json' \\
      -d '[{"from_uid":"system","channel_id":"group123","channel_type":2,"payload":"SGVsbG8="}]'

  Ctrl-C stops it.
`;
}
