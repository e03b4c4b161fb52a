import { type App, StartError, start } from './app.ts';
import { ConfigError, describeSettings, loadConfig } from './config.ts';
import { ListenError } from './edge/listen.ts';
import { createLog, type Log } from './events.ts';
import { EmbeddedUnavailable } from './storage/embedded/index.ts';
import { MigrationError } from './storage/migrate.ts';
import { version } from './version.ts';

const usage = `sendbatch ${version}: a batch message service

  npm start              serve (settings come from the environment)
  npm start -- config    every setting: name, default, meaning
  npm start -- version   the version
`;

const [command = 'serve', ...rest] = process.argv.slice(2);
if (rest.length > 0) fail(`unexpected argument ${rest[0]}\n\n${usage}`);
else if (command === 'serve') await serve();
else if (command === 'config') printSettings();
else if (command === 'version') console.log(version);
else if (command === 'help' || command === '--help') console.log(usage);
else fail(`unknown command ${command}\n\n${usage}`);

async function serve(): Promise<void> {
  let log: Log | undefined;
  try {
    const config = loadConfig();
    log = createLog({ level: config.logLevel, format: config.logFormat });
    const app = await start(config, log);
    stopOnSignals(app, log);
    log.info({ url: app.url, database: app.database, version }, 'listening');
    if (process.stdout.isTTY || config.logFormat !== 'json') console.log(greeting(app));
  } catch (error) {
    if (!isForTheUser(error)) throw error;
    fail(error.message);
  }
}

/** These say in one line what to do; the stack of anything else is needed. */
function isForTheUser(error: unknown): error is Error {
  return [ConfigError, StartError, ListenError, EmbeddedUnavailable, MigrationError].some(
    (type) => error instanceof type,
  );
}

/** The first signal drains and stops; the second one ends at once. */
function stopOnSignals(app: App, log: Log): void {
  let stopping = false;
  const onSignal = (signal: NodeJS.Signals) => {
    if (stopping) {
      log.warn({ signal }, 'second signal: ending at once');
      process.exit(1);
    }
    stopping = true;
    log.info({ signal }, 'stopping: calls in flight are finished');
    app.stop().then(
      () => {
        log.info('stopped');
        process.exitCode = 0;
      },
      (error) => {
        log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
}

function greeting({ url, database }: App): string {
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
