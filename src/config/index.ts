import { resolve } from 'node:path';
import convict from 'convict';
import { faultInWords, isScope, type Quota, quotasOf, retentionOf, type Scope, splitList } from './formats.ts';
import { describeSettings, type Settings, type SettingWords, schema } from './settings.ts';
import { gather, readDotenv, type SecretFile } from './sources.ts';
import { ConfigError, readSettingsFile, visible } from './text.ts';
import { checkTls } from './tls.ts';

export { describeSettings } from './settings.ts';
export { ConfigError } from './text.ts';

/** The settings as the rest of the service sees them. */
export interface Config {
  readonly host: string;
  readonly port: number;
  readonly tls: Tls | undefined;
  /** What is read again while the service runs. */
  readonly reload: Reload;
  /** Every call needs a credential. */
  readonly asks: boolean;
  /** None does, and only loopback is served. */
  readonly open: boolean;
  /** How credentials are read, when they are asked for. */
  readonly identity: Identity;
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
    /** How failures are tried again, where it is not as usual: tests are in a hurry. */
    readonly pace?: {
      readonly [name in 'firstMs' | 'longestMs' | 'attempts' | 'breakMs' | 'longestBreakMs']?: number;
    };
  };
  /** For LISTEN; unset: as the database. */
  readonly listenUrl: string | undefined;
  readonly retention: readonly { readonly channelType: number; readonly days: number }[];
  readonly sweepIntervalMs: number;
  readonly batchConcurrency: number;
  readonly batchRetentionDays: number;
  readonly systemUids: 'all' | readonly string[];
  readonly personAllowlist: boolean;
  readonly workers: number;
  /** Whether a start applies pending migrations, or refuses. */
  readonly migrate: 'auto' | 'check';
  readonly lanes: number;
  readonly poolSize: number;
  readonly lockTimeoutMs: number;
  readonly statementTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly drainDelayMs: number;
  /** How long a probe waits for the database, where it is not as usual: the machine of a test may stand still. */
  readonly probeMs?: number;
  readonly shutdownGraceMs: number;
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'pretty';
  /** A line for each call. */
  readonly accessLog: boolean;
  /** /metrics asks nobody for a credential. */
  readonly metricsOpen: boolean;
  /** Unset: there are none. */
  readonly traces:
    | {
        readonly url: string;
        readonly protocol: 'http/protobuf' | 'http/json';
        readonly sampler: string;
        readonly ratio: number;
      }
    | undefined;
  /** What is odd about the settings and stops nothing; for the log. */
  readonly warnings: readonly string[];
}

interface Tls {
  readonly key: string;
  readonly cert: string;
  readonly clientCa?: string;
}

/** The settings whose files are read again when they change, so that a certificate or a secret is replaced without a restart. */
export interface Reload {
  readonly tls?: Reloadable<{ readonly tls: Tls; readonly warnings: readonly string[] }>;
  readonly tokenSecrets?: Reloadable<readonly Uint8Array[]>;
  /** Interval between two checks of the files, where tests need a shorter one. */
  readonly everyMs?: number;
}

