import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serverAccount } from '../../src/postgres/embedded/account.ts';
import { findBinaries } from '../../src/postgres/embedded/binaries.ts';
import { prepareCluster } from '../../src/postgres/embedded/folder.ts';
import { type EmbeddedPostgres, startEmbedded } from '../../src/postgres/embedded/index.ts';
import { endWithFile } from './file-end.ts';

export const quietLog = () => {};

/** A PostgreSQL of one test run or one test, in a temporary folder that is removed with it. */
export interface TestCluster extends EmbeddedPostgres {
  /** The URL of a database in it. */
  url(database: string): string;
}

/** A folder for a test that PostgreSQL's account may enter: mkdtemp creates private ones. */
export function temporaryFolder(name: string, within: string = tmpdir()): string {
  const folder = mkdtempSync(join(within, `sendbatch-test-${name}-`));
  chmodSync(folder, 0o755);
  return folder;
}

const memory = '/dev/shm';
/** Free bytes of `memory` from which clusters are kept there; a run needs 1 GB. */
const enoughMemoryBytes = 4 * 1024 ** 3;

/**
 * Where clusters that need not be durable are kept: in memory where there is room. A run creates
 * and removes 100,000 files of databases, which takes ext4 a quarter of PostgreSQL's CPU: it
 * searches past each inode that was freed within the last 5 s.
 */
function clusterParent(): string {
  if (!existsSync(memory)) return tmpdir();
  const { bavail, bsize } = statfsSync(memory);
  return bavail * bsize < enoughMemoryBytes ? tmpdir() : memory;
}

const pristineVariable = 'TEST_PRISTINE_CLUSTER';

/**
 * Initializes a cluster that every cluster of the run is copied from: initdb takes 1 s of CPU.
 * Returns a function that removes it.
 */
export function preparePristineCluster(): () => void {
  const folder = temporaryFolder('pristine', clusterParent());
  const account = serverAccount();
  process.env[pristineVariable] = prepareCluster(folder, findBinaries(account), account);
  return () => rmSync(folder, { recursive: true, force: true });
}

/**
 * Starts a cluster: `durable` on disk, otherwise in memory where there is room, whose data after a
 * kill -9 of the machine is gone.
 */
export async function startCluster(options: {
  durable: boolean;
  settings?: Record<string, string>;
}): Promise<TestCluster> {
  const dataDir = temporaryFolder('cluster', options.durable ? tmpdir() : clusterParent());
  const pristine = process.env[pristineVariable];
  if (pristine !== undefined) execFileSync('cp', ['-a', pristine, join(dataDir, 'postgres')]);
  const server = await startEmbedded({ dataDir, explicit: false, log: quietLog, ...options });
  const end = () => {
    // A test may have killed the server that was started here and have started another.
    const lock = join(server.dataDir, 'postgres/postmaster.pid');
    const pid = existsSync(lock) ? Number(readFileSync(lock, 'utf8').split('\n', 1)[0]) : 0;
    if (existsSync(`/proc/${pid}`)) killAll(pid);
    // A killed server may go on writing for a moment.
    for (const folder of [dataDir, server.dataDir]) rmSync(folder, { recursive: true, force: true, maxRetries: 20 });
  };
  const ended = endWithFile(end);
  return {
    ...server,
    url: (database) => `postgres://sendbatch@localhost/${database}?host=${encodeURIComponent(server.host)}`,
    async stop() {
      await server.stop();
      ended();
      // Proceeds when the sessions of a starved machine have not ended within one second.
      end();
    },
  };
}

/** Kills the postmaster and its backends, which would otherwise finish their work. */
export function killAll(pid: number): void {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  for (const each of [pid, ...children]) {
    try {
      process.kill(each, 'SIGKILL');
    } catch (error) {
      // The backend has ended by itself, as all do when they notice that the postmaster is gone.
      if ((error as { code?: string }).code !== 'ESRCH') throw error;
    }
  }
}
