import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { LogEvent } from '../../observability/log-events.ts';
import { type Account, EmbeddedUnavailable, serverAccount } from './account.ts';
import { type FindPackage, findBinaries } from './binaries.ts';
import { cleanEnvironment, isAlive, prepareCluster, reachableFolder, reasonsIn, socketFolder } from './folder.ts';
import { orphansOf } from './orphans.ts';

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

export interface EmbeddedOptions {
  readonly dataDir: string;
  /** Whether the user named this folder: then no other is used. */
  readonly explicit: boolean;
  /** False for tests only: a crash may lose what they write. */
  readonly durable?: boolean;
  /** Additional server settings. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly findPackage?: FindPackage;
  /** Restarts the server when it ends unexpectedly. */
  readonly supervised?: boolean;
  readonly log: (event: LogEvent, fields: Readonly<Record<string, unknown>>) => void;
}

/**
 * Only the socket, no TCP; sizes for a laptop. Everything else by default: fsync and
 * synchronous_commit are on.
 */
const usual = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  max_connections: '100',
  shared_buffers: '128MB',
  jit: 'off',
  log_timezone: 'UTC',
  // The service reports errors of statements. A repeated send is one, and would log its statement
  // (3 kB).
  log_min_messages: 'log',
  log_min_error_statement: 'panic',
  timezone: 'UTC',
};
const forgetful = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' };

const port = 5432;
const user = 'sendbatch';
const database = 'sendbatch';
const sessionName = 'sendbatch launcher';
const startMs = 30_000;
const lookMs = 30;
/** Pause before restarting a server that ended at once; doubles each time. */
const longestRelaunchMs = 1000;
/** Remaining processes of a killed server end within 1 to 2 s; after this time they never will. */
const orphanMs = 3000;
/** Time between checks that the postmaster runs. */
const superviseMs = 500;
/** Longest pause between two restarts. */
const longestPauseMs = 30_000;
/** A larger log is rotated; one older log is kept. */
const logBytes = 10 * 1024 * 1024;
/** Time between checks of the log's size. */
const logEveryMs = 60_000;

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
  const { pid, adopted } = await run(server, options).catch((error: unknown) => {
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

interface Server {
  readonly cluster: string;
  readonly host: string;
  readonly account: Account;
  readonly program: string;
  readonly log: string;
}

/**
 * Waits until a server of this cluster answers on the socket. Starts one if none runs, and again if
 * it ended at once, as it does while children of a killed one exist (1 to 2 s).
 */
async function run(
  server: Server,
  options: EmbeddedOptions,
  signal?: AbortSignal,
): Promise<{ pid: number; adopted: boolean }> {
  const began = performance.now();
  const logBytesBefore = statSync(server.log, { throwIfNoEntry: false })?.size ?? 0;
  let child: ChildProcess | undefined;
  let pause = lookMs;
  let launchAt = began;
  for (;;) {
    const pid = await answering(server);
    if (pid !== undefined) return { pid, adopted: pid !== child?.pid };
    const now = performance.now();
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) {
      signal?.throwIfAborted();
      if (now - began > orphanMs) killOrphans(server, options);
      if (now >= launchAt) {
        dropStaleLock(server);
        child = launch(server, options);
        launchAt = now + pause;
        pause = Math.min(pause * 2, longestRelaunchMs);
      }
    }
    if (now - began > startMs)
      throw new EmbeddedUnavailable(
        `the embedded PostgreSQL did not start: ${lastWords(server.log, logBytesBefore)} (its log is ${server.log})`,
      );
    await delay(lookMs);
  }
}

function killOrphans(server: Server, options: EmbeddedOptions): void {
  for (const pid of orphansOf(server.cluster)) {
    options.log('embeddedOrphanKilled', { pid });
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended meanwhile.
    }
  }
}

/**
 * Restarts the server whenever its postmaster is gone; any service that shares the folder may do
 * so.
 */
interface Supervisor {
  /** Pid of the last known postmaster. */
  pid(): number;
  /** Stops restarting. */
  leave(): Promise<void>;
}

