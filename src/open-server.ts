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
import { startEmbedded } from './storage/embedded/index.ts';
import { troubleOf } from './storage/failure.ts';
import { migrate } from './storage/migrate.ts';
import { type Listening, listen } from './storage/wakeup.ts';

/** The service could not be started; the message is one line for the one who starts it. */
export class StartError extends Error {}

/** The PostgreSQL of the settings, reached and with its schema up to date. */
export interface OpenServer {
  /** Opens a pool of connections; whoever opens it destroys it. */
  open(more: Partial<DatabaseOptions>): Db;
  /** Opens a connection that listens for hints. */
  listen(onPayload: (payload: string) => void): Promise<Listening>;
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
      ...more,
    });
  try {
    const migrations = open({ poolSize: 2, lockTimeoutMs: 0, statementTimeoutMs: 0 });
    const { version } = await prepareDatabase(migrations, config.databaseWaitMs, log).finally(() =>
      migrations.destroy(),
    );
    const database = 'url' in connection ? { connectionString: connection.url } : connection;
    const listening = config.listenUrl === undefined ? database : { connectionString: config.listenUrl };
    const openCounters = () => openCounterPool(database);
    const hear = (onPayload: (payload: string) => void) => listen(listening, onPayload);
    return { open, openCounters, listen: hear, words: `PostgreSQL ${version}, ${words}`, close };
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
async function prepareDatabase(db: Db, waitMs: number, log: Log): Promise<ServerFacts> {
  const facts = await reach(db, waitMs, log);
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

const firstPauseMs = 250;
const longestPauseMs = 2000;

/** What the server says of itself. One that is away may be starting, as the service is: it is waited for. What waiting does not mend (a password, a name) is said at once. */
async function reach(db: Db, waitMs: number, log: Log): Promise<ServerFacts> {
  const since = performance.now();
  for (let pause = firstPauseMs; ; pause = Math.min(pause * 2, longestPauseMs)) {
    try {
      return await serverFacts(db);
    } catch (error) {
      const waited = performance.now() - since;
      const cause = textOf(error);
      if (!isAway(error) || waited + pause > waitMs) {
        const tried = pause > firstPauseMs ? ` (tried for ${Math.round(waited / 1000)} s)` : '';
        throw new StartError(
          `the database cannot be reached: ${cause}${tried}. Is DATABASE_URL right, and the server up?`,
        );
      }
      if (pause === firstPauseMs) log.warn({ cause, waitMs }, 'the database cannot be reached yet: it is waited for');
      await delay(pause);
    }
  }
}

function isAway(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.every(isAway);
  return troubleOf(error) === 'lost';
}

/** Some errors of the socket layer have their words inside: one for each address that was tried. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(textOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}
