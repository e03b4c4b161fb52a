import { closeSync, constants, fchmodSync, fstatSync, lstatSync, openSync, readFileSync, rmSync } from 'node:fs';
import { CommandError } from '../usage.ts';

/** Journals and reports contain messages, so only their owner can read them. */
const mode = 0o600;

/**
 * Creates a file and replaces an existing one. A symbolic link is refused, not followed: in a
 * folder that others can write to, it could point to any file of the user. Devices and pipes such
 * as /dev/null are opened as they are.
 */
export function createPrivate(file: string): number {
  const found = lstatSync(file, { throwIfNoEntry: false });
  if (found?.isSymbolicLink()) throw linkRefused(file);
  if (found !== undefined && !found.isFile()) return openSync(file, constants.O_WRONLY | constants.O_NOFOLLOW);
  if (found !== undefined) rmSync(file);
  return openSync(file, 'wx', mode);
}

/** Opens a file of an earlier run for reading and writing. */
export function reopenPrivate(file: string): number {
  const fd = openPrivate(file, constants.O_RDWR);
  fchmodSync(fd, mode);
  return fd;
}

/**
 * Reads a file of an earlier run; undefined if there is none. A file of another user is refused: it
 * could decide which lines are skipped.
 */
export function readPrivate(file: string): string | undefined {
  let fd: number;
  try {
    fd = openPrivate(file, constants.O_RDONLY);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

function openPrivate(file: string, flags: number): number {
  let fd: number;
  try {
    fd = openSync(file, flags | constants.O_NOFOLLOW);
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === 'ELOOP' ? linkRefused(file) : error;
  }
  const { uid } = fstatSync(fd);
  const me = process.getuid?.();
  if (me === undefined || uid === me) return fd;
  closeSync(fd);
  throw new CommandError(`${file} belongs to another user (uid ${uid}) and is not read: move it away`);
}

function linkRefused(file: string): CommandError {
  return new CommandError(`${file} is a symbolic link and is not followed: remove it, or choose another file`);
}
