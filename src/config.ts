import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import convict from 'convict';

/** A setting that is missing, odd or impossible: its message is one line for the one who set it. */
export class ConfigError extends Error {}

convict.addFormats({
  milliseconds: { validate: inRange(1, 24 * 3600_000, 'milliseconds'), coerce: Number },
  workers: { validate: inRange(1, 64, 'a count'), coerce: Number },
  lanes: { validate: inRange(0, 64, 'a count'), coerce: Number },
  count: { validate: inRange(1, 10_000, 'a count'), coerce: Number },
  'database-url': {
    validate: (value: unknown) => {
      if (value !== '' && !/^postgres(ql)?:\/\//.test(String(value)))
        throw new Error('must start with postgres:// or postgresql://');
    },
  },
  origins: {
    validate: (value: unknown) => {
      for (const origin of splitList(String(value)))
        if (origin !== '*' && (!URL.canParse(origin) || new URL(origin).origin !== origin))
          throw new Error(`${JSON.stringify(origin)} is not an origin such as https://app.example.com`);
    },
  },
});

/** Each setting: its meaning, default, unit and bounds. Nothing else reads the environment. */
const schema = {
  host: {
    doc: 'Address to listen on. Anything but loopback needs authentication, or AUTH=off.',
    format: String,
    default: '127.0.0.1',
    env: 'HOST',
  },
  port: { doc: 'Port for every protocol; 0 = any free one.', format: 'port', default: 5001, env: 'PORT' },
  tlsKey: {
    doc: 'File with the TLS private key (PEM). With TLS_CERT, the port speaks TLS.',
    format: String,
    default: '',
    env: 'TLS_KEY',
  },
  tlsCert: { doc: 'File with the TLS certificate chain (PEM).', format: String, default: '', env: 'TLS_CERT' },
  workers: {
    doc: 'Processes that share the port, each an instance with its own lanes and connections.',
    format: 'workers',
    default: 1,
    env: 'WORKERS',
  },
  auth: {
    doc: 'off = every caller is trusted, on any address. Unset: only callers on loopback, and only there it starts.',
    format: ['', 'off'],
    default: '',
    env: 'AUTH',
  },
  allowedOrigins: {
    doc: 'Origins of web pages that may call, separated by commas, or *. Unset: the service’s own and loopback origins.',
    format: 'origins',
    default: '',
    env: 'ALLOWED_ORIGINS',
  },
  databaseUrl: {
    doc: 'PostgreSQL 15 or later, as a libpq URL. Unset: the service starts its own.',
    format: 'database-url',
    default: '',
    env: 'DATABASE_URL',
    sensitive: true,
  },
  systemUids: {
    doc: 'Senders that every channel takes messages from, separated by commas; * = all senders: no channel rule is asked. More can be added by AddSystemUids.',
    format: String,
    default: 'system,____system',
    env: 'SYSTEM_UIDS',
  },
  personAllowlist: {
    doc: 'on = a person message needs a place on the receiver’s allowlist, or allow_stranger; off = only the denylist counts.',
    format: ['on', 'off'],
    default: 'off',
    env: 'PERSON_ALLOWLIST',
  },
  dataDir: {
    doc: 'Folder of the embedded PostgreSQL. Unset: .sendbatch where the service is started.',
    format: String,
    default: '',
    env: 'DATA_DIR',
  },
  lanes: {
    doc: 'Lanes of group commit, each with a connection that writes; 0 = one transaction a batch, on the other connections.',
    format: 'lanes',
    default: 4,
    env: 'LANES',
  },
  poolSize: {
    doc: 'Connections to the database at most, besides those of the lanes.',
    format: 'count',
    default: 10,
    env: 'POOL_SIZE',
  },
  lockTimeout: {
    doc: 'Milliseconds that a send waits for a channel’s lock before STORE_BUSY.',
    format: 'milliseconds',
    default: 5000,
    env: 'LOCK_TIMEOUT',
  },
  statementTimeout: {
    doc: 'Milliseconds that one SQL statement may take before STORE_BUSY.',
    format: 'milliseconds',
    default: 10_000,
    env: 'STATEMENT_TIMEOUT',
  },
  requestTimeout: {
    doc: 'Milliseconds that a call may take; a longer deadline of the caller’s is cut to it.',
    format: 'milliseconds',
    default: 30_000,
    env: 'REQUEST_TIMEOUT',
  },
  shutdownGrace: {
    doc: 'Milliseconds that calls in flight have to finish after SIGTERM.',
    format: 'milliseconds',
    default: 10_000,
    env: 'SHUTDOWN_GRACE',
  },
  logLevel: {
    doc: 'The least severe lines to log.',
    format: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    default: 'info',
    env: 'LOG_LEVEL',
  },
  logFormat: {
    doc: 'json, pretty, or auto: pretty on a terminal.',
    format: ['auto', 'json', 'pretty'],
    default: 'auto',
    env: 'LOG_FORMAT',
  },
} as const;

/** The settings as the rest of the service sees them. */
export interface Config {
  readonly host: string;
  readonly port: number;
  readonly tls: { readonly key: string; readonly cert: string } | undefined;
  /** Nobody has to show a credential. */
  readonly open: boolean;
  readonly allowedOrigins: 'default' | readonly string[];
  readonly database: { readonly url: string } | { readonly dataDir: string; readonly explicit: boolean };
  readonly systemUids: 'all' | readonly string[];
  readonly personAllowlist: boolean;
  readonly workers: number;
  readonly lanes: number;
  readonly poolSize: number;
  readonly lockTimeoutMs: number;
  readonly statementTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly shutdownGraceMs: number;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'pretty';
}

/** Reads the environment; throws a ConfigError that names the setting. */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const settings = convict(schema as convict.Schema<Settings>, { env, args: [] });
  try {
    settings.validate({ allowed: 'strict' });
  } catch (error) {
    throw new ConfigError(inEnvironmentWords(error));
  }
  const at = settings.getProperties();
  const open = at.auth === 'off' || isLoopback(at.host);
  if (!open) {
    throw new ConfigError(
      `HOST=${at.host} is not a loopback address and no authentication is configured: set HOST=127.0.0.1, or AUTH=off if every caller that can reach it is trusted`,
    );
  }
  return {
    host: at.host,
    port: at.port,
    tls: tlsOf(at.tlsKey, at.tlsCert),
    open: at.auth !== 'off',
    allowedOrigins: at.allowedOrigins === '' ? 'default' : splitList(at.allowedOrigins),
    database:
      at.databaseUrl === ''
        ? { dataDir: resolve(at.dataDir || '.sendbatch'), explicit: at.dataDir !== '' }
        : { url: at.databaseUrl },
    systemUids: at.systemUids.trim() === '*' ? 'all' : splitList(at.systemUids),
    personAllowlist: at.personAllowlist === 'on',
    workers: at.workers,
    lanes: at.lanes,
    poolSize: at.poolSize,
    lockTimeoutMs: at.lockTimeout,
    statementTimeoutMs: at.statementTimeout,
    requestTimeoutMs: at.requestTimeout,
    shutdownGraceMs: at.shutdownGrace,
    logLevel: at.logLevel,
    logFormat: at.logFormat,
  };
}

