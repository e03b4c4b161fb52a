import { type Config, ConfigError, loadConfig } from '../config/index.ts';
import { createLog, type Log } from '../observability/log.ts';
import { ListenError, tryPort } from '../server/port.ts';
import { hearsReload } from './reload.ts';
import type { App } from './start.ts';
import { version } from './version.ts';
import { metricsOfAll } from './worker-metrics.ts';
import { hearReload, hearStop, isWorker, joinWorkers, type Listening, leaveWorkers, startWorkers } from './workers.ts';

/**
 * Time that a worker may need to stop beyond drain and grace period: it completes its start first,
 * and the embedded PostgreSQL writes a checkpoint.
 */
const stopSlackMs = 60_000;
/** Time for the last log lines after the stop. */
const lingerMs = 500;

/**
 * Serves until a signal stops it, with settings from the environment. `fail` receives in one line
 * why it cannot.
 */
export async function serve(fail: (message: string) => void): Promise<void> {
  try {
    const config = loadConfig();
    const log = createLog({ level: config.logLevel, format: config.logFormat });
    // Node's own message is no line of the log, and may go to another place.
    process.on('uncaughtExceptionMonitor', (err) => log('crashed', { err }));
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
  // Completes the start first: the embedded PostgreSQL would outlive an interrupted one. A start
  // that waits for an external database may be interrupted.
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

/** Each worker writes its own log; this process forks, prints the greeting and forwards signals. */
async function serveInWorkers(config: Config, log: Log): Promise<void> {
  // Completes the start first: workers whose parent ends exit at once and would leave the embedded
  // PostgreSQL running.
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

/** Waits for a start; a failed one is reported elsewhere and ends the process. */
async function orNever<T>(starting: Promise<T>): Promise<T> {
  return await starting.catch(() => new Promise<never>(() => {}));
}

/** The one-line message of a startup error. Rethrows others, whose stack is needed. */
async function inOneLine(thrown: unknown): Promise<string> {
  if (thrown instanceof ConfigError || thrown instanceof ListenError) return thrown.message;
  const opening = await import('./start-error.ts');
  const error = opening.inOneLine(thrown);
  if (!opening.isForTheUser(error)) throw error;
  return error.message;
}

/** Returns a function that stops once; it returns false from the second call on. */
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
        // Nothing else runs; a trace exporter that still tries to reach its collector must not hold
        // the process.
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

/** Ctrl-C arrives twice: from the terminal, and forwarded by npm. */
const echoMs = 500;

/**
 * The first signal drains and stops; the second exits at once. The terminal signals workers too,
 * whose parent's `stop` may have arrived first.
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
