/**
 * The settings of the service.
 *
 * Entry points: `loadConfig` (a checked `Config`), `settingsInForce` and `describeSettings` (for
 * printing), `callerDefaults` (for commands that call a service).
 *
 * Files: settings.ts (the table of settings), formats.ts (formats and bounds), sources.ts
 * (environment, .env, JSON file, secrets in files), tls.ts (checks of certificates).
 *
 * Invariants:
 *  1. The environment is read here only; the rest of the service gets a `Config`.
 *  2. An invalid setting is a ConfigError of one line that names the setting and its source, never
 *     a secret value.
 *  3. A name that can only be meant for this service and is not a setting is refused: a misspelt
 *     limit must not be ignored.
 */
import { resolve } from 'node:path';
import convict from 'convict';
import { describeFault, isScope, type Quota, quotasOf, retentionOf, type Scope, splitList } from './formats.ts';
import { describeSettings, type Settings, type SettingWords, schema } from './settings.ts';
import { type Gathered, gather, readDotenv, type SecretFile } from './sources.ts';
import { ConfigError, readSettingsFile, visible } from './text.ts';
import { checkTls } from './tls.ts';

export { describeSettings } from './settings.ts';
export { ConfigError } from './text.ts';

/** The checked settings, in the units of the service. */
export interface Config {
  readonly host: string;
  readonly port: number;
  readonly tls: Tls | undefined;
  /** Files that are read again while the service runs. */
  readonly reload: Reload;
  /** Whether every call needs a credential. */
  readonly asks: boolean;
  /** Whether no call needs a credential because only loopback is served. */
  readonly open: boolean;
  /** How credentials are checked. */
  readonly identity: Identity;
  /** Whether the console is served at /console. */
  readonly console: boolean;
  readonly allowedOrigins: 'default' | readonly string[];
  readonly database: { readonly url: string } | { readonly dataDir: string; readonly explicit: boolean };
  readonly databaseWaitMs: number;
  readonly overloadWaitMs: number;
  readonly rates: {
    readonly caller: readonly Quota[];
    readonly sender: readonly Quota[];
    readonly channel: readonly Quota[];
    readonly store: 'memory' | 'postgres';
  };
  readonly moderationHook:
    | { readonly url: string; readonly timeoutMs: number; readonly onFailure: 'open' | 'closed' }
    | undefined;
  readonly webhooks: {
    /** The webhook of WEBHOOK_URL. */
    readonly settings:
      | { readonly url: string; readonly secret: string; readonly format: 'standard' | 'legacy' }
      | undefined;
    readonly allowPrivate: boolean;
    readonly timeoutMs: number;
    /** Overrides of the retry schedule, for tests. */
    readonly retrySchedule?: {
      readonly [name in 'firstMs' | 'maxMs' | 'maxAttempts' | 'breakMs' | 'maxBreakMs']?: number;
    };
  };
  /** Connection for LISTEN. Unset: the database. */
  readonly listenUrl: string | undefined;
  readonly retention: readonly { readonly channelType: number; readonly days: number }[];
  readonly recallWindowMs: number;
  /** Days that replaced contents are kept; 0: not at all. */
  readonly recallKeepDays: number;
  /** Whether a recall also sends the command of TangSengDaoDao. */
  readonly recallLegacyCommand: boolean;
  readonly deliveryCursors: boolean;
  readonly sweepIntervalMs: number;
  readonly batchConcurrency: number;
  readonly batchRetentionDays: number;
  readonly systemUids: 'all' | readonly string[];
  readonly personAllowlist: boolean;
  readonly workers: number;
  /** Whether a start applies pending migrations, or fails. */
  readonly migrate: 'auto' | 'check';
  readonly lanes: number;
  readonly shards: number;
  readonly poolSize: number;
  readonly lockTimeoutMs: number;
  readonly statementTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly drainDelayMs: number;
  /** Override of the timeout of probes, for tests on a slow machine. */
  readonly probeMs?: number;
  /** Override of the length of an interval of the overview, for tests. */
  readonly overviewEveryMs?: number;
  readonly shutdownGraceMs: number;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'pretty';
  /** Logs each call. */
  readonly accessLog: boolean;
  /** /metrics needs no credential. */
  readonly metricsOpen: boolean;
  /** Unset: no traces. */
  readonly traces:
    | {
        readonly url: string;
        readonly protocol: 'http/protobuf' | 'http/json';
        readonly sampler: string;
        readonly ratio: number;
      }
    | undefined;
  /** The settings as they were read, secrets masked. */
  readonly settings: readonly SettingInForce[];
  /** Problems that do not prevent a start, for the log. */
  readonly warnings: readonly string[];
}

