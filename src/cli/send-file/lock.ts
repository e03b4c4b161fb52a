import { existsSync, linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { CommandError } from '../usage.ts';

/** Holds a file against a second run on it, until the end of this one; a lock whose holder is gone is taken over. Returns what frees it. */
export function lock(file: string): () => void {
  const mine = `${file}.${process.pid}`;
  // What has this name is of a process that is gone, or a link that somebody has laid: neither is written to.
  rmSync(mine, { force: true });
  writeFileSync(mine, String(process.pid), { flag: 'wx', mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        // A link is made or is not, and it has its content from the first moment on.
        linkSync(mine, file);
        return () => rmSync(file, { force: true });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const holder = holderOf(file);
      if (holder !== undefined && isAlive(holder)) break;
      takeAway(file, holder);
    }
    const holder = holderOf(file) ?? 'another process';
    throw new CommandError(
      `another run is sending this file (process ${holder}): wait for its end; if there is none, remove ${file}`,
    );
  } finally {
    rmSync(mine, { force: true });
  }
}

/** Of two that do this at once one moves the other's fresh lock: whoever moved a lock that is not the dead one's puts it back. */
function takeAway(file: string, dead: number | undefined): void {
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
