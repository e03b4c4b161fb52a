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
  /** Connections at most. */
  readonly poolSize: number;
  /** Milliseconds that a statement waits for a row lock before STORE_BUSY. */
  readonly lockTimeoutMs: number;
  /** Milliseconds that a statement may run, and a little more until its answer is here; 0: no bound. */
  readonly statementTimeoutMs: number;
  /** Milliseconds to wait for a connection, from the server or from the pool. */
  readonly connectTimeoutMs: number;
  /** Told of each connection that broke. */
  readonly onConnectionError: (error: Error) => void;
  /** Told how to count the pool's connections. */
  readonly onPool?: (count: () => PoolCounts) => void;
  /** Stands around each statement. Unset: nothing is paid for it. */
  readonly trace?: TraceStatement | undefined;
}

/** The connections of a pool, and who waits for one. */
export interface PoolCounts {
  readonly most: number;
  readonly open: number;
  readonly idle: number;
  readonly waiting: number;
}

const int8 = 20;

/**
 * A connection whose other end is gone without a word: idle, the kernel asks after 10 s and gives up 10 s later (the default is two hours).
 * Where something is sent and nobody answers only a time-out of our own helps: the kernel goes on for a quarter of an hour.
 */
export const watched = { keepAlive: true, keepAliveInitialDelayMillis: 10_000 } as const;

/** The server ends a statement by its time-out and says so; one that has said nothing for so much longer never will. pg then destroys the connection. */
export const answerTimeoutMs = (statementTimeoutMs: number): number =>
  statementTimeoutMs + Math.min(2000, statementTimeoutMs);

/**
 * A transaction here waits for nothing but SQL: one that idles belongs to an instance that stands still, and its locks stop the others. They were
 * without a success for 10.7 s when it was 10 s.
 */
export const idleInTransactionMs = 2000;

/** Opens the pool. Nothing is connected until the first query. */
export function openDatabase(options: DatabaseOptions): Db {
  const { connection } = options;
  const pool = new pg.Pool({
    ...('url' in connection ? { connectionString: connection.url } : connection),
    application_name: 'sendbatch',
    Client: options.trace === undefined ? PreparingClient : tracingClient(options.trace),
    // Statements that do not need each other's answers are sent without waiting for them.
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

/** From now on statements go over new connections: a name may stand for another server by now. */
export function renewConnections(db: Db): void {
  renewals.get(db)?.();
}

/**
 * What the pool lacks. A connection that breaks between two statements of a transaction would end the process: the pool listens to idle ones only. Where one
 * connection was lost the others most likely are too, and each would cost a caller a time-out to find out: none of them is handed out again. And it has
 * no bound on who waits. Returns what makes all open connections doubtful.
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

/** What the server says of itself. */
export interface ServerFacts {
  readonly version: string;
  readonly versionNumber: number;
  /** Settings under which a commit may be lost in a crash; empty when commits are durable. */
  readonly lossy: string[];
  /** A standby, or `default_transaction_read_only`. */
  readonly readOnly: boolean;
  readonly encoding: string;
  /** Whether a backslash in a literal is one, as SQL says. */
  readonly plainBackslashes: boolean;
}

/** Whether nothing can be written by this connection. */
export const isReadOnly = sql<boolean>`pg_is_in_recovery() or current_setting('transaction_read_only')::boolean`;

/** Asks the server what it is; throws when it cannot be reached. */
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

/** Host and database of a URL, as the driver reads it: never its user or password. */
export function placeOf(url: string): string {
  const { host, port, database } = new pg.Client({ connectionString: url });
  return host.startsWith('/') ? `${host} (socket), database ${database}` : `${host}:${port}, database ${database}`;
}