interface Tls {
  readonly key: string;
  readonly cert: string;
  readonly clientCa?: string;
}

/**
 * Settings whose files are read again when they change, so that certificates and secrets rotate
 * without a restart.
 */
export interface Reload {
  readonly tls?: Reloadable<{ readonly tls: Tls; readonly warnings: readonly string[] }>;
  readonly tokenSecrets?: Reloadable<readonly Uint8Array[]>;
  /** Override of the interval between two checks, for tests. */
  readonly everyMs?: number;
}

/** A value that is read from files. */
export interface Reloadable<T> {
  readonly files: readonly string[];
  /** Reads and checks the files; throws a ConfigError. */
  readonly read: () => T;
}

interface Identity {
  readonly tokens:
    | {
        readonly key: { readonly secrets: { current: readonly Uint8Array[] } } | { readonly jwksUrl: string };
        readonly algorithms: readonly string[];
        readonly issuer: string;
        readonly audience: string;
        readonly scopes: readonly Scope[];
      }
    | undefined;
  readonly certificateScopes: readonly Scope[] | undefined;
}

/**
 * URL and credential for commands that call a service: SENDBATCH_URL and SENDBATCH_TOKEN, in the
 * environment or `.env`.
 */
export function callerDefaults(env: NodeJS.ProcessEnv = process.env): { url: string; token: string } {
  const at = { ...readDotenv(process.cwd()), ...env };
  return { url: at.SENDBATCH_URL ?? 'http://127.0.0.1:5001', token: at.SENDBATCH_TOKEN ?? '' };
}

/** A setting with its value (masked if secret) and the source of the value. */
export interface SettingInForce extends SettingWords {
  readonly value: string;
  /** Whether it has a value: that of a secret is not shown. */
  readonly isSet: boolean;
  readonly source: string;
}

/** Every setting with its value in force, valid or not. */
export function settingsInForce(env: NodeJS.ProcessEnv = process.env): SettingInForce[] {
  return toSettingsInForce(gather(env, folderOf(env)));
}

function toSettingsInForce({ values, sources }: Pick<Gathered, 'values' | 'sources'>): SettingInForce[] {
  return describeSettings().map((setting) => {
    const value = values[setting.name] ?? setting.default;
    const isSet = value !== '';
    return {
      ...setting,
      value: visible(withoutUser(setting.sensitive && isSet ? '(set, not shown)' : value)),
      isSet,
      source: sources[setting.name] ?? 'default',
    };
  });
}