function supervise(server: Server, first: number, options: EmbeddedOptions): Supervisor {
  const leaving = new AbortController();
  const { signal } = leaving;
  let pid = first;
  const pauseFor = (milliseconds: number) => delay(milliseconds, undefined, { ref: false, signal }).catch(() => {});

  const bringBack = async () => {
    const since = performance.now();
    options.log('embeddedExited', { pid });
    let said = '';
    for (let pause = longestRelaunchMs; !signal.aborted; pause = Math.min(pause * 2, longestPauseMs)) {
      try {
        const back = await run(server, options, signal);
        pid = back.pid;
        const downMs = Math.round(performance.now() - since);
        options.log('embeddedRestarted', { pid, downMs, startedHere: !back.adopted });
        return;
      } catch (error) {
        const cause = error instanceof Error ? error.message : String(error);
        if (cause !== said && !signal.aborted) options.log('embeddedRestartFailed', { cause });
        said = cause;
        await pauseFor(pause);
      }
    }
  };

  const watching = (async () => {
    let logSeenAt = performance.now();
    while (!signal.aborted) {
      await pauseFor(superviseMs);
      if (!signal.aborted && !isAlive(pid)) await bringBack();
      if (performance.now() - logSeenAt < logEveryMs) continue;
      logSeenAt = performance.now();
      cutLog(server, options);
    }
  })();
  return {
    pid: () => pid,
    async leave() {
      leaving.abort();
      await watching;
    },
  };
}

/** Rotates the log of a running server: it appends, so that it continues in the emptied file. */
export function cutLog(server: Pick<Server, 'log'>, options: Pick<EmbeddedOptions, 'log'>, mostBytes = logBytes): void {
  try {
    if (statSync(server.log).size <= mostBytes) return;
    copyFileSync(server.log, `${server.log}.old`);
    truncateSync(server.log);
  } catch (error) {
    options.log('embeddedLogNotRotated', { cause: String(error) });
  }
}

/**
 * Starts the server in its own process group: Ctrl-C reaches only the service, which then stops it
 * in order.
 */
function launch(server: Server, options: EmbeddedOptions): ChildProcess {
  if ((statSync(server.log, { throwIfNoEntry: false })?.size ?? 0) > logBytes)
    renameSync(server.log, `${server.log}.old`);
  const settings = {
    ...usual,
    ...(options.durable === false ? forgetful : {}),
    ...options.settings,
    unix_socket_directories: server.host,
    port: String(port),
  };
  const log = openSync(server.log, 'a', 0o600);
  try {
    const child = spawn(
      server.program,
      ['-D', server.cluster, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      {
        cwd: server.cluster,
        detached: true,
        stdio: ['ignore', log, log],
        env: cleanEnvironment,
        ...server.account.ids,
      },
    );
    // A failed spawn is an exit code too; its message goes to the log.
    child.on('error', (error) => options.log('embeddedSpawnFailed', { cause: error.message }));
    child.unref();
    return child;
  } finally {
    closeSync(log);
  }
}

/** The postmaster's pid if a server of this very cluster answers on the socket. */
async function answering(server: Server): Promise<number | undefined> {
  if (!existsSync(join(server.host, `.s.PGSQL.${port}`))) return undefined;
  try {
    return await query(server, 'postgres', async (client) => {
      const { rows } = await client.query<{ folder: string }>(`select current_setting('data_directory') as folder`);
      return rows[0] !== undefined && realpathSync(rows[0].folder) === realpathSync(server.cluster)
        ? postmasterPid(server)
        : undefined;
    });
  } catch {
    return undefined;
  }
}

function postmasterPid({ cluster }: Server): number | undefined {
  const pid = Number(textOf(join(cluster, 'postmaster.pid'))?.split('\n', 1)[0]);
  return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
}

/**
 * After a crash the lock file names a process that is gone, and its pid may belong to another
 * program (in a container it usually does): PostgreSQL would refuse to start.
 */
function dropStaleLock(server: Server): void {
  const pid = postmasterPid(server);
  if (pid === undefined || !isAlive(pid)) return;
  const command = textOf(`/proc/${pid}/cmdline`);
  if (command !== undefined && !command.includes('postgres'))
    rmSync(join(server.cluster, 'postmaster.pid'), { force: true });
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
    await delay(lookMs);
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
      for (let look = 0; look < 20; look++) {
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

async function query<T>(server: Server, name: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({
    host: server.host,
    port,
    user,
    database: name,
    application_name: sessionName,
    connectionTimeoutMillis: 5000,
  });
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Reads what the server logged since; the log may have been rotated. */
function lastWords(log: string, from: number): string {
  const text = Buffer.from(textOf(log) ?? '');
  const since = text.subarray(text.length >= from ? from : 0).toString();
  return since.trim() === '' ? 'it said nothing' : reasonsIn(since.trim().split('\n').slice(-6).join('\n'));
}

/** Reads a file; undefined if it is missing or disappears meanwhile. */
function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
