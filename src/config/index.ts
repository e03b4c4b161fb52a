/**
 * The settings of the service.
 *
 * Entry points: `loadConfig` (a checked `Config`), `settingsInForce` and `describeSettings` (for
 * printing), `callerDefaults` (for commands that call a service).
 *
 * Files: config.ts (the types), settings.ts (the table of settings), formats.ts (formats and
 * bounds), sources.ts (environment, .env, JSON file, secrets in files), credentials.ts (settings of
 * tokens and TLS), tls.ts (checks of certificates).
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
import type { Config, SettingInForce } from './config.ts';
import { tlsOf, tokenSecretsReload, tokensOf } from './credentials.ts';
import { describeFault, isScope, quotasOf, retentionOf, splitList } from './formats.ts';
import { describeSettings, type Settings, schema } from './settings.ts';
import { type Gathered, gather, readDotenv } from './sources.ts';
import { ConfigError, visible } from './text.ts';

export type { Config, Reloadable, SettingInForce } from './config.ts';
export { describeSettings } from './settings.ts';
export { ConfigError } from './text.ts';

/**
 * URL and credential for commands that call a service: SENDBATCH_URL and SENDBATCH_TOKEN, in the
 * environment or `.env`.
 */
export function callerDefaults(env: NodeJS.ProcessEnv = process.env): { url: string; token: string } {
  const at = { ...readDotenv(process.cwd()), ...env };
  return { url: at.SENDBATCH_URL ?? 'http://127.0.0.1:5001', token: at.SENDBATCH_TOKEN ?? '' };
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
  const requiresCredential = at.auth === 'on' || tokens !== undefined || at.tlsClientCa !== '';
  if (!requiresCredential && at.auth !== 'off' && !isLoopback(at.host)) {
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
    requiresCredential,
    open: !requiresCredential && at.auth !== 'off',
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
