import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { serverAccount } from '../src/postgres/embedded/account.ts';
import type { Server } from './server.ts';

const programs = '/usr/lib/postgresql/15/bin';

/**
 * Starts Debian's PostgreSQL 15 with these settings in its own folder; undefined where it is not
 * installed.
 */
export async function startDebian(settings: Readonly<Record<string, string>>): Promise<Server | undefined> {
  if (!existsSync(join(programs, 'initdb'))) return undefined;
  const { ids } = serverAccount();
  const folder = mkdtempSync(join(tmpdir(), 'sendbatch-debian-'));
  if (ids !== undefined) chownSync(folder, ids.uid, ids.gid);
  const cluster = join(folder, 'data');
  const environment = { PATH: '/usr/bin:/bin', LC_ALL: 'C' };
  const made: SpawnSyncReturns<string> = spawnSync(
    join(programs, 'initdb'),
    ['-D', cluster, '--username=sendbatch', '--auth=trust', '--encoding=UTF8', '--locale=C'],
    { cwd: folder, encoding: 'utf8', env: environment, ...ids },
  );
  if (made.status !== 0) throw new Error(`initdb of PostgreSQL 15: ${made.stderr}`);
  const options = { listen_addresses: '', unix_socket_directories: folder, jit: 'off', ...settings };
  const child = spawn(
    join(programs, 'postgres'),
    ['-D', cluster, ...Object.entries(options).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    { cwd: folder, stdio: 'ignore', env: environment, ...ids },
  );
  const url = (database: string) => `postgres://sendbatch@localhost/${database}?host=${encodeURIComponent(folder)}`;
  await waitFor(url('postgres'));
  return {
    url,
    pid: child.pid ?? 0,
    async stop() {
      const gone = once(child, 'exit');
      child.kill('SIGINT');
      await gone;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function waitFor(url: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    const client = new pg.Client({ connectionString: url });
    try {
      await client.connect();
      await client.query('create database sendbatch');
      return;
    } catch (error) {
      if (tries === 100) throw error;
      await delay(100);
    } finally {
      await client.end().catch(() => {});
    }
  }
}
