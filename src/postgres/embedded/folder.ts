import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Account, barrier, EmbeddedUnavailable } from './account.ts';
import type { Binaries } from './binaries.ts';
import { makeFolders } from './make-folders.ts';

/** Data folder of root if the server's account cannot reach the default one. */
const systemFolder = '/var/lib/sendbatch';

/**
 * The data folder: the wanted one, or for root, if it was not set by the user, one that the account
 * can reach.
 */
export function reachableFolder(
  wanted: string,
  explicit: boolean,
  account: Account,
): { folder: string; moved: string | undefined } {
  const blocking = barrier(wanted, account);
  if (blocking === undefined) return { folder: wanted, moved: undefined };
  if (explicit) {
    throw new EmbeddedUnavailable(
      `DATA_DIR=${wanted} cannot be used: PostgreSQL runs as ${account.name} here, since it refuses root, and ${account.name} may not pass ${blocking}; choose another DATA_DIR, chmod o+x ${blocking}, start sendbatch as another user, or set DATABASE_URL`,
    );
  }
  return { folder: join(systemFolder, digest(wanted)), moved: blocking };
}

/** Finds the cluster in a data folder, or creates it. */
export function prepareCluster(folder: string, binaries: Binaries, account: Account): string {
  const cluster = join(folder, 'postgres');
  try {
    makeFolders(folder);
    if (!existsSync(cluster)) initialize(cluster, binaries, account);
  } catch (error) {
    if (error instanceof EmbeddedUnavailable) throw error;
    throw unusable(folder, error instanceof Error ? error.message : String(error));
  }
  const versionFile = join(cluster, 'PG_VERSION');
  if (!existsSync(versionFile)) {
    if (!lstatSync(cluster).isDirectory() || readdirSync(cluster).length > 0)
      throw unusable(folder, `${cluster} is there, but it is not a PostgreSQL cluster`);
    rmSync(cluster, { recursive: true });
    initialize(cluster, binaries, account);
  }
  const major = readFileSync(versionFile, 'utf8').trim();
  if (major !== binaries.major) {
    throw unusable(
      folder,
      `its cluster is of PostgreSQL ${major}, this version brings ${binaries.major}; run pg_upgrade, or move the folder away to start anew`,
    );
  }
  const owner = statSync(cluster).uid;
  const wanted = account.ids?.uid ?? process.getuid?.();
  if (owner !== wanted)
    throw unusable(folder, `${cluster} belongs to user ${owner}, and PostgreSQL would run as user ${wanted}`);
  return cluster;
}

function unusable(folder: string, why: string): EmbeddedUnavailable {
  return new EmbeddedUnavailable(
    `the data folder ${folder} cannot be used: ${why}. Set DATA_DIR to another folder, or DATABASE_URL`,
  );
}

/**
 * Creates the cluster under another name first, so that an incomplete one never has the final name.
 */
function initialize(cluster: string, binaries: Binaries, account: Account): void {
  for (const name of readdirSync(join(cluster, '..'))) {
    const pid = /^postgres\.new-(\d+)$/.exec(name)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) rmSync(join(cluster, '..', name), { recursive: true, force: true });
  }
  const work = `${cluster}.new-${process.pid}`;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { mode: 0o700 });
  if (account.ids !== undefined) chownSync(work, account.ids.uid, account.ids.gid);
  const options = ['--encoding=UTF8', '--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--locale=C'];
  const { status, stderr, error } = spawnSync(
    binaries.initdb,
    ['-D', work, '--username=sendbatch', '--auth-local=trust', '--auth-host=reject', ...options],
    { cwd: work, encoding: 'utf8', env: cleanEnvironment, ...account.ids },
  );
  if (error !== undefined || status !== 0) {
    rmSync(work, { recursive: true, force: true });
    throw unusable(join(cluster, '..'), `initdb failed: ${error?.message ?? reasonsIn(stderr)}`);
  }
  try {
    renameSync(work, cluster);
  } catch (failure) {
    rmSync(work, { recursive: true, force: true });
    // A concurrent start on this folder was faster: its cluster is used.
    if (!existsSync(join(cluster, 'PG_VERSION'))) throw failure;
  }
}

/**
 * Finds the reasons in the output of initdb or a server, whose last lines may only report cleanup.
 */
export function reasonsIn(said: string): string {
  const lines = said.trim().split('\n');
  const reasons = lines.filter((line) => /\b(PANIC|FATAL|ERROR|error|could not)\b|No space left/.test(line));
  return (reasons.length > 0 ? reasons.slice(0, 3) : lines.slice(-3)).join(' ');
}

/**
 * Environment of the server's programs, without the connection and locale settings of the service's
 * own.
 */
export const cleanEnvironment = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

/** A unix socket's path may have 107 bytes; `/.s.PGSQL.5432` is 14 of them. */
const longestSocketFolder = 107 - 14;

/**
 * The socket's folder: the cluster's private folder, or one with a short name if that path is too
 * long.
 */
export function socketFolder(cluster: string, account: Account): string {
  if (Buffer.byteLength(cluster) <= longestSocketFolder) return cluster;
  const folder = join(tmpdir(), `sendbatch-${digest(cluster)}`);
  const owner = account.ids?.uid ?? process.getuid?.();
  if (!existsSync(folder)) {
    mkdirSync(folder, { mode: 0o700 });
    if (account.ids !== undefined) chownSync(folder, account.ids.uid, account.ids.gid);
    chmodSync(folder, 0o700);
  }
  // Any user may create a folder in the temporary folder: one of another user, or open to others,
  // is not trusted.
  const stat = lstatSync(folder);
  if (!stat.isDirectory() || stat.uid !== owner || (stat.mode & 0o077) !== 0) {
    throw new EmbeddedUnavailable(
      `${folder}, which would hold PostgreSQL's socket, is not a private folder of its user: remove it, or set DATA_DIR to a shorter path`,
    );
  }
  return folder;
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

/** Whether a process with this id runs. A zombie does not count. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  try {
    // `pid (name) state …`: the name may contain a bracket.
    return !/\) Z [^)]*$/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return true;
  }
}
