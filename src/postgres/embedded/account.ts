import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

/** The embedded PostgreSQL cannot run here; the message is one line with the way out. */
export class EmbeddedUnavailable extends Error {}

/** The account that runs the server. PostgreSQL refuses root, so that root uses another account. */
export interface Account {
  /** Undefined: the user of this process. */
  readonly ids: { readonly uid: number; readonly gid: number } | undefined;
  readonly name: string;
}

/**
 * The account for this process: itself, or when it is root `postgres` if there is one, else
 * `nobody`.
 */
export function serverAccount(): Account {
  if (process.getuid?.() !== 0) return { ids: undefined, name: 'this user' };
  for (const name of ['postgres', 'nobody']) {
    const ids = idsOf(name);
    if (ids !== undefined) return { ids, name };
  }
  throw new EmbeddedUnavailable(
    'PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as: start sendbatch as another user, or set DATABASE_URL',
  );
}

function idsOf(name: string): { uid: number; gid: number } | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((each) => each.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

/**
 * The nearest folder at or above `path` that the account may not enter; undefined if it can reach
 * `path`.
 */
export function barrier(path: string, { ids }: Account): string | undefined {
  if (ids === undefined) return undefined;
  const blocking: string[] = [];
  for (let folder = path; ; folder = dirname(folder)) {
    const stat = statSync(folder, { throwIfNoEntry: false });
    if (stat?.isDirectory()) {
      const shift = stat.uid === ids.uid ? 6 : stat.gid === ids.gid ? 3 : 0;
      if (((stat.mode >> shift) & 1) === 0) blocking.push(folder);
    }
    if (dirname(folder) === folder) return blocking.at(-1);
  }
}
