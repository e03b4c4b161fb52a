import type { Config } from './config.ts';
import type { Log } from './events.ts';
import { openCounterPool } from './storage/counter.ts';
import {
  type DatabaseOptions,
  type Db,
  openDatabase,
  placeOf,
  type ServerFacts,
  serverFacts,
} from './storage/database.ts';
import { EmbeddedUnavailable, startEmbedded } from './storage/embedded/index.ts';
import { installJobs, type Jobs, openJobs } from './storage/jobs.ts';
import { MigrationError, migrate } from './storage/migrate.ts';
import { type Listening, listen } from './storage/wakeup.ts';

/** The service could not be started; the message is one line for the one who starts it. */
export class StartError extends Error {}

/** Whether an error of opening says in one line what to do; the stack of anything else is needed. */
export function isForTheUser(error: unknown): error is Error {
  return [StartError, EmbeddedUnavailable, MigrationError].some((type) => error instanceof type);
}

/** The PostgreSQL of the settings, reached and with its schema up to date. */
export interface OpenServer {
  /** Opens a pool of connections; whoever opens it destroys it. */
  open(more: Partial<DatabaseOptions>): Db;
  /** Opens a connection that listens for hints. */
  listen(onPayload: (payload: string) => void): Promise<Listening>;
  /** Opens the queue of background work. */
  openJobs(onError: (error: unknown) => void): Promise<Jobs>;
  /** Connections for counters. */
  openCounters(): ReturnType<typeof openCounterPool>;
  /** Which server, and where, in words. */
  readonly words: string;
  /** Leaves it; an embedded one that nobody else uses is stopped. */
  close(): Promise<void>;
}

const oldestPostgres = 150_000;

/** Finds the server that the settings name, or starts the embedded one, and brings its schema up to date. */
export async function openServer(
  config: Config,
  log: Log,
  onConnectionError: (error: Error) => void,
  trace?: DatabaseOptions['trace'],
): Promise<OpenServer> {
  const { connection, words, close } = await findDatabase(config, log);
  const open = (more: Partial<DatabaseOptions>) =>
    openDatabase({
      connection,
      poolSize: config.poolSize,
      lockTimeoutMs: config.lockTimeoutMs,
      statementTimeoutMs: config.statementTimeoutMs,
      connectTimeoutMs: 5000,
      onConnectionError,
      trace,
      ...more,
    });
  try {
    const migrations = open({ poolSize: 2, lockTimeoutMs: 0, statementTimeoutMs: 0 });
    const { version } = await prepareDatabase(migrations, log).finally(() => migrations.destroy());
    const database = 'url' in connection ? { connectionString: connection.url } : connection;
    await installJobs(database);
    const listening = config.listenUrl === undefined ? database : { connectionString: config.listenUrl };
    const openCounters = () => openCounterPool(database);
    const hear = (onPayload: (payload: string) => void) => listen(listening, onPayload);
    const queue = (onError: (error: unknown) => void) => openJobs(database, onError);
    return { open, openCounters, openJobs: queue, listen: hear, words: `PostgreSQL ${version}, ${words}`, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The server that the settings name, or the embedded one. */
async function findDatabase(
  config: Config,
  log: Log,
): Promise<{ connection: DatabaseOptions['connection']; words: string; close: () => Promise<void> }> {
  if ('url' in config.database) {
    const { url } = config.database;
    return { connection: { url }, words: `at ${placeOf(url)} (DATABASE_URL)`, close: async () => {} };
  }
  const embedded = await startEmbedded({ ...config.database, log });
  const { host, port, user, database } = embedded;
  return {
    connection: { host, port, user, database },
    words: `embedded, in ${embedded.dataDir}${embedded.adopted ? ' (was still running)' : ''}`,
    close: () => embedded.stop(),
  };
}

/** Reaches the server, refuses one that is too old, says when it may lose commits, and brings the schema up to date. */
async function prepareDatabase(db: Db, log: Log): Promise<ServerFacts> {
  let facts: ServerFacts;
  try {
    facts = await serverFacts(db);
  } catch (error) {
    throw new StartError(`the database cannot be reached: ${textOf(error)}. Is DATABASE_URL right, and the server up?`);
  }
  if (facts.versionNumber < oldestPostgres)
    throw new StartError(`PostgreSQL ${facts.version} is too old: 15 or later is needed`);
  if (facts.lossy.length > 0)
    log.warn(
      { settings: facts.lossy },
      'the database acknowledges commits before they are on disk: a crash of its machine may lose messages',
    );
  const applied = await migrate(db);
  if (applied.length > 0) log.info({ migrations: applied }, 'the schema was brought up to date');
  return facts;
}

/** Some errors of the socket layer have their words inside: one for each address that was tried. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(textOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}