/** A URL may contain credentials before its host: they are masked. */
function withoutUser(text: string): string {
  return text.replace(/^(https?:\/\/)[^/?#]*@/, '$1(not shown)@');
}

/**
 * Reads the environment, `.env` and the file of SENDBATCH_CONFIG; throws a ConfigError that names
 * the setting. With `env`, only that is read.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const { values, sources, files, warnings } = gather(env, folderOf(env));
  const settings = convict(schema as convict.Schema<Settings>, { env: values, args: [] });
  try {
    settings.validate({ allowed: 'strict' });
  } catch (error) {
    throw new ConfigError(describeFaults(error, sources));
  }
  const at = settings.getProperties();
  const tokens = tokensOf(at);
  if (at.auth === 'off' && (tokens !== undefined || at.tlsClientCa !== ''))
    throw new ConfigError('AUTH=off must not be set together with JWT_… or TLS_CLIENT_CA: unset one of them');
  const asks = at.auth === 'on' || tokens !== undefined || at.tlsClientCa !== '';
  if (!asks && at.auth !== 'off' && !isLoopback(at.host)) {
    throw new ConfigError(
      `HOST=${at.host} is not a loopback address, and no authentication is configured: set AUTH=on and create a key (npm run cli -- key create), or set HOST=127.0.0.1, or set AUTH=off if every caller that can reach this address is trusted`,
    );
  }
  const readTls = () => tlsOf(at.tlsKey, at.tlsCert, at.tlsClientCa);
  const tls = readTls();
  return {
    host: at.host,
    port: at.port,
    tls: tls?.tls,
    reload: {
      ...(tls === undefined
        ? {}
        : {
            tls: {
              files: [at.tlsKey, at.tlsCert, at.tlsClientCa].filter((path) => path !== ''),
              read: () => readTls() ?? tls,
            },
          }),
      ...tokenSecretsReload(at, files),
    },
    asks,
    open: !asks && at.auth !== 'off',
    identity: {
      tokens,
      certificateScopes: at.tlsClientCa === '' ? undefined : splitList(at.tlsClientScopes).filter(isScope),
    },
    console: at.console === 'on',
    allowedOrigins: at.allowedOrigins === '' ? 'default' : splitList(at.allowedOrigins),
    database:
      at.databaseUrl === ''
        ? { dataDir: resolve(at.dataDir || '.sendbatch'), explicit: at.dataDir !== '' }
        : { url: at.databaseUrl },
    databaseWaitMs: at.databaseWait,
    overloadWaitMs: at.overloadWait,
    rates: {
      caller: quotasOf(at.rateCaller),
      sender: quotasOf(at.rateSender),
      channel: quotasOf(at.rateChannel),
      store: at.rateStore,
    },
    moderationHook:
      at.moderationHookUrl === ''
        ? undefined
        : {
            url: at.moderationHookUrl,
            timeoutMs: at.moderationHookTimeout,
            onFailure: at.moderationHookFailure,
          },
    webhooks: {
      settings: webhookOf(at),
      allowPrivate: at.webhookAllowPrivate === 'on',
      timeoutMs: at.webhookTimeout,
    },
    listenUrl: at.listenDatabaseUrl === '' ? undefined : at.listenDatabaseUrl,
    retention: retentionOf(at.retention),
    recallWindowMs: at.recallWindow,
    recallKeepDays: at.recallKeepDays,
    recallLegacyCommand: at.recallLegacyCommand === 'on',
    deliveryCursors: at.deliveryCursors === 'on',
    sweepIntervalMs: at.sweepInterval,
    batchConcurrency: at.batchConcurrency,
    batchRetentionDays: at.batchRetention,
    systemUids: at.systemUids.trim() === '*' ? 'all' : splitList(at.systemUids),
    personAllowlist: at.personAllowlist === 'on',
    workers: at.workers,
    migrate: at.migrate,
    lanes: at.lanes,
    shards: Number(at.shards),
    poolSize: at.poolSize,
    lockTimeoutMs: at.lockTimeout,
    statementTimeoutMs: at.statementTimeout,
    requestTimeoutMs: at.requestTimeout,
    drainDelayMs: at.drainDelay,
    shutdownGraceMs: at.shutdownGrace,
    logLevel: at.logLevel,
    logFormat: at.logFormat,
    accessLog: at.accessLog === 'on',
    metricsOpen: at.metrics === 'open',
    traces: tracesOf(at),
    settings: toSettingsInForce({ values, sources }),
    warnings: [...warnings, ...(tls?.warnings ?? [])],
  };
}

function tlsOf(key: string, cert: string, clientCa: string): { tls: Tls; warnings: string[] } | undefined {
  if (key === '' && cert === '') {
    if (clientCa !== '') throw new ConfigError('TLS_CLIENT_CA requires TLS_KEY and TLS_CERT');
    return undefined;
  }
  if (key === '' || cert === '') throw new ConfigError('TLS_KEY and TLS_CERT must be set together');
  const fileOf = (name: string, path: string) => ({ name: `${name}=${path}`, text: readSecret(name, path) });
  const files = {
    key: fileOf('TLS_KEY', key),
    cert: fileOf('TLS_CERT', cert),
    clientCa: clientCa === '' ? undefined : fileOf('TLS_CLIENT_CA', clientCa),
  };
  const warnings = checkTls(files);
  const { text: ca } = files.clientCa ?? {};
  return {
    tls: { key: files.key.text, cert: files.cert.text, ...(ca === undefined ? {} : { clientCa: ca }) },
    warnings,
  };
}

function webhookOf(at: Settings): Config['webhooks']['settings'] {
  const { webhookUrl: url, webhookSecret: secret, webhookFormat: format } = at;
  if (url === '') {
    if (secret !== '') throw new ConfigError('WEBHOOK_SECRET requires WEBHOOK_URL');
    return undefined;
  }
  if (secret === '' && format === 'standard')
    throw new ConfigError(
      'WEBHOOK_URL requires WEBHOOK_SECRET, with which the receiver verifies signatures: create one with echo whsec_$(openssl rand -base64 32)',
    );
  return { url, secret, format };
}

/** RFC 7518, section 3.2: a key of HS256 is at least as long as its hash. */
const secretBytes = 32;

function tokensOf(at: Settings): Identity['tokens'] {
  const { jwtSecret, jwtSecretPrevious, jwtJwksUrl, jwtIssuer: issuer, jwtAudience: audience } = at;
  if (jwtSecret === '' && jwtSecretPrevious !== '') throw new ConfigError('JWT_SECRET_PREVIOUS requires JWT_SECRET');
  if (jwtSecret === '' && jwtJwksUrl === '') return undefined;
  if (jwtSecret !== '' && jwtJwksUrl !== '')
    throw new ConfigError('JWT_SECRET and JWT_JWKS_URL must not be set together');
  if (issuer === '' || audience === '')
    throw new ConfigError(
      'tokens require JWT_ISSUER and JWT_AUDIENCE: a token issued for another service must not be accepted',
    );
  const scopes = splitList(at.jwtScopes).filter(isScope);
  if (jwtSecret !== '') {
    const secrets = { current: tokenSecretsOf(jwtSecret, jwtSecretPrevious) };
    return { key: { secrets }, algorithms: ['HS256'], issuer, audience, scopes };
  }
  const algorithms = splitList(at.jwtAlgorithms);
  if (algorithms.length === 0 || algorithms.some((name) => !/^(RS|PS|ES)(256|384|512)$|^EdDSA$/.test(name)))
    throw new ConfigError('JWT_ALGORITHMS must name public-key signatures such as RS256, ES256, EdDSA');
  return { key: { jwksUrl: jwtJwksUrl }, algorithms, issuer, audience, scopes };
}

/** The accepted secrets: the current one, and during a rotation the previous one. */
function tokenSecretsOf(secret: string, previous: string): Uint8Array[] {
  return [
    tokenSecretOf('JWT_SECRET', secret),
    ...(previous === '' ? [] : [tokenSecretOf('JWT_SECRET_PREVIOUS', previous)]),
  ];
}

function tokenSecretOf(name: string, text: string): Uint8Array {
  const secret = Buffer.from(text);
  if (secret.length < secretBytes)
    throw new ConfigError(`${name} must have at least ${secretBytes} bytes, not ${secret.length}`);
  return secret;
}

/** Empty unless a token secret is in a file: the environment of a running process cannot change. */
function tokenSecretsReload(at: Settings, files: Readonly<Record<string, SecretFile>>): Pick<Reload, 'tokenSecrets'> {
  const { JWT_SECRET: secret, JWT_SECRET_PREVIOUS: previous } = files;
  if (at.jwtSecret === '' || (secret === undefined && previous === undefined)) return {};
  return {
    tokenSecrets: {
      files: [secret, previous].flatMap((file) => (file === undefined ? [] : [file.path])),
      read: () => tokenSecretsOf(secret?.read() ?? at.jwtSecret, previous?.read() ?? at.jwtSecretPrevious),
    },
  };
}

/**
 * From OpenTelemetry's own variables; the exporter itself reads the others (headers, timeout,
 * compression).
 */
function tracesOf(at: Settings): Config['traces'] {
  const named = at.otlpTracesEndpoint !== '' || at.otlpEndpoint !== '';
  if (at.tracesExporter === 'none' || (at.tracesExporter === '' && !named)) return undefined;
  const base = at.otlpEndpoint === '' ? 'http://localhost:4318' : at.otlpEndpoint;
  return {
    url: at.otlpTracesEndpoint === '' ? `${base.replace(/\/$/, '')}/v1/traces` : at.otlpTracesEndpoint,
    protocol: at.otlpProtocol,
    sampler: at.tracesSampler,
    ratio: Number(at.tracesSamplerArg),
  };
}

function readSecret(name: string, path: string): string {
  return readSettingsFile(path, `${name}=${path}`);
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** `.env` is read only for the environment of this process, from its working folder. */
function folderOf(env: NodeJS.ProcessEnv): string | undefined {
  return env === process.env ? process.cwd() : undefined;
}

/** Replaces convict's property paths by the names of settings, with their source. */
function describeFaults(error: unknown, sources: Readonly<Record<string, string>>): string {
  const text = error instanceof Error ? error.message : String(error);
  return text
    .split('\n')
    .map((line) => {
      const [, path = '', rest] = /^\s*([A-Za-z]+): (.*)$/.exec(line) ?? [];
      const name = Object.entries(schema).find(([each]) => each === path)?.[1].env;
      if (name === undefined) return line.trim();
      const source = sources[name] ?? '';
      return `${name}: ${describeFault(rest ?? '')}${source === 'the environment' ? '' : ` (${source})`}`;
    })
    .join('; ');
}
