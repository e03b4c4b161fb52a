import { installJobs, type Jobs, needsJobsInstall, openJobs } from '../batches/job-queue.sql.ts';
import type { Config } from '../config/index.ts';
import type { Log } from '../observability/log.ts';
import { type CitusCluster, describeCitus } from '../postgres/citus.ts';
import { migrate, type SchemaStatus, schemaStatus } from '../postgres/migrate.ts';
import { MigrationError } from '../postgres/migration-error.ts';
import { type Listening, listen } from '../postgres/pg-notify.ts';
import { type DatabaseOptions, openDatabase } from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';
import { listShards } from '../postgres/shard-list.ts';
import { areShardsReady, prepareShards } from '../postgres/shard-schemas.ts';
import { cancelSplit, type SplitOptions, splitApplication, splitShards } from '../postgres/shard-split.ts';
import { routeShards, ShardLayout } from '../postgres/shards.ts';
import { openCounterPool } from '../rate-limits/postgres-counter.sql.ts';
import {
  type Connection,
  createPatience,
  findDatabase,
  findTables,
  placeIn,
  placeOfConnection,
  type Tables,
} from './find-database.ts';
import { codeOf, inOneLine, StartError, textOf } from './start-error.ts';

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
