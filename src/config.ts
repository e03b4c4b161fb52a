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
  scopes: {
    validate: (value: unknown) => {
      for (const scope of splitList(String(value)))
        if (!isScope(scope)) throw new Error(`${JSON.stringify(scope)} is not a scope: send, read, admin`);
    },
  },
  quotas: {
    validate: (value: unknown) => {
      for (const quota of String(value)
        .split(/[\s,]+/)
        .filter(Boolean))
        if (quotaOf(quota) === undefined)
          throw new Error(
            `${JSON.stringify(quota)} is not a quota such as 100/1s: 1 to 10^9 messages in 1 to 86400 seconds`,
          );
    },
  },
  'web-url': {
    validate: (value: unknown) => {
      if (value !== '' && !(URL.canParse(String(value)) && /^https?:$/.test(new URL(String(value)).protocol)))
        throw new Error('must be an http or https URL');
    },
  },
  retention: {
    validate: (value: unknown) => {
      for (const part of String(value)
        .split(/[\s,]+/)
        .filter(Boolean))
        if (!/^([1-9]|1[0-2])=[1-9]\d{0,4}$/.test(part))
          throw new Error(`${JSON.stringify(part)} is not a channel type and its days, such as 2=365`);
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
    doc: 'on = every call needs a credential: an API key, a JWT or a client certificate. off = every caller is trusted, on any address. Unset: on when JWT_… or TLS_CLIENT_CA is set, else callers on loopback are trusted, and only there it starts.',
    format: ['', 'on', 'off'],
    default: '',
    env: 'AUTH',
  },
  jwtSecret: {
    doc: 'Secret of HS256 tokens, at least 32 bytes; their subject is the uid.',
    format: String,
    default: '',
    env: 'JWT_SECRET',
    sensitive: true,
  },
  jwtJwksUrl: {
    doc: 'URL of the issuer’s public keys (JWKS), instead of JWT_SECRET.',
    format: String,
    default: '',
    env: 'JWT_JWKS_URL',
  },
  jwtAlgorithms: {
    doc: 'Signatures that are taken with JWT_JWKS_URL, separated by commas.',
    format: String,
    default: 'RS256,ES256,EdDSA',
    env: 'JWT_ALGORITHMS',
  },
  jwtIssuer: { doc: 'The issuer (iss) that tokens must name.', format: String, default: '', env: 'JWT_ISSUER' },
  jwtAudience: { doc: 'The audience (aud) that tokens must name.', format: String, default: '', env: 'JWT_AUDIENCE' },
  tlsClientCa: {
    doc: 'File with the authorities (PEM) whose client certificates are taken as credentials; the common name is the service.',
    format: String,
    default: '',
    env: 'TLS_CLIENT_CA',
  },
  tlsClientScopes: {
    doc: 'Scopes of callers with a client certificate: send, read, admin.',
    format: 'scopes',
    default: 'send,read',
    env: 'TLS_CLIENT_SCOPES',
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
  databaseWait: {
    doc: 'Milliseconds that a start waits for a database that is not there yet.',
    format: 'milliseconds',
    default: 30_000,
    env: 'DATABASE_WAIT',
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
  rateCaller: {
    doc: 'Messages that a caller may send, as 100/1s 3000/60s: quotas for bursts and for the long run. Unset: no limit. A key may have its own.',
    format: 'quotas',
    default: '',
    env: 'RATE_CALLER',
  },
  rateSender: {
    doc: 'Messages that a from_uid may send, as RATE_CALLER.',
    format: 'quotas',
    default: '',
    env: 'RATE_SENDER',
  },
  rateChannel: {
    doc: 'Messages that a channel takes, as RATE_CALLER.',
    format: 'quotas',
    default: '',
    env: 'RATE_CHANNEL',
  },
  rateStore: {
    doc: 'Where rates are counted: memory = by each process, postgres = by all instances together (2,000 to 4,000 counts a second).',
    format: ['memory', 'postgres'],
    default: 'memory',
    env: 'RATE_STORE',
  },
  moderationHookUrl: {
    doc: 'URL that is asked about each batch after the rules of moderation. Unset: none.',
    format: 'web-url',
    default: '',
    env: 'MODERATION_HOOK_URL',
    sensitive: true,
  },
  moderationHookTimeout: {
    doc: 'Milliseconds that the moderation hook may take.',
    format: 'milliseconds',
    default: 1000,
    env: 'MODERATION_HOOK_TIMEOUT',
  },
  moderationHookFailure: {
    doc: 'What happens when the hook fails: open = everything goes through, closed = nothing does.',
    format: ['open', 'closed'],
    default: 'open',
    env: 'MODERATION_HOOK_FAILURE',
  },
  listenDatabaseUrl: {
    doc: 'PostgreSQL for LISTEN, past a pooler that cannot carry it. Unset: DATABASE_URL.',
    format: 'database-url',
    default: '',
    env: 'LISTEN_DATABASE_URL',
    sensitive: true,
  },
  retention: {
    doc: 'Days that messages are kept, by channel type, as 2=365 9=7. Unset: for ever, but for their own expire.',
    format: 'retention',
    default: '',
    env: 'RETENTION',
  },
  sweepInterval: {
    doc: 'Milliseconds between two sweeps of what has expired.',
    format: 'milliseconds',
    default: 60_000,
    env: 'SWEEP_INTERVAL',
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
  overloadWait: {
    doc: 'Milliseconds that calls may wait inside the service; when they wait longer, so many new ones are refused as OVERLOADED that the rest do not.',
    format: 'milliseconds',
    default: 500,
    env: 'OVERLOAD_WAIT',
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
  readonly tls: { readonly key: string; readonly cert: string; readonly clientCa?: string } | undefined;
  /** Every call needs a credential. */
  readonly asks: boolean;
  /** None does, and only loopback is served. */
  readonly open: boolean;
  /** How credentials are read, when they are asked for. */
  readonly identity: Identity;
  readonly allowedOrigins: 'default' | readonly string[];
  readonly database: { readonly url: string } | { readonly dataDir: string; readonly explicit: boolean };
  readonly databaseWaitMs: number;
  readonly rates: {
    readonly caller: readonly Quota[];
    readonly sender: readonly Quota[];
    readonly channel: readonly Quota[];
    readonly store: 'memory' | 'postgres';
  };
  readonly moderationHook:
    | { readonly url: string; readonly timeoutMs: number; readonly onFailure: 'open' | 'closed' }
    | undefined;
  /** For LISTEN; unset: as the database. */
  readonly listenUrl: string | undefined;
  readonly retention: readonly { readonly channelType: number; readonly days: number }[];
  readonly sweepIntervalMs: number;
  readonly systemUids: 'all' | readonly string[];
  readonly personAllowlist: boolean;
  readonly workers: number;
  readonly lanes: number;
  readonly poolSize: number;
  readonly lockTimeoutMs: number;
  readonly statementTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly overloadWaitMs: number;
  readonly shutdownGraceMs: number;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'pretty';
}

/** A scope of a credential. */
type Scope = 'send' | 'read' | 'admin';

interface Identity {
  readonly tokens:
    | {
        readonly key: { readonly secret: Uint8Array } | { readonly jwksUrl: string };
        readonly algorithms: readonly string[];
        readonly issuer: string;
        readonly audience: string;
      }
    | undefined;
  readonly certificateScopes: readonly Scope[] | undefined;
}

/** Where commands that call a service find it, and their credential: SENDBATCH_URL and SENDBATCH_TOKEN. */
export function callerDefaults(env: NodeJS.ProcessEnv = process.env): { url: string; token: string } {
  return { url: env.SENDBATCH_URL ?? 'http://127.0.0.1:5001', token: env.SENDBATCH_TOKEN ?? '' };
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
  const tokens = tokensOf(at);
  if (at.auth === 'off' && (tokens !== undefined || at.tlsClientCa !== ''))
    throw new ConfigError('AUTH=off and JWT_… or TLS_CLIENT_CA contradict each other: unset one of them');
  const asks = at.auth === 'on' || tokens !== undefined || at.tlsClientCa !== '';
  if (!asks && at.auth !== 'off' && !isLoopback(at.host)) {
    throw new ConfigError(
      `HOST=${at.host} is not a loopback address and no authentication is configured: set AUTH=on and make a key (npm run cli -- key create), or HOST=127.0.0.1, or AUTH=off if every caller that can reach it is trusted`,
    );
  }
  return {
    host: at.host,
    port: at.port,
    tls: tlsOf(at.tlsKey, at.tlsCert, at.tlsClientCa),
    asks,
    open: !asks && at.auth !== 'off',
    identity: {
      tokens,
      certificateScopes: at.tlsClientCa === '' ? undefined : splitList(at.tlsClientScopes).filter(isScope),
    },
    allowedOrigins: at.allowedOrigins === '' ? 'default' : splitList(at.allowedOrigins),
    database:
      at.databaseUrl === ''
        ? { dataDir: resolve(at.dataDir || '.sendbatch'), explicit: at.dataDir !== '' }
        : { url: at.databaseUrl },
    databaseWaitMs: at.databaseWait,
    rates: {
      caller: quotasOf(at.rateCaller),
      sender: quotasOf(at.rateSender),
      channel: quotasOf(at.rateChannel),
      store: at.rateStore === 'postgres' ? 'postgres' : 'memory',
    },
    moderationHook:
      at.moderationHookUrl === ''
        ? undefined
        : {
            url: at.moderationHookUrl,
            timeoutMs: at.moderationHookTimeout,
            onFailure: at.moderationHookFailure === 'closed' ? 'closed' : 'open',
          },
    listenUrl: at.listenDatabaseUrl === '' ? undefined : at.listenDatabaseUrl,
    retention: at.retention
      .split(/[\s,]+/)
      .filter(Boolean)
      .map((part) => {
        const [channelType, days] = part.split('=').map(Number);
        return { channelType: channelType ?? 0, days: days ?? 0 };
      }),
    sweepIntervalMs: at.sweepInterval,
    systemUids: at.systemUids.trim() === '*' ? 'all' : splitList(at.systemUids),
    personAllowlist: at.personAllowlist === 'on',
    workers: at.workers,
    lanes: at.lanes,
    poolSize: at.poolSize,
    lockTimeoutMs: at.lockTimeout,
    statementTimeoutMs: at.statementTimeout,
    requestTimeoutMs: at.requestTimeout,
    overloadWaitMs: at.overloadWait,
    shutdownGraceMs: at.shutdownGrace,
    logLevel: at.logLevel,
    logFormat: at.logFormat,
  };
}

type Settings = {
  [K in keyof typeof schema]: K extends
    | 'port'
    | 'poolSize'
    | 'lanes'
    | 'workers'
    | `${string}Timeout`
    | 'shutdownGrace'
    | 'sweepInterval'
    | 'databaseWait'
    | 'overloadWait'
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

function tlsOf(key: string, cert: string, clientCa: string): Config['tls'] {
  if (key === '' && cert === '') {
    if (clientCa !== '') throw new ConfigError('TLS_CLIENT_CA needs TLS_KEY and TLS_CERT');
    return undefined;
  }
  if (key === '' || cert === '') throw new ConfigError('TLS_KEY and TLS_CERT must be set together');
  return {
    key: readSecret('TLS_KEY', key),
    cert: readSecret('TLS_CERT', cert),
    ...(clientCa === '' ? {} : { clientCa: readSecret('TLS_CLIENT_CA', clientCa) }),
  };
}

/** RFC 7518: a key of HS256 has at least as many bytes as its hash. */
const secretBytes = 32;

function tokensOf(at: Settings): Identity['tokens'] {
  const { jwtSecret, jwtJwksUrl, jwtIssuer: issuer, jwtAudience: audience } = at;
  if (jwtSecret === '' && jwtJwksUrl === '') return undefined;
  if (jwtSecret !== '' && jwtJwksUrl !== '') throw new ConfigError('JWT_SECRET and JWT_JWKS_URL exclude each other');
  if (issuer === '' || audience === '')
    throw new ConfigError(
      'tokens need JWT_ISSUER and JWT_AUDIENCE: one that was made for somebody else must not be taken',
    );
  if (jwtSecret !== '') {
    const secret = Buffer.from(jwtSecret);
    if (secret.length < secretBytes)
      throw new ConfigError(`JWT_SECRET has ${secret.length} bytes, at least ${secretBytes} are needed`);
    return { key: { secret }, algorithms: ['HS256'], issuer, audience };
  }
  if (!URL.canParse(jwtJwksUrl) || !/^https?:$/.test(new URL(jwtJwksUrl).protocol))
    throw new ConfigError('JWT_JWKS_URL must be an http or https URL');
  const algorithms = splitList(at.jwtAlgorithms);
  if (algorithms.length === 0 || algorithms.some((name) => !/^(RS|PS|ES)(256|384|512)$|^EdDSA$/.test(name)))
    throw new ConfigError('JWT_ALGORITHMS must name public-key signatures such as RS256, ES256, EdDSA');
  return { key: { jwksUrl: jwtJwksUrl }, algorithms, issuer, audience };
}

interface Quota {
  readonly points: number;
  readonly seconds: number;
}

function quotaOf(text: string): Quota | undefined {
  const [, points, seconds] = /^([1-9]\d{0,9})\/([1-9]\d{0,4})s$/.exec(text) ?? [];
  const quota = { points: Number(points), seconds: Number(seconds) };
  return quota.points <= 1e9 && quota.seconds <= 86_400 ? quota : undefined;
}

function quotasOf(text: string): Quota[] {
  return text
    .split(/[\s,]+/)
    .filter(Boolean)
    .flatMap((each) => quotaOf(each) ?? []);
}

function isScope(text: string): text is Scope {
  return text === 'send' || text === 'read' || text === 'admin';
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
