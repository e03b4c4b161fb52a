import { existsSync, linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { CommandError } from '../usage.ts';

/**
 * Locks a file against a second run. A lock whose process has ended is taken over. Returns a
 * function that unlocks.
 */
export function lock(file: string): () => void {
  const mine = `${file}.${process.pid}`;
  // An existing file is a leftover of an ended process, or a link planted by another user: it is
  // not written to.
  rmSync(mine, { force: true });
  writeFileSync(mine, String(process.pid), { flag: 'wx', mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        // A hard link is created atomically, with its content.
        linkSync(mine, file);
        return () => rmSync(file, { force: true });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const holder = holderOf(file);
      if (holder !== undefined && isAlive(holder)) break;
      removeStale(file, holder);
    }
    const holder = holderOf(file) ?? 'another process';
    throw new CommandError(
      `another run is sending this file (process ${holder}): wait until it ends; if there is no such process, remove ${file}`,
    );
  } finally {
    rmSync(mine, { force: true });
  }
}

/**
 * Removes a stale lock. If two runs do so at once, one may move the other's new lock; it then puts
 * that lock back.
 */
function removeStale(file: string, dead: number | undefined): void {
  const aside = `${file}.${process.pid}.dead`;
  try {
    renameSync(file, aside);
    if (holderOf(aside) !== dead && !existsSync(file)) linkSync(aside, file);
  } catch (error) {
    if (!['ENOENT', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
  rmSync(aside, { force: true });
}

function holderOf(file: string): number | undefined {
  try {
    const pid = Number(readFileSync(file, 'utf8'));
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
