import { execFileSync } from 'node:child_process';
import { chownSync, closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { serverAccount } from '../../src/postgres/embedded/account.ts';
import { temporaryFolder } from './cluster.ts';

/** A file system of a few megabytes that can be filled. */
export interface SmallDisk {
  /** Its folder, which belongs to PostgreSQL's account. */
  readonly folder: string;
  /** Writes a file until no space is left. */
  fill(): void;
  /** Removes that file. */
  free(): void;
  /** Unmounts it. */
  remove(): void;
}

/** Mounts one in memory; returns a string with the reason where that is not possible. */
export function mountSmallDisk(megabytes: number): SmallDisk | string {
  if (process.platform !== 'linux') return 'needs Linux: a file system of its own is mounted';
  const folder = temporaryFolder('small-disk');
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m,mode=0755`, 'tmpfs', folder], { stdio: 'pipe' });
  } catch (error) {
    rmSync(folder, { recursive: true });
    return `needs the right to mount a file system: ${String(error).split('\n', 1)[0]}`;
  }
  const { ids } = serverAccount();
  if (ids !== undefined) chownSync(folder, ids.uid, ids.gid);
  const filler = join(folder, 'filler');
  return {
    folder,
    fill() {
      const file = openSync(filler, 'a');
      try {
        // Smaller and smaller pieces, so that not even a page is left.
        for (let size = 1024 * 1024; size >= 512; size /= 2) writeUntilFull(file, size);
      } finally {
        closeSync(file);
      }
    },
    free: () => rmSync(filler, { force: true }),
    remove() {
      execFileSync('umount', ['-l', folder], { stdio: 'pipe' });
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function writeUntilFull(file: number, size: number): void {
  const piece = Buffer.alloc(size);
  try {
    while (writeSync(file, piece) === size);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOSPC') throw error;
  }
}
