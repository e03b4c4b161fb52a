// The server process of the embedded PostgreSQL: starts it, finds one that runs, and queries it.
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
import { type Account, EmbeddedUnavailable } from './account.ts';
import type { FindPackage } from './binaries.ts';
import { cleanEnvironment, isAlive, reasonsIn } from './folder.ts';
import { orphansOf } from './orphans.ts';

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
const serverSettings = {
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
const undurableSettings = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' };

export const port = 5432;
export const user = 'sendbatch';
export const database = 'sendbatch';
export const sessionName = 'sendbatch launcher';
export const startMs = 30_000;
export const pollMs = 30;
/** Pause before restarting a server that ended at once; doubles each time. */
export const longestRelaunchMs = 1000;
/** Remaining processes of a killed server end within 1 to 2 s; after this time they never will. */
const orphanMs = 3000;
/** A larger log is rotated; one older log is kept. */
const logBytes = 10 * 1024 * 1024;

export interface Server {
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
export async function ensureRunning(
  server: Server,
  options: EmbeddedOptions,
  signal?: AbortSignal,
): Promise<{ pid: number; adopted: boolean }> {
  const began = performance.now();
  const logBytesBefore = statSync(server.log, { throwIfNoEntry: false })?.size ?? 0;
  let child: ChildProcess | undefined;
  let pause = pollMs;
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
        `the embedded PostgreSQL did not start: ${logSince(server.log, logBytesBefore)} (its log is ${server.log})`,
      );
    await delay(pollMs);
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

/** Rotates the log of a running server: it appends, so that it continues in the emptied file. */
export function rotateLog(
  server: Pick<Server, 'log'>,
  options: Pick<EmbeddedOptions, 'log'>,
  mostBytes = logBytes,
): void {
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
    ...serverSettings,
    ...(options.durable === false ? undurableSettings : {}),
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
export async function answering(server: Server): Promise<number | undefined> {
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

export function postmasterPid({ cluster }: Server): number | undefined {
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

export async function query<T>(server: Server, name: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
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
function logSince(log: string, from: number): string {
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
