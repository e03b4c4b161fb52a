// Adds the integrity that npm omits in package-lock.json for packages of other platforms. Run as
// `npm run lock` after `npm install`.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

interface Entry {
  readonly name?: string;
  readonly version?: string;
  readonly link?: true;
  readonly integrity?: string;
}

const file = join(import.meta.dirname, '../package-lock.json');
const lock = JSON.parse(readFileSync(file, 'utf8')) as { packages: Record<string, Entry> };

let added = 0;
for (const [path, entry] of Object.entries(lock.packages)) {
  const place = path.lastIndexOf('node_modules/');
  if (place === -1 || entry.link || entry.integrity !== undefined) continue;
  const name = `${entry.name ?? path.slice(place + 'node_modules/'.length)}@${entry.version}`;
  const integrity = execFileSync('npm', ['view', name, 'dist.integrity'], { encoding: 'utf8' }).trim();
  if (!integrity.startsWith('sha512-')) throw new Error(`${name}: the registry names no SHA-512 of it`);
  const { version, ...rest } = entry;
  // npm writes the keys in this order.
  lock.packages[path] = { ...(version === undefined ? {} : { version }), integrity, ...rest };
  added++;
}
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`package-lock.json: integrity of ${added} packages added`);
