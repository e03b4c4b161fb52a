// Connections to PostgreSQL.
//
// - pool.ts opens pools and reads properties of the server; client.ts is the client that sends
//   prepared statements.
// - sql.ts: `Statement`; transaction.ts: pipelined transactions; schema.ts: the types of all
//   tables.
// - migrate.ts and migrations/: the schema; schema-check.ts and readiness.ts: whether this version
//   can serve.
// - pg-notify.ts: LISTEN and NOTIFY; database-clock.ts: database time; embedded/: the PostgreSQL of
//   `npm start`.
// bigint is read as a number and checked to be at most 2^53-1. A lost connection condemns its
// pool's other ones.

import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import { limits } from '../limits.ts';
import { PreparingClient, type TraceStatement, tracingClient } from './client.ts';
import { noConnection } from './pg-errors.ts';
import type { Db, Tables } from './schema.ts';

/** How to reach the database. */
export interface DatabaseOptions {
  /** A libpq URL, or the socket folder and user of the embedded server. */
  readonly connection: { readonly url: string } | { host: string; port: number; user: string; database: string };
  /** How connections are named in pg_stat_activity; `sendbatch` unless set. */
  readonly applicationName?: string;
  /** Maximum number of connections. */
  readonly poolSize: number;
  /** Milliseconds that a statement waits for a row lock before STORE_BUSY. */
  readonly lockTimeoutMs: number;
  /**
   * Milliseconds that a statement may run, and slightly more until its answer arrives; 0: no limit.
   */
  readonly statementTimeoutMs: number;
  /** Milliseconds to wait for a connection, from the server or from the pool. */
  readonly connectTimeoutMs: number;
  /** Called for each connection that broke. */
  readonly onConnectionError: (error: Error) => void;
  /** Receives a function that counts the pool's connections. */
  readonly onPool?: (count: () => PoolCounts) => void;
  /** Wraps each statement. Unset: no cost. */
  readonly trace?: TraceStatement | undefined;
}

/** Connections of a pool, and requests that wait for one. */
export interface PoolCounts {
  readonly most: number;
  readonly open: number;
  readonly idle: number;
  readonly waiting: number;
}

const int8 = 20;

/**
 * TCP keep-alive for connections whose peer disappeared: the kernel probes an idle one after 10 s
 * and gives up 10 s later (two hours by default). Unanswered statements need a timeout of their
 * own: the kernel resends for 15 minutes.
 */
export const watched = { keepAlive: true, keepAliveInitialDelayMillis: 10_000 } as const;

/**
 * Time after which an unanswered statement is given up: the server's timeout plus at most 2 s. pg
 * then destroys the connection.
 */
export const answerTimeoutMs = (statementTimeoutMs: number): number =>
  statementTimeoutMs + Math.min(2000, statementTimeoutMs);

/**
 * Transactions wait for nothing but SQL: an idle one belongs to a suspended instance, and its locks
 * block the others (for 10.7 s when this was 10 s).
 */
export const idleInTransactionMs = 2000;

/** Opens a pool. It connects at the first query. */
export function openDatabase(options: DatabaseOptions): Db {
  const { connection } = options;
  const pool = new pg.Pool({
    ...('url' in connection ? { connectionString: connection.url } : connection),
    application_name: options.applicationName ?? 'sendbatch',
    Client: options.trace === undefined ? PreparingClient : tracingClient(options.trace),
    // Sends statements without waiting for the answers of earlier ones.
    pipeline: true,
    max: options.poolSize,
    connectionTimeoutMillis: options.connectTimeoutMs,
    idleTimeoutMillis: 60_000,
    ...watched,
    statement_timeout: options.statementTimeoutMs,
    ...(options.statementTimeoutMs === 0 ? {} : { query_timeout: answerTimeoutMs(options.statementTimeoutMs) }),
    lock_timeout: options.lockTimeoutMs,
    idle_in_transaction_session_timeout: Math.min(options.statementTimeoutMs, idleInTransactionMs),
    types: {
      getTypeParser: (oid: number, format?: 'text' | 'binary') =>
        oid === int8 ? safeInteger : pg.types.getTypeParser(oid, format as 'text'),
    },
  });
  const renew = guard(pool, options.onConnectionError);
  options.onPool?.(() => ({
    most: options.poolSize,
    open: pool.totalCount,
    idle: pool.idleCount,
    waiting: pool.waitingCount,
  }));
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  renewals.set(db, renew);
  return db;
}

