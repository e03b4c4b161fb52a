// PostgreSQL that the service brings along, for a first run without a database.
//
// Entry point: `startEmbedded`. Files: account.ts (the system user that runs it), binaries.ts (its
// programs), folder.ts (the data folder), server.ts (the process), supervisor.ts (restarts it),
// orphans.ts (processes left behind by a killed one). Invariants:
//  1. One server per data folder, shared by all services that name the folder: the last one stops
//     it, and each restarts it.
//  2. It listens on a Unix socket in a private folder only.
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { EmbeddedUnavailable, serverAccount } from './account.ts';
import { findBinaries } from './binaries.ts';
import { isAlive, prepareCluster, reachableFolder, socketFolder } from './folder.ts';
import {
  answering,
  database,
  type EmbeddedOptions,
  ensureRunning,
  pollMs,
  port,
  postmasterPid,
  query,
  type Server,
  sessionName,
  startMs,
  user,
} from './server.ts';
import { supervise } from './supervisor.ts';

export { type EmbeddedOptions, rotateLog } from './server.ts';
export { EmbeddedUnavailable };

/** The embedded PostgreSQL, reached by a Unix socket in a private folder. */
export interface EmbeddedPostgres {
  /** The socket's folder. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly database: string;
  readonly dataDir: string;
  /** Process id of the postmaster. */
  readonly pid: number;
  /** Whether it was running already: another service uses it, or an earlier one was killed. */
  readonly adopted: boolean;
  /** Stops the server unless another service is connected: then the last one stops it. */
  stop(): Promise<void>;
}

/** Starts the server of a data folder, or uses the one that runs on it. */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  if (process.platform === 'win32')
    throw new EmbeddedUnavailable(
      'the embedded PostgreSQL is not tested on Windows: set DATABASE_URL to a PostgreSQL 15 or later',
    );
  const account = serverAccount();
  const binaries = findBinaries(account, options.findPackage);
  const { folder, moved } = reachableFolder(options.dataDir, options.explicit, account);
  if (moved !== undefined) {
    options.log('embeddedFolderMoved', { folder, account: account.name, unreachable: moved });
  }
  const cluster = prepareCluster(folder, binaries, account);
  const host = socketFolder(cluster, account);
  const server: Server = { cluster, host, account, program: binaries.postgres, log: join(folder, 'postgres.log') };
  const { pid, adopted } = await ensureRunning(server, options).catch((error: unknown) => {
    // The log cannot be written, or the program cannot run.
    throw error instanceof Error && 'syscall' in error
      ? new EmbeddedUnavailable(
          `the data folder ${folder} cannot be used: ${error.message}. Set DATA_DIR to another folder, or DATABASE_URL`,
        )
      : error;
  });
  await createDatabase(server);
  let stopping: Promise<void> | undefined;
  const supervisor = options.supervised === true ? supervise(server, pid, options) : undefined;
  const currentPid = () => supervisor?.pid() ?? pid;
  return {
    host,
    port,
    user,
    database,
    dataDir: folder,
    get pid() {
      return currentPid();
    },
    adopted,
    stop() {
      stopping ??= (async () => {
        await supervisor?.leave();
        await stop(server, currentPid(), options);
      })();
      return stopping;
    },
  };
}

async function createDatabase(server: Server): Promise<void> {
  await query(server, 'postgres', async (client) => {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [database]);
    if (rowCount !== 0) return;
    await client.query(`create database ${database}`).catch((error: { code?: string }) => {
      // A service that started at the same moment created it: duplicate_database, or the
      // catalogue's unique index.
      if (error.code !== '42P04' && error.code !== '23505') throw error;
    });
  });
}

async function stop(server: Server, pid: number, options: EmbeddedOptions): Promise<void> {
  // Signals only a process that answered as this cluster's postmaster; one that does not answer is
  // stopping already.
  if ((await answering(server)) === pid) {
    if (await hasOthers(server)) {
      options.log('embeddedStillUsed', { folder: server.cluster });
      return;
    }
    // SIGINT is PostgreSQL's fast shutdown: ends sessions, writes a checkpoint, stops.
    if (isAlive(pid)) process.kill(pid, 'SIGINT');
  }
  const deadline = performance.now() + startMs;
  while (postmasterPid(server) === pid && isAlive(pid)) {
    if (performance.now() > deadline) {
      options.log('embeddedStopSlow', { pid });
      return;
    }
    await delay(pollMs);
  }
}

/**
 * Whether another service uses the server. Sessions of this module do not count: another service
 * may run the same check. The service's own pool was just closed, and its sessions get a second to
 * end.
 */
async function hasOthers(server: Server): Promise<boolean> {
  try {
    return await query(server, 'postgres', async (client) => {
      for (let attempt = 0; attempt < 20; attempt++) {
        const { rows } = await client.query<{ others: boolean }>(
          `select exists (select from pg_stat_activity where backend_type = 'client backend' and application_name <> $1) as others`,
          [sessionName],
        );
        if (rows[0]?.others === false) return false;
        await delay(50);
      }
      return true;
    });
  } catch {
    // It went away meanwhile: another service is stopping it.
    return false;
  }
}
