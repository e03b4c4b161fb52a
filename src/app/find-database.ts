// Finds the database of the settings: DATABASE_URL or the embedded server, and on a cluster of
// Citus the coordinator, which has the tables of no shard.

import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../config/index.ts';
import type { Log } from '../observability/log.ts';
import { type CitusCluster, citusCluster, urlOnNode } from '../postgres/citus.ts';
import { startEmbedded } from '../postgres/embedded/index.ts';
import { type DatabaseOptions, placeOf, renewConnections, type ServerFacts, serverFacts } from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';
import { helpsToWait, inOneLine, isForTheUser, ReadOnly, StartError, textOf } from './start-error.ts';

export type Connection = DatabaseOptions['connection'];

const oldestPostgres = 150_000;

/** The server of the settings, or the embedded one. */
export async function findDatabase(
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
export function placeIn(setting: string, url: string): string {
  try {
    return placeOf(url);
  } catch (error) {
    throw new StartError(`${setting} cannot be used: ${textOf(error)}`);
  }
}

/** Where the tables of no shard are. */
export interface Tables {
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
export async function findTables(config: Config, named: Connection, search: Search): Promise<Tables> {
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

export function placeOfConnection(connection: Connection): string {
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

export function createPatience(waitMs: number, log: Log): Patience {
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
