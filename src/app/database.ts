import { setTimeout as delay } from 'node:timers/promises';
import { installJobs, type Jobs, needsJobsInstall, openJobs } from '../batches/job-queue.sql.ts';
import type { Config } from '../config/index.ts';
import type { Log } from '../observability/log.ts';
import { type CitusCluster, citusCluster, describeCitus, urlOnNode } from '../postgres/citus.ts';
import { EmbeddedUnavailable, startEmbedded } from '../postgres/embedded/index.ts';
import { migrate, type SchemaStatus, schemaStatus } from '../postgres/migrate.ts';
import { MigrationError } from '../postgres/migration-error.ts';
import { classifyPgError } from '../postgres/pg-errors.ts';
import { type Listening, listen } from '../postgres/pg-notify.ts';
import {
  type DatabaseOptions,
  openDatabase,
  placeOf,
  renewConnections,
  type ServerFacts,
  serverFacts,
} from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';
import { listShards } from '../postgres/shard-list.ts';
import { areShardsReady, prepareShards } from '../postgres/shard-schemas.ts';
import { cancelSplit, type SplitOptions, splitApplication, splitShards } from '../postgres/shard-split.ts';
import { routeShards, ShardLayout } from '../postgres/shards.ts';
import { openCounterPool } from '../rate-limits/postgres-counter.sql.ts';

/** The service cannot start; the message is one line for the operator. */
export class StartError extends Error {}

/** Whether an error's message tells the operator what to do. Other errors need their stack. */
export function isForTheUser(error: unknown): error is Error {
  return [StartError, EmbeddedUnavailable, MigrationError].some((type) => error instanceof type);
}

/** The PostgreSQL of the settings, reachable and with its schema up to date. */
export interface OpenServer {
  /**
   * Opens a pool, which the caller destroys. When DATABASE_URL names a worker of Citus, the pool is
   * on the coordinator, and one with the same options on the worker takes statements on one shard.
   */
  open(more: Partial<DatabaseOptions> & WorkerPool): Db;
  /** Opens a connection that listens for notifications. */
  listen(onPayload: (payload: string) => void): Promise<Listening>;
  /** Opens the queue of background jobs. */
  openJobs(onError: (error: unknown) => void): Promise<Jobs>;
  /** Opens the connections of shared counters. */
  openCounters(): ReturnType<typeof openCounterPool>;
  /** How the tables of channels are divided. */
  readonly shards: ShardLayout;
  /** Version and place of the server, for display. */
  readonly words: string;
  /** Disconnects; stops the embedded server unless another service uses it. */
  close(): Promise<void>;
}

interface WorkerPool {
  /** Receives a function that counts the connections to the worker. */
  readonly onWorkerPool?: DatabaseOptions['onPool'];
}

/** Connecting takes one or two round trips, however long statements may run. */
const connectTimeoutMs = 5000;
const oldestPostgres = 150_000;