type Settings = {
  [K in keyof typeof schema]: K extends 'port' | 'poolSize' | 'lanes' | 'workers' | `${string}Timeout` | 'shutdownGrace'
    ? number
    : K extends 'logFormat'
      ? 'auto' | 'json' | 'pretty'
      : string;
};

/** Each setting as one line of a manual: name, default, meaning. */
export function describeSettings(): { name: string; default: string; doc: string }[] {
  return Object.values(schema).map((setting) => ({
    name: setting.env,
    default: String(setting.default),
    doc: setting.doc,
  }));
}

function tlsOf(key: string, cert: string): Config['tls'] {
  if (key === '' && cert === '') return undefined;
  if (key === '' || cert === '') throw new ConfigError('TLS_KEY and TLS_CERT must be set together');
  return { key: readSecret('TLS_KEY', key), cert: readSecret('TLS_CERT', cert) };
}

function readSecret(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new ConfigError(`${name}=${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

function splitList(text: string): string[] {
  return text
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '');
}

function inRange(least: number, most: number, what: string): (value: unknown) => void {
  return (value) => {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most)
      throw new Error(`must be ${what} from ${least} to ${most}`);
  };
}

/** convict speaks of its own paths; the one who set PORT knows PORT. */
function inEnvironmentWords(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text
    .split('\n')
    .map((line) => {
      const name = /^\s*([A-Za-z]+):/.exec(line)?.[1];
      const setting = Object.entries(schema).find(([path]) => path === name);
      return setting === undefined ? line.trim() : line.trim().replace(`${name}:`, `${setting[1].env}:`);
    })
    .join('; ');
}
