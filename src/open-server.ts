import { setTimeout as delay } from 'node:timers/promises';
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
import { troubleOf } from './storage/failure.ts';
import { installJobs, type Jobs, jobsPending, openJobs } from './storage/jobs.ts';
import { MigrationError, migrate, type SchemaStatus, schemaStatus } from './storage/migrate.ts';
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

/** To connect is one flight or two, whatever statements take. */
const connectTimeoutMs = 5000;
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
      connectTimeoutMs: Math.min(connectTimeoutMs, config.statementTimeoutMs),
      onConnectionError,
      trace,
      ...more,
    });
  try {
    // By a connection as calls use them: a pooler may let one for migrations in, and not these.
    const first = open({ poolSize: 1 });
    const facts = await reach(first, config.databaseWaitMs, log).finally(() => first.destroy());
    const migrations = open(forMigrations);
    const database = clientOptions(connection);
    await prepareSchema(config, migrations, database, log).finally(() => migrations.destroy());
    if (facts.lossy.length > 0)
      log.warn(
        { settings: facts.lossy },
        'the database acknowledges commits before they are on disk: a crash of its machine may lose messages',
      );
    const listening = config.listenUrl === undefined ? database : { connectionString: config.listenUrl };
    const openCounters = () => openCounterPool(database);
    const hear = (onPayload: (payload: string) => void) => listen(listening, onPayload);
    const { statementTimeoutMs } = config;
    const openQueue = (onError: (error: unknown) => void) => openJobs(database, { statementTimeoutMs, onError });
    const about = `PostgreSQL ${facts.version}, ${words}`;
    return { open, openCounters, openJobs: openQueue, listen: hear, words: about, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Two connections without time-outs, as migrations need them. */
const forMigrations = { poolSize: 2, lockTimeoutMs: 0, statementTimeoutMs: 0 };

/** The schema of the server that the settings name, for those who bring it up to date as a step of its own. */
export interface OpenSchema {
  status(): Promise<SchemaStatus>;
  /** Applies what is pending; the names of what was. */
  migrate(): Promise<string[]>;
  close(): Promise<void>;
}

export async function openSchema(config: Config, log: Log): Promise<OpenSchema> {
  const { connection, close } = await findDatabase(config, log);
  const db = openDatabase({ connection, connectTimeoutMs: 5000, onConnectionError: () => {}, ...forMigrations });
  const closeAll = async () => {
    await db.destroy();
    await close();
  };
  try {
    await reach(db, config.databaseWaitMs, log);
  } catch (error) {
    await closeAll();
    throw error;
  }
  return { status: () => statusOf(db), migrate: () => bringUpToDate(db, clientOptions(connection)), close: closeAll };
}

type Connection = DatabaseOptions['connection'];
/** The same for those who have a pool of their own. */
type ClientOptions = Parameters<typeof installJobs>[0];

function clientOptions(connection: Connection): ClientOptions {
  return 'url' in connection ? { connectionString: connection.url } : connection;
}

/** The queue's tables are the library's, which brings them up to date by itself. */
const queue = 'queue';

async function statusOf(db: Db): Promise<SchemaStatus> {
  const [status, isPending] = await asAllowed(async () => [await schemaStatus(db), await jobsPending(db)] as const);
  return isPending
    ? { ...status, pending: [...status.pending, queue] }
    : { ...status, applied: [...status.applied, queue] };
}

async function bringUpToDate(db: Db, database: ClientOptions): Promise<string[]> {
  const also = async () => {
    if (!(await jobsPending(db))) return [];
    await installJobs(database);
    return [queue];
  };
  return await asAllowed(() => migrate(db, also));
}

/** insufficient_privilege */
const notAllowed = '42501';

/** What the database does not let its role do is for the one who made the role. */
async function asAllowed<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if ((error as { code?: unknown }).code !== notAllowed) throw error;
    throw new StartError(
      `${textOf(error)}: migrations need a role that may create in the database, and serve one that may use all of the schemas that they made`,
      { cause: error },
    );
  }
}

/** The server that the settings name, or the embedded one. */
async function findDatabase(
  config: Config,
  log: Log,
): Promise<{ connection: Connection; words: string; close: () => Promise<void> }> {
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

/** Brings the schema up to date, or refuses when it is not. */
async function prepareSchema(config: Config, db: Db, database: ClientOptions, log: Log): Promise<void> {
  if (config.migrate === 'check') {
    const { pending } = await statusOf(db);
    if (pending.length > 0)
      throw new MigrationError(
        `the schema is not up to date, and MIGRATE=check: ${pending.join(', ')} pending. Apply with: npm run cli -- migrate`,
      );
    return;
  }
  const applied = await bringUpToDate(db, database);
  if (applied.length > 0) log.info({ migrations: applied }, 'the schema was brought up to date');
}

/** Reaches the server, and refuses one that is too old. */
async function reach(db: Db, waitMs: number, log: Log): Promise<ServerFacts> {
  const facts = await askWhatItIs(db, waitMs, log);
  if (facts.versionNumber < oldestPostgres)
    throw new StartError(`PostgreSQL ${facts.version} is too old: 15 or later is needed`);
  return facts;
}

const firstPauseMs = 250;
const longestPauseMs = 2000;

/** What the server says of itself. One that is away may be starting, as the service is: it is waited for. What waiting does not mend (a password, a name) is said at once. */
async function askWhatItIs(db: Db, waitMs: number, log: Log): Promise<ServerFacts> {
  const since = performance.now();
  for (let pause = firstPauseMs; ; pause = Math.min(pause * 2, longestPauseMs)) {
    try {
      return await serverFacts(db);
    } catch (error) {
      const waited = performance.now() - since;
      const cause = textOf(error);
      if (!isAway(error) || waited + pause > waitMs) {
        const tried = pause > firstPauseMs ? ` (tried for ${(waited / 1000).toFixed(1)} s)` : '';
        const way = cause.includes('unsupported startup parameter')
          ? 'PgBouncer wants ignore_startup_parameters = lock_timeout,statement_timeout,idle_in_transaction_session_timeout, and those set by its connect_query'
          : 'Is DATABASE_URL right, and the server up?';
        throw new StartError(`the database cannot be reached: ${cause}${tried}. ${way}`);
      }
      if (pause === firstPauseMs) log.warn({ cause, waitMs }, 'the database cannot be reached yet: it is waited for');
      await delay(pause);
    }
  }
}

function isAway(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.every(isAway);
  // protocol_violation: a pooler that does not take what it is asked with.
  return troubleOf(error) === 'lost' && (error as { code?: unknown }).code !== '08P01';
}

/** Some errors of the socket layer have their words inside: one for each address that was tried. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(textOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}
