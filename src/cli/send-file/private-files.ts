import { closeSync, constants, fchmodSync, fstatSync, lstatSync, openSync, readFileSync, rmSync } from 'node:fs';
import { CommandError } from '../usage.ts';

/** Journals and reports hold what messages say: they are their owner's alone. */
const mode = 0o600;

/**
 * Creates a file in place of whatever has its name. A symbolic link is refused, never followed: in a folder that others write to, it could lead to any file of the
 * user's. Devices and pipes, such as /dev/null, are opened as they are.
 */
export function openFresh(file: string): number {
  const found = lstatSync(file, { throwIfNoEntry: false });
  if (found?.isSymbolicLink()) throw linkRefused(file);
  if (found !== undefined && !found.isFile()) return openSync(file, constants.O_WRONLY | constants.O_NOFOLLOW);
  if (found !== undefined) rmSync(file);
  return openSync(file, 'wx', mode);
}

/** Opens a file of an earlier run to go on with it. */
export function openAgain(file: string): number {
  const fd = openOwn(file, constants.O_RDWR);
  fchmodSync(fd, mode);
  return fd;
}

/** Reads a file of an earlier run; undefined: there is none. One that another user has laid there would say what is skipped. */
export function readOwn(file: string): string | undefined {
  let fd: number;
  try {
    fd = openOwn(file, constants.O_RDONLY);
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

function openOwn(file: string, flags: number): number {
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
  throw new CommandError(`${file} belongs to another user (${uid}): it is not read; move it away`);
}

function linkRefused(file: string): CommandError {
  return new CommandError(`${file} is a symbolic link: it is not followed; remove it, or name another file`);
}
