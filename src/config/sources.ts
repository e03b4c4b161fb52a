import { lstatSync } from 'node:fs';
import { join, resolve } from 'node:path';
import leven, { closestMatch } from 'leven';
import { parseDotenv } from './dotenv.ts';
import { describeSettings } from './settings.ts';
import { ConfigError, readSettingsFile } from './text.ts';

/** The values that were set, by the settings' names, and where each stands in words. */
export interface Gathered {
  readonly values: Readonly<Record<string, string>>;
  readonly sources: Readonly<Record<string, string>>;
  /** The files that secrets were read from, by the settings' names. */
  readonly files: Readonly<Record<string, SecretFile>>;
  /** Names that are nearly a setting's: nobody else's, or a slip. */
  readonly warnings: readonly string[];
}

/** A file that holds one secret. */
export interface SecretFile {
  readonly path: string;
  /** Reads it again; throws a ConfigError. */
  readonly read: () => string;
}

interface Source {
  /** In words: where it is. */
  readonly where: string;
  readonly values: Readonly<Record<string, string | undefined>>;
  /** Holds nothing but settings. */
  readonly own: boolean;
}

const dotenvName = '.env';
const settings = describeSettings();
const names = settings.map((setting) => setting.name);

/** Names that are no settings of the service and ours all the same: where the file is, and what commands that call a service go by. */
const others = ['SENDBATCH_CONFIG', 'SENDBATCH_URL', 'SENDBATCH_TOKEN'];
const fileNames = settings.filter((setting) => setting.sensitive).map((setting) => `${setting.name}_FILE`);
const known = new Set([...names, ...fileNames, ...others]);

/** Whoever sets a name that starts so means this service: one that is no setting is refused wherever it stands. */
const ownPrefix = /^(RATE|JWT|MODERATION|TLS|WEBHOOK|BATCH|SENDBATCH)_/;
/** OpenTelemetry's own names: an empty value is an unset one, as its specification says, and as compose files write it. */
const otel = 'OTEL_';
/** What Kubernetes puts into every container for each Service next to it; one may be called sendbatch. */
const serviceLink = /_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/;

/**
 * Finds the values: in the environment, else in `.env` of the folder, else in the JSON file that SENDBATCH_CONFIG names. A secret can stand in a
 * file of its own, named by `<setting>_FILE`. Throws a ConfigError for a name that is no setting: everywhere in the file, and elsewhere when it
 * starts as only ours do.
 */
export function gather(env: Readonly<Record<string, string | undefined>>, folder: string | undefined): Gathered {
  const dotenv = folder === undefined ? {} : readDotenv(folder);
  const path = env.SENDBATCH_CONFIG || dotenv.SENDBATCH_CONFIG;
  const found: Source[] = [
    ...(path === undefined || path === '' ? [] : [{ where: path, values: readJson(path, folder), own: true }]),
    { where: dotenvName, values: dotenv, own: false },
    { where: 'the environment', values: env, own: false },
  ];
  const values: Record<string, string> = {};
  const sources: Record<string, string> = {};
  const files: Record<string, SecretFile> = {};
  for (const source of found) {
    refuseUnknown(source);
    for (const { name, sensitive } of settings) {
      const value = source.values[name];
      const file = sensitive ? source.values[`${name}_FILE`] : undefined;
      if (file !== undefined && file !== '') {
        if (value !== undefined && value !== '')
          throw new ConfigError(`${name} and ${name}_FILE exclude each other (${source.where})`);
        const read = () => readText(`${name}_FILE`, file, folder).replace(/\r?\n$/, '');
        values[name] = read();
        files[name] = { path: folder === undefined ? file : resolve(folder, file), read };
        sources[name] = `${file}, by ${name}_FILE in ${source.where}`;
      } else if (value !== undefined && !(value === '' && name.startsWith(otel))) {
        // Node reads bytes that are not UTF-8 as this sign: the value that was set is not known any more.
        if (value.includes('\ufffd')) throw new ConfigError(`${name} (${source.where}) is not UTF-8`);
        values[name] = value;
        delete files[name];
        sources[name] = source.where;
      }
    }
  }
  return { values, sources, files, warnings: found.flatMap(nearMisses) };
}

