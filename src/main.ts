#!/usr/bin/env node
import { ConnectError } from '@connectrpc/connect';
import { start } from './app.ts';
import { runKeyCommand } from './cli/keys.ts';
import { runSendCommand } from './cli/send.ts';
import { runTailCommand } from './cli/tail.ts';
import { UsageError } from './cli/usage.ts';
import { type Config, ConfigError, callerDefaults, describeSettings, loadConfig } from './config.ts';
import { ListenError } from './edge/listen.ts';
import { createLog, type Log } from './events.ts';
import { StartError } from './open-server.ts';
import { EmbeddedUnavailable } from './storage/embedded/index.ts';
import { MigrationError } from './storage/migrate.ts';
import { version } from './version.ts';
import { metricsOfAll } from './worker-metrics.ts';
import { isWorker, joinWorkers, type Listening, leaveWorkers, startWorkers } from './workers.ts';

const usage = `sendbatch ${version}: a batch message service

  npm start              serve (settings come from the environment)
  npm run cli -- key create --name <name> [--scopes send,read,admin,metrics] [--senders uid,uid] [--rate n] [--expires 90d]
                         makes an API key and shows it once
  npm run cli -- key list | key revoke <id>
  npm run cli -- send <file.ndjson> [--url <url>] [--token <credential>] [--concurrency 4] [--json]
                         sends a message a line; a run that was stopped goes on
  npm run cli -- tail <channel_type> <channel_id> [--after <seq>] [--from-now] [--count <n>] [--json]
                         follows a channel
  npm run cli -- config  every setting: name, default, meaning
  npm run cli -- version the version
`;

/** What may still be under way after the stop, such as the last lines of the log, has so long. */
const lingerMs = 500;

const [command = 'serve', ...rest] = process.argv.slice(2);
if (command === 'key') await manageKeys(rest);
else if (command === 'send') await call(runSendCommand, rest);
else if (command === 'tail') await call(runTailCommand, rest);
else if (rest.length > 0) fail(`unexpected argument ${rest[0]}\n\n${usage}`);
else if (command === 'serve') await serve();
else if (command === 'config') printSettings();
else if (command === 'version') console.log(version);
else if (command === 'help' || command === '--help') console.log(usage);
else fail(`unknown command ${command}\n\n${usage}`);

async function serve(): Promise<void> {
  try {
    const config = loadConfig();
    const log = createLog({ level: config.logLevel, format: config.logFormat });
    if (config.workers > 1 && !isWorker) await serveInWorkers(config, log);
    else await serveHere(config, log);
  } catch (error) {
    if (!isForTheUser(error)) throw error;
    fail(error.message);
    if (isWorker) leaveWorkers();
  }
}

/** Only warnings of the log: what a command says goes to stdout, for pipes. */
async function manageKeys(args: readonly string[]): Promise<void> {
  try {
    const config = loadConfig();
    await runKeyCommand(args, config, createLog({ level: 'silent', format: 'json' }));
  } catch (error) {
    if (!isForTheUser(error)) throw error;
    fail(error.message);
  }
}

/** Commands that are a service's callers: where it is comes from the environment or the command line. */
async function call(
  run: (args: readonly string[], defaults: { url: string; token: string }) => Promise<number>,
  args: readonly string[],
): Promise<void> {
  try {
    process.exitCode = await run(args, callerDefaults());
  } catch (error) {
    if (error instanceof ConnectError) fail(`the service says: ${error.message}`);
    else if (isForTheUser(error)) fail(error.message);
    else throw error;
  }
}

async function serveHere(config: Config, log: Log): Promise<void> {
  const app = await start(config, log, isWorker ? metricsOfAll : undefined);
  const stop = stopOnce(log, () => app.stop());
  stopOnSignals(stop, log);
  if (isWorker) joinWorkers(app, stop);
  else greet(config, log, app);
}

/** Each worker logs for itself; this process only forks, greets and passes the signals on. */
async function serveInWorkers(config: Config, log: Log): Promise<void> {
  const workers = await startWorkers(config.workers, log);
  if (workers === undefined) {
    process.exitCode = 1;
    return;
  }
  const stop = stopOnce(log, async () => {
    if (!(await workers.stop())) throw new Error('a worker did not stop in order');
  });
  stopOnSignals(stop, log);
  greet(config, log, workers);
}

function greet(config: Config, log: Log, listening: Listening): void {
  log.info({ url: listening.url, database: listening.database, version, workers: config.workers }, 'listening');
  if (process.stdout.isTTY || config.logFormat !== 'json') console.log(greeting(listening));
}

/** These say in one line what to do; the stack of anything else is needed. */
function isForTheUser(error: unknown): error is Error {
  return [UsageError, ConfigError, StartError, ListenError, EmbeddedUnavailable, MigrationError].some(
    (type) => error instanceof type,
  );
}

/** Stops, once, however often it is called; returns false from the second time on. */
function stopOnce(log: Log, work: () => Promise<void>): () => boolean {
  let stopping = false;
  return () => {
    if (stopping) return false;
    stopping = true;
    work().then(
      () => {
        log.info('stopped');
        process.exitCode = 0;
        leaveWorkers();
        // Nothing of ours is left; a library that still tries to reach a collector of traces does not hold the process.
        setTimeout(() => process.exit(), lingerMs).unref();
      },
      (error) => {
        log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
    return true;
  };
}

/** The first signal drains and stops; the second one ends at once. In a worker a signal comes from the terminal, to all at once. */
function stopOnSignals(stop: () => boolean, log: Log): void {
  const onSignal = (signal: NodeJS.Signals) => {
    if (stop()) log.info({ signal }, 'stopping: calls in flight are finished');
    else {
      log.warn({ signal }, 'second signal: ending at once');
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

function printSettings(): void {
  for (const setting of describeSettings())
    console.log(`${setting.name} (default ${setting.default === '' ? 'unset' : setting.default})\n    ${setting.doc}`);
}

function fail(message: string): void {
  console.error(`sendbatch: ${message}`);
  process.exitCode = 1;
}