/** A value that is read from files. */
export interface Reloadable<T> {
  readonly files: readonly string[];
  /** Reads the files and checks what they hold; throws a ConfigError. */
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

/** Where commands that call a service find it, and their credential: SENDBATCH_URL and SENDBATCH_TOKEN, in the environment or `.env`. */
export function callerDefaults(env: NodeJS.ProcessEnv = process.env): { url: string; token: string } {
  const at = { ...readDotenv(process.cwd()), ...env };
  return { url: at.SENDBATCH_URL ?? 'http://127.0.0.1:5001', token: at.SENDBATCH_TOKEN ?? '' };
}

/** One setting as it is now: what it is set to (nothing of a secret), and where. */
export interface SettingInForce extends SettingWords {
  readonly value: string;
  readonly source: string;
}

/** Every setting with the value in force, whether or not that is one that it can have. */
export function settingsInForce(env: NodeJS.ProcessEnv = process.env): SettingInForce[] {
  const { values, sources } = gather(env, folderOf(env));
  return describeSettings().map((setting) => {
    const value = values[setting.name];
    const shown = setting.sensitive && value !== undefined && value !== '' ? '(set, not shown)' : value;
    return {
      ...setting,
      value: visible(withoutUser(shown ?? setting.default)),
      source: sources[setting.name] ?? 'default',
    };
  });
}

/** A URL that is no secret may hold one: what stands before its host is not shown. */
function withoutUser(text: string): string {
  return text.replace(/^(https?:\/\/)[^/?#]*@/, '$1(not shown)@');
}

/** Reads the environment, `.env` and the file of SENDBATCH_CONFIG; throws a ConfigError that names the setting. An environment that is given stands alone. */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const { values, sources, files, warnings } = gather(env, folderOf(env));
  const settings = convict(schema as convict.Schema<Settings>, { env: values, args: [] });
  try {
    settings.validate({ allowed: 'strict' });
  } catch (error) {
    throw new ConfigError(inTheirWords(error, sources));
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
    sweepIntervalMs: at.sweepInterval,
    batchConcurrency: at.batchConcurrency,
    batchRetentionDays: at.batchRetention,
    systemUids: at.systemUids.trim() === '*' ? 'all' : splitList(at.systemUids),
    personAllowlist: at.personAllowlist === 'on',
    workers: at.workers,
    migrate: at.migrate,
    lanes: at.lanes,
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
    warnings: [...warnings, ...(tls?.warnings ?? [])],
  };
}

function tlsOf(key: string, cert: string, clientCa: string): { tls: Tls; warnings: string[] } | undefined {
  if (key === '' && cert === '') {
    if (clientCa !== '') throw new ConfigError('TLS_CLIENT_CA needs TLS_KEY and TLS_CERT');
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
    if (secret !== '') throw new ConfigError('WEBHOOK_SECRET needs WEBHOOK_URL');
    return undefined;
  }
  if (secret === '' && format === 'standard')
    throw new ConfigError(
      'WEBHOOK_URL needs WEBHOOK_SECRET, which its receiver checks signatures with: make one by echo whsec_$(openssl rand -base64 32)',
    );
  return { url, secret, format };
}

/** RFC 7518: a key of HS256 has at least as many bytes as its hash. */
const secretBytes = 32;

function tokensOf(at: Settings): Identity['tokens'] {
  const { jwtSecret, jwtSecretPrevious, jwtJwksUrl, jwtIssuer: issuer, jwtAudience: audience } = at;
  if (jwtSecret === '' && jwtSecretPrevious !== '') throw new ConfigError('JWT_SECRET_PREVIOUS needs JWT_SECRET');
  if (jwtSecret === '' && jwtJwksUrl === '') return undefined;
  if (jwtSecret !== '' && jwtJwksUrl !== '') throw new ConfigError('JWT_SECRET and JWT_JWKS_URL exclude each other');
  if (issuer === '' || audience === '')
    throw new ConfigError(
      'tokens need JWT_ISSUER and JWT_AUDIENCE: one that was made for somebody else must not be taken',
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

/** The secrets that tokens are accepted with: the one in use, and during a rotation the one before it. */
function tokenSecretsOf(secret: string, previous: string): Uint8Array[] {
  return [
    tokenSecretOf('JWT_SECRET', secret),
    ...(previous === '' ? [] : [tokenSecretOf('JWT_SECRET_PREVIOUS', previous)]),
  ];
}

function tokenSecretOf(name: string, text: string): Uint8Array {
  const secret = Buffer.from(text);
  if (secret.length < secretBytes)
    throw new ConfigError(`${name} has ${secret.length} bytes, at least ${secretBytes} are needed`);
  return secret;
}

/** Empty unless a secret of tokens stands in a file of its own: the environment of a process cannot change. */
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

/** As OpenTelemetry's own variables say; the exporter reads its others (headers, time-out, compression) by itself. */
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

/** `.env` is the process's, where it was started. */
function folderOf(env: NodeJS.ProcessEnv): string | undefined {
  return env === process.env ? process.cwd() : undefined;
}

/** convict speaks of its own paths; the one who set PORT knows PORT, and where. */
function inTheirWords(error: unknown, sources: Readonly<Record<string, string>>): string {
  const text = error instanceof Error ? error.message : String(error);
  return text
    .split('\n')
    .map((line) => {
      const [, path = '', rest] = /^\s*([A-Za-z]+): (.*)$/.exec(line) ?? [];
      const name = Object.entries(schema).find(([each]) => each === path)?.[1].env;
      if (name === undefined) return line.trim();
      const source = sources[name] ?? '';
      return `${name}: ${faultInWords(rest ?? '')}${source === 'the environment' ? '' : ` (${source})`}`;
    })
    .join('; ');
}