function refuseUnknown({ values, own, where }: Source): void {
  for (const name of Object.keys(values)) {
    if (known.has(name) || (!own && (!ownPrefix.test(name) || isServiceLink(name, values[name])))) continue;
    const nearest = closestMatch(name, [...known], { maxDistance: slipsIn(name) });
    throw new ConfigError(
      `${name} (${where}) is no setting${nearest === undefined ? ';' : `: is ${nearest} meant?`} npm run cli -- config lists them all`,
    );
  }
}

/** Signs that a slip may have got wrong: a third of what follows the prefix, which many names share. SENDBATCH_FOO is not SENDBATCH_URL. */
function slipsIn(name: string): number {
  return Math.min(4, Math.ceil(name.replace(ownPrefix, '').length / 3));
}

function isServiceLink(name: string, value: string | undefined): boolean {
  return serviceLink.test(name) || (name.endsWith('_PORT') && /^(tcp|udp|sctp):\/\//.test(value ?? ''));
}

/** DATABASE_URI may be another program's: it is said, and the start goes on. */
function nearMisses({ values, own, where }: Source): string[] {
  if (own) return [];
  return Object.keys(values).flatMap((name) => {
    if (known.has(name)) return [];
    // Shorter ones are too near to what others set in the environment: LINES is of every shell, and one sign from LANES.
    const leastLetters = where === dotenvName ? 4 : 6;
    const near = names.find(
      (each) => each === name.toUpperCase() || (each.length >= leastLetters && isOneSlip(name, each)),
    );
    return near === undefined ? [] : [`${name} (${where}) is no setting; ${near} is`];
  });
}

/** One sign is wrong, missing or too many, or two neighbors are swapped. */
function isOneSlip(name: string, setting: string): boolean {
  const distance = leven(name, setting, { maxDistance: 3 });
  if (distance !== 2 || name.length !== setting.length) return distance === 1;
  const at = [...name].findIndex((letter, index) => letter !== setting[index]);
  return name[at] === setting[at + 1] && name[at + 1] === setting[at];
}

/** `.env` of a folder; nothing when there is none. A link that leads nowhere is refused: its settings would be dropped in silence. */
export function readDotenv(folder: string): NodeJS.Dict<string> {
  const path = join(folder, dotenvName);
  return isThere(path) ? parseDotenv(readSettingsFile(path, path), path) : {};
}

function isThere(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw new ConfigError(`${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function readJson(path: string, folder: string | undefined): Record<string, string> {
  const text = readText('SENDBATCH_CONFIG', path, folder);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    // JSON.parse quotes what it could not read, which may be a secret.
    throw new ConfigError(`SENDBATCH_CONFIG=${path} is not JSON`);
  }
  if (parsed === null || typeof parsed !== 'object' || Array.isArray(parsed))
    throw new ConfigError(`SENDBATCH_CONFIG=${path} must be one object: {"PORT": 5001, …}`);
  const again = repeatedName(text);
  if (again !== undefined) throw new ConfigError(`SENDBATCH_CONFIG=${path} has ${JSON.stringify(again)} twice`);
  return Object.fromEntries(
    Object.entries(parsed).map(([name, value]) => {
      const said = written(value);
      if (said === undefined) throw new ConfigError(`${name} (${path}) must be a text, a number or a list of them`);
      return [name, said];
    }),
  );
}

/** Of names that are there twice JSON.parse keeps the last. Values are texts, numbers and lists, so that every text before a colon is a name. */
function repeatedName(text: string): string | undefined {
  const keys = [...text.matchAll(/("(?:[^"\\]|\\.)*")\s*(:?)/g)].flatMap(([, name = '', colon]) =>
    colon === '' ? [] : [JSON.parse(name) as string],
  );
  return keys.find((name, index) => keys.indexOf(name) !== index);
}

/** As the environment would have it. */
function written(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  if (Array.isArray(value) && value.every((each) => typeof each === 'string' || typeof each === 'number'))
    return value.join(',');
  return undefined;
}

function readText(name: string, path: string, folder: string | undefined): string {
  return readSettingsFile(folder === undefined ? path : resolve(folder, path), `${name}=${path}`);
}