const renewals = new WeakMap<Db, () => void>();

/** Uses new connections from now on: a host name may refer to another server by now. */
export function renewConnections(db: Db): void {
  renewals.get(db)?.();
}

/**
 * Adds what pg's pool lacks:
 *  1. An error listener on connections in use: one that breaks between two statements would end the
 *     process.
 *  2. After a lost connection the others are not reused: most likely they are lost too, and each
 *     would cost a caller a timeout.
 *  3. A bound on waiting requests.
 * Returns a function that discards all open connections.
 */
function guard(pool: pg.Pool, onConnectionError: (error: Error) => void): () => void {
  const open = new Set<pg.PoolClient>();
  const doubtful = new WeakSet<pg.PoolClient>();
  const doubtAll = () => {
    for (const each of open) doubtful.add(each);
  };
  const lose = (error: Error) => {
    doubtAll();
    onConnectionError(error);
  };
  pool.on('connect', (client) => {
    open.add(client);
    client.on('error', lose);
  });
  pool.on('release', (_, client) => {
    const condemned = client instanceof PreparingClient ? client.condemned : undefined;
    if (condemned !== undefined && !doubtful.has(client)) lose(condemned);
  });
  pool.on('remove', (client) => open.delete(client));
  pool.on('error', () => {});
  const connect = pool.connect.bind(pool) as () => Promise<pg.PoolClient>;
  const connectWell = async () => {
    if (pool.waitingCount >= limits.poolWaiting) throw new Error(`${noConnection}: ${pool.waitingCount} wait for one`);
    for (;;) {
      const client = await connect();
      if (!doubtful.has(client)) return client;
      client.release(true);
    }
  };
  Object.assign(pool, { connect: connectWell });
  return doubtAll;
}

function safeInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`bigint ${text} from the database is above 2^53-1`);
  return value;
}

/** Properties of the server. */
export interface ServerFacts {
  readonly version: string;
  readonly versionNumber: number;
  /** Settings under which a crash may lose commits; empty if commits are durable. */
  readonly lossy: string[];
  /** Whether it is a standby, or has `default_transaction_read_only`. */
  readonly readOnly: boolean;
  readonly encoding: string;
  /** Whether backslashes in literals are plain characters (standard_conforming_strings). */
  readonly plainBackslashes: boolean;
}

/** Whether this connection is read-only. */
export const isReadOnly = sql<boolean>`pg_is_in_recovery() or current_setting('transaction_read_only')::boolean`;

/** Reads the properties of the server; throws when it is unreachable. */
export async function serverFacts(db: Db): Promise<ServerFacts> {
  const { rows } = await sql<{
    version: string;
    number: string;
    fsync: string;
    commit: string;
    read_only: boolean;
    encoding: string;
    backslashes: string;
  }>`
    select current_setting('server_version') as version, current_setting('server_version_num') as number,
      current_setting('fsync') as fsync, current_setting('synchronous_commit') as commit, ${isReadOnly} as read_only,
      current_setting('server_encoding') as encoding, current_setting('standard_conforming_strings') as backslashes`.execute(
    db,
  );
  const [row] = rows;
  if (row === undefined) throw new Error('the server did not say its version');
  const lossy = [
    ...(row.fsync === 'on' ? [] : [`fsync=${row.fsync}`]),
    ...(row.commit === 'off' ? [`synchronous_commit=${row.commit}`] : []),
  ];
  return {
    version: row.version,
    versionNumber: Number(row.number),
    lossy,
    readOnly: row.read_only,
    encoding: row.encoding,
    plainBackslashes: row.backslashes === 'on',
  };
}

/** Host and database of a URL, as the driver reads it, without user and password. */
export function placeOf(url: string): string {
  const { host, port, database } = new pg.Client({ connectionString: url });
  return host.startsWith('/') ? `${host} (socket), database ${database}` : `${host}:${port}, database ${database}`;
}