/** Connects to the server of the settings, or starts the embedded one, and updates its schema. */
export async function openServer(
  config: Config,
  log: Log,
  onConnectionError: (error: Error) => void,
  trace?: DatabaseOptions['trace'],
): Promise<OpenServer> {
  if (config.listenUrl !== undefined) placeIn('LISTEN_DATABASE_URL', config.listenUrl);
  const { connection: named, words, close: closeServer } = await findDatabase(config, log);
  const openOn = (connection: Connection, more: Partial<DatabaseOptions>) =>
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
  const workerPools: Db[] = [];
  const close = async () => {
    await Promise.all(workerPools.map((pool) => pool.destroy()));
    await closeServer();
  };
  try {
    const patience = createPatience(config.databaseWaitMs, log);
    // With the options of calls: a pooler may accept those of migrations and refuse these.
    const { connection, facts, cluster } = await findTables(config, named, {
      open: (place) => openOn(place, { poolSize: 1 }),
      patience,
    });
    const shards = new ShardLayout(config.shards);
    const open: OpenServer['open'] = ({ onWorkerPool, ...more }) => {
      const pool = openOn(connection, more);
      if (connection === named || shards.count === 1) return pool;
      const { onPool: _, ...same } = more;
      const workerPool = openOn(named, { ...same, ...(onWorkerPool === undefined ? {} : { onPool: onWorkerPool }) });
      workerPools.push(workerPool);
      routeShards(pool, workerPool);
      return pool;
    };
    const migrations = openOn(connection, forMigrations);
    const database = clientOptions(connection);
    await patience.through(() => prepareSchema(config, migrations, database, log)).finally(() => migrations.destroy());
    if (facts.lossy.length > 0) log('databaseNotDurable', { settings: facts.lossy });
    const listening = config.listenUrl === undefined ? database : { connectionString: config.listenUrl };
    const openCounters = () => openCounterPool(database);
    const hear = (onPayload: (payload: string) => void) => listen(listening, onPayload);
    const { statementTimeoutMs } = config;
    const openQueue = (onError: (error: unknown) => void) => openJobs(database, { statementTimeoutMs, onError });
    const citus = cluster === undefined ? '' : `${describeCitus(cluster)}, `;
    const worker = connection === named ? '' : `, a worker of the coordinator at ${placeOfConnection(connection)}`;
    const about = `PostgreSQL ${facts.version}, ${citus}${words}${worker}`;
    return { open, openCounters, openJobs: openQueue, listen: hear, shards, words: about, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Two connections without timeouts, as migrations need them. */
const forMigrations = { poolSize: 2, lockTimeoutMs: 0, statementTimeoutMs: 0 };

/** The schema of the server of the settings, for `sendbatch migrate`. */
export interface OpenSchema {
  status(): Promise<SchemaStatus>;
  /** The cluster of a database on Citus. */
  readonly citus: CitusCluster | undefined;
  /** Applies pending migrations; returns their names. */
  migrate(): Promise<string[]>;
  close(): Promise<void>;
}

export async function openSchema(config: Config, log: Log): Promise<OpenSchema> {
  const { db, connection, cluster, close } = await openForMigrations(config, log);
  return {
    citus: cluster,
    status: () => statusOf(db, config).catch(rethrow),
    migrate: () => bringUpToDate(db, clientOptions(connection), config).catch(rethrow),
    close,
  };
}

/** The shards of the server of the settings, for `sendbatch shards`. */
export interface OpenShards {
  list(): ReturnType<typeof listShards>;
  /** Divides the database of a stopped service into more shards, or continues. */
  split(options: SplitOptions): Promise<void>;
  /** Ends a split that has removed nothing yet. */
  cancelSplit(): Promise<void>;
  close(): Promise<void>;
}

export async function openShards(config: Config, log: Log): Promise<OpenShards> {
  const { db, close } = await openForMigrations(config, log, splitApplication);
  const whenMigrated = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      const { pending } = await schemaStatus(db);
      if (pending.length > 0)
        throw new MigrationError(`the schema is not up to date (pending: ${pending.join(', ')}): run migrate first`);
      return await work();
    } catch (error) {
      return rethrow(error);
    }
  };
  return {
    list: () => whenMigrated(() => listShards(db)),
    split: (options) => whenMigrated(() => splitShards(db, options).catch(rethrowFull)),
    cancelSplit: () => whenMigrated(() => cancelSplit(db)),
    close,
  };
}

const diskFull = '53100';

function rethrowFull(error: unknown): never {
  if (codeOf(error) !== diskFull) throw error;
  throw new StartError(
    `no room on the disk of the database (${textOf(error)}): make room, then call shards split again, which continues; --cancel removes the copies`,
    { cause: error },
  );
}

async function openForMigrations(
  config: Config,
  log: Log,
  applicationName?: string,
): Promise<Omit<Tables, 'facts'> & { readonly db: Db; close(): Promise<void> }> {
  const { connection: named, close: closeServer } = await findDatabase(config, log);
  const open = (connection: Connection) =>
    openDatabase({
      connection,
      connectTimeoutMs: 5000,
      onConnectionError: () => {},
      ...forMigrations,
      ...(applicationName === undefined ? {} : { applicationName }),
    });
  try {
    const patience = createPatience(config.databaseWaitMs, log);
    const { connection, cluster } = await findTables(config, named, { open, patience });
    const db = open(connection);
    const close = async () => {
      await db.destroy();
      await closeServer();
    };
    return { db, connection, cluster, close };
  } catch (error) {
    await closeServer();
    throw error;
  }
}

function rethrow(error: unknown): never {
  throw inOneLine(error);
}

type Connection = DatabaseOptions['connection'];
/** Connection options for libraries with a pool of their own. */
type ClientOptions = Parameters<typeof installJobs>[0];

function clientOptions(connection: Connection): ClientOptions {
  return 'url' in connection ? { connectionString: connection.url } : connection;
}

/** Tables of the queue belong to pg-boss, which updates them itself. */
const queue = 'queue';
/** The number of shards is recorded, and their schemas exist. */
const shards = 'shards';

async function statusOf(db: Db, { shards: count }: Pick<Config, 'shards'>): Promise<SchemaStatus> {
  const { applied, pending, newer } = await schemaStatus(db);
  const steps: Record<string, boolean> = {
    [queue]: await needsJobsInstall(db),
    [shards]: !(await areShardsReady(db, count)),
  };
  const stepsThat = (arePending: boolean) => Object.keys(steps).filter((step) => steps[step] === arePending);
  return { applied: [...applied, ...stepsThat(false)], pending: [...pending, ...stepsThat(true)], newer };
}

async function bringUpToDate(
  db: Db,
  database: ClientOptions,
  { shards: count }: Pick<Config, 'shards'>,
): Promise<string[]> {
  const also = async () => {
    const done: string[] = [];
    if (await needsJobsInstall(db)) {
      await installJobs(database);
      done.push(queue);
    }
    if (!(await areShardsReady(db, count))) {
      await prepareShards(db, count);
      done.push(shards);
    }
    return done;
  };
  return await migrate(db, also);
}

/** The server of the settings, or the embedded one. */
async function findDatabase(
  config: Config,
  log: Log,
): Promise<{ connection: Connection; words: string; close: () => Promise<void> }> {
  if ('url' in config.database) {
    const { url } = config.database;
    return { connection: { url }, words: `at ${placeIn('DATABASE_URL', url)} (DATABASE_URL)`, close: async () => {} };
  }
  const embedded = await startEmbedded({ ...config.database, supervised: true, log });
  const { host, port, user, database } = embedded;
  return {
    connection: { host, port, user, database },
    words: `embedded, in ${embedded.dataDir}${embedded.adopted ? ' (was still running)' : ''}`,
    close: () => embedded.stop(),
  };
}

/** Parses a URL early: the driver reads certificate files that it names. */
function placeIn(setting: string, url: string): string {
  try {
    return placeOf(url);
  } catch (error) {
    throw new StartError(`${setting} cannot be used: ${textOf(error)}`);
  }
}

/** Updates the schema, or with MIGRATE=check refuses to start on an outdated one. */
async function prepareSchema(config: Config, db: Db, database: ClientOptions, log: Log): Promise<void> {
  if (config.migrate === 'check') {
    const { pending } = await statusOf(db, config);
    if (pending.length > 0)
      throw new MigrationError(
        `the schema is not up to date (pending: ${pending.join(', ')}), and MIGRATE=check: run npm run cli -- migrate`,
      );
    return;
  }
  const applied = await bringUpToDate(db, database, config);
  if (applied.length > 0) log('schemaMigrated', { migrations: applied });
}

/** Where the tables of no shard are. */
interface Tables {
  readonly connection: Connection;
  readonly facts: ServerFacts;
  /** Undefined on a plain PostgreSQL. */
  readonly cluster: CitusCluster | undefined;
}

/** How the places are asked: `open` opens a pool, which is destroyed again. */
interface Search {
  open(connection: Connection): Db;
  readonly patience: Patience;
}

/**
 * Reaches the database of the settings. If it is on a worker of Citus, the tables of no shard are
 * on the coordinator: LISTEN_DATABASE_URL, or where the worker says that its coordinator is.
 */
async function findTables(config: Config, named: Connection, search: Search): Promise<Tables> {
  const found = await askServer(named, search);
  if (found.cluster?.isCoordinator !== false || !('url' in named)) return found;
  const { coordinator, identity } = found.cluster;
  const wayOut = 'set LISTEN_DATABASE_URL to the coordinator, as this instance reaches it';
  const url = config.listenUrl ?? (coordinator && urlOnNode(named.url, coordinator));
  if (url === undefined)
    throw new StartError(`DATABASE_URL names a worker of Citus that does not know its coordinator: ${wayOut}`);
  const words = `DATABASE_URL names a worker of Citus, and its coordinator at ${placeOf(url)}`;
  const tables = await askServer({ url }, search).catch((error: unknown) => {
    if (!isForTheUser(error)) throw error;
    throw new StartError(`${words} cannot be used: ${textOf(error.cause ?? error)}; ${wayOut}`, { cause: error });
  });
  if (tables.cluster?.isCoordinator !== true || tables.cluster.identity !== identity)
    throw new StartError(
      `${words} is another server: it is not the coordinator of that cluster and database; ${wayOut}`,
    );
  return tables;
}

async function askServer(connection: Connection, { open, patience }: Search): Promise<Tables> {
  const db = open(connection);
  try {
    const facts = await reach(db, patience);
    return { connection, facts, cluster: await citusCluster(db) };
  } finally {
    await db.destroy();
  }
}

function placeOfConnection(connection: Connection): string {
  return 'url' in connection ? placeOf(connection.url) : connection.host;
}

/** Waits for a writable server, and refuses one that is unsuitable. */
async function reach(db: Db, patience: Patience): Promise<ServerFacts> {
  const facts = await patience.through(async () => {
    const asked = await serverFacts(db);
    if (asked.readOnly) {
      // After a failover the host name may refer to another server.
      renewConnections(db);
      throw new ReadOnly('it is read-only: a standby, or default_transaction_read_only is on');
    }
    return asked;
  });
  const { version, versionNumber, encoding, plainBackslashes } = facts;
  if (versionNumber < oldestPostgres) throw new StartError(`PostgreSQL ${version} is too old: 15 or later is required`);
  if (encoding !== 'UTF8')
    throw new StartError(
      `the database's encoding is ${encoding}, and messages are UTF-8: create a database with create database … encoding 'UTF8' template template0`,
    );
  if (!plainBackslashes)
    throw new StartError(
      'standard_conforming_strings is off: turn it on with alter database … set standard_conforming_strings = on',
    );
  return facts;
}

/** The server answers but is read-only. */
class ReadOnly extends Error {}

const firstPauseMs = 250;
const longestPauseMs = 2000;

/** Waiting during startup: all steps share DATABASE_WAIT. */
interface Patience {
  /**
   * Repeats a step while waiting may help; permanent errors (password, name, privilege) are thrown
   * at once.
   */
  through<T>(step: () => Promise<T>): Promise<T>;
}

function createPatience(waitMs: number, log: Log): Patience {
  const since = performance.now();
  let logged = false;
  return {
    async through(step) {
      for (let pause = firstPauseMs; ; pause = Math.min(pause * 2, longestPauseMs)) {
        try {
          return await step();
        } catch (error) {
          const waited = performance.now() - since;
          if (!helpsToWait(error) || waited + pause > waitMs)
            throw inOneLine(error, pause > firstPauseMs ? ` (tried for ${(waited / 1000).toFixed(1)} s)` : '');
          if (!logged) log('databaseUnreachable', { cause: textOf(error), retryForMs: waitMs });
          logged = true;
          await delay(pause);
        }
      }
    },
  };
}

/** insufficient_privilege */
const notAllowed = '42501';

/**
 * Turns a database error at startup into one line for the operator, with the way out where it is
 * known. Defects stay as they are.
 */
export function inOneLine(error: unknown, tried = ''): unknown {
  if (isForTheUser(error)) return error;
  const cause = textOf(error);
  const code = codeOf(error);
  const startError = (message: string) => new StartError(message, { cause: error });
  if (code === notAllowed)
    return startError(
      `${cause}: migrate needs a role with CREATE on the database, serve one with privileges on all schemas that migrate creates`,
    );
  if (error instanceof ReadOnly)
    return startError(
      `the database cannot be written: ${cause}${tried}. Check that DATABASE_URL is the URL of the primary`,
    );
  if (cause.includes('unsupported startup parameter'))
    return startError(
      `the database cannot be reached: ${cause}. PgBouncer needs ignore_startup_parameters = lock_timeout,statement_timeout,idle_in_transaction_session_timeout, and a connect_query that sets them`,
    );
  if (isAway(error) || noEntrance.has(code))
    return startError(
      `the database cannot be reached: ${cause}${tried}. Check DATABASE_URL, and that the server is running`,
    );
  // With an SQLSTATE: the server's own message.
  if (/^[0-9A-Z]{5}$/.test(code))
    return startError(`the database refused a statement of the start: ${cause} (SQLSTATE ${code})${tried}`);
  return error;
}

/**
 * The server refuses this login: protocol_violation, invalid_authorization, invalid_password,
 * invalid_catalog_name.
 */
const noEntrance = new Set(['08P01', '28000', '28P01', '3D000']);
/**
 * Errors of a busy server: query_canceled, lock_not_available, out_of_memory, too_many_connections.
 */
const passing = new Set(['57014', '55P03', '53200', '53300']);

function helpsToWait(error: unknown): boolean {
  if (error instanceof ReadOnly) return true;
  // The cause of a failed migration is its reason.
  const reason = error instanceof MigrationError && error.cause !== undefined ? error.cause : error;
  return isAway(reason) || passing.has(codeOf(reason)) || classifyPgError(reason) === 'retry';
}

function codeOf(error: unknown): string {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' ? code : '';
}

function isAway(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.every(isAway);
  // protocol_violation: a pooler refuses a startup parameter.
  return classifyPgError(error) === 'lost' && codeOf(error) !== '08P01';
}

/** Some socket errors contain their messages: one per address that was tried. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(textOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}
