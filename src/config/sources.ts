import { lstatSync } from 'node:fs';
import { join, resolve } from 'node:path';
import leven, { closestMatch } from 'leven';
import { parseDotenv } from './dotenv.ts';
import { describeSettings } from './settings.ts';
import { ConfigError, readSettingsFile } from './text.ts';

/** The values by name of the setting, and where each is set. */
export interface Gathered {
  readonly values: Readonly<Record<string, string>>;
  readonly sources: Readonly<Record<string, string>>;
  /** The files that secrets were read from, by the settings' names. */
  readonly files: Readonly<Record<string, SecretFile>>;
  /** Names that resemble a setting: of another program, or misspelt. */
  readonly warnings: readonly string[];
}

/** A file with one secret. */
export interface SecretFile {
  readonly path: string;
  /** Reads it again; throws a ConfigError. */
  readonly read: () => string;
}

interface Source {
  /** For messages. */
  readonly where: string;
  readonly values: Readonly<Record<string, string | undefined>>;
  /** Contains only settings. */
  readonly own: boolean;
}

const dotenvName = '.env';
const settings = describeSettings();
const names = settings.map((setting) => setting.name);

/**
 * Our names that are no settings of the service: the path of the JSON file, and what commands use
 * to call a service.
 */
const others = ['SENDBATCH_CONFIG', 'SENDBATCH_URL', 'SENDBATCH_TOKEN'];
const fileNames = settings.filter((setting) => setting.sensitive).map((setting) => `${setting.name}_FILE`);
const known = new Set([...names, ...fileNames, ...others]);

/**
 * Names with these prefixes are meant for this service: an unknown one is refused in every source.
 */
const ownPrefix = /^(RATE|JWT|MODERATION|TLS|WEBHOOK|BATCH|SENDBATCH)_/;
/** OpenTelemetry's names: an empty value counts as unset, as its specification says. */
const otel = 'OTEL_';
/**
 * Variables that Kubernetes sets in every container for each Service; one may be called sendbatch.
 */
const serviceLink = /_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/;

/**
 * Finds the values: in the environment, else in `.env` of the folder, else in the JSON file named
 * by SENDBATCH_CONFIG. A secret can be in a file of its own, named by `<setting>_FILE`. Throws a
 * ConfigError for an unknown name: any in the JSON file, elsewhere those with one of our prefixes.
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
          throw new ConfigError(`${name} and ${name}_FILE must not be set together (${source.where})`);
        const read = () => readText(`${name}_FILE`, file, folder).replace(/\r?\n$/, '');
        values[name] = read();
        files[name] = { path: folder === undefined ? file : resolve(folder, file), read };
        sources[name] = `${file}, by ${name}_FILE in ${source.where}`;
      } else if (value !== undefined && !(value === '' && name.startsWith(otel))) {
        // Node replaces invalid UTF-8 by this character: the original value is lost.
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
    const nearest = closestMatch(name, [...known], { maxDistance: maxDistanceOf(name) });
    throw new ConfigError(
      `${name} (${where}) is not a setting${nearest === undefined ? ';' : `: did you mean ${nearest}?`} npm run cli -- config lists all settings`,
    );
  }
}

/**
 * Maximum edit distance of a misspelling: a third of the name without its prefix. SENDBATCH_FOO is
 * not SENDBATCH_URL.
 */
function maxDistanceOf(name: string): number {
  return Math.min(4, Math.ceil(name.replace(ownPrefix, '').length / 3));
}

function isServiceLink(name: string, value: string | undefined): boolean {
  return serviceLink.test(name) || (name.endsWith('_PORT') && /^(tcp|udp|sctp):\/\//.test(value ?? ''));
}

/** Similar names are a warning only: DATABASE_URI, say, may belong to another program. */
function nearMisses({ values, own, where }: Source): string[] {
  if (own) return [];
  return Object.keys(values).flatMap((name) => {
    if (known.has(name)) return [];
    // Shorter names resemble common variables: LINES, set by every shell, is one letter from LANES.
    const minLetters = where === dotenvName ? 4 : 6;
    const near = names.find(
      (each) => each === name.toUpperCase() || (each.length >= minLetters && isOneTypo(name, each)),
    );
    return near === undefined ? [] : [`${name} (${where}) is not a setting; ${near} is`];
  });
}

/** One character is wrong, missing or extra, or two adjacent ones are swapped. */
function isOneTypo(name: string, setting: string): boolean {
  const distance = leven(name, setting, { maxDistance: 3 });
  if (distance !== 2 || name.length !== setting.length) return distance === 1;
  const at = [...name].findIndex((letter, index) => letter !== setting[index]);
  return name[at] === setting[at + 1] && name[at + 1] === setting[at];
}

/**
 * The `.env` of a folder; empty if there is none. A dangling link is refused: its settings would be
 * silently ignored.
 */
export function readDotenv(folder: string): NodeJS.Dict<string> {
  const path = join(folder, dotenvName);
  return exists(path) ? parseDotenv(readSettingsFile(path, path), path) : {};
}

function exists(path: string): boolean {
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
    // The message of JSON.parse quotes the text, which may contain a secret.
    throw new ConfigError(`SENDBATCH_CONFIG=${path} is not JSON`);
  }
  if (parsed === null || typeof parsed !== 'object' || Array.isArray(parsed))
    throw new ConfigError(`SENDBATCH_CONFIG=${path} must be a JSON object: {"PORT": 5001, …}`);
  const again = repeatedName(text);
  if (again !== undefined) throw new ConfigError(`SENDBATCH_CONFIG=${path} contains ${JSON.stringify(again)} twice`);
  return Object.fromEntries(
    Object.entries(parsed).map(([name, value]) => {
      const text = textOf(value);
      if (text === undefined)
        throw new ConfigError(`${name} (${path}) must be a string, a number of at most 2^53-1, or a list of them`);
      return [name, text];
    }),
  );
}

/**
 * JSON.parse keeps the last of duplicate names. Values are strings, numbers and lists, so every
 * string before a colon is a name.
 */
function repeatedName(text: string): string | undefined {
  const keys = [...text.matchAll(/("(?:[^"\\]|\\.)*")\s*(:?)/g)].flatMap(([, name = '', colon]) =>
    colon === '' ? [] : [JSON.parse(name) as string],
  );
  return keys.find((name, index) => keys.indexOf(name) !== index);
}

/** Whether JSON.parse keeps all digits of a number: a secret may consist of digits only. */
function isExact(value: unknown): boolean {
  return typeof value === 'number' && (Number.isSafeInteger(value) || !Number.isInteger(value));
}

/** A JSON value as the environment would have it. */
function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return isExact(value) ? String(value) : undefined;
  if (Array.isArray(value) && value.every((each) => typeof each === 'string' || isExact(each))) return value.join(',');
  return undefined;
}

function readText(name: string, path: string, folder: string | undefined): string {
  return readSettingsFile(folder === undefined ? path : resolve(folder, path), `${name}=${path}`);
}
