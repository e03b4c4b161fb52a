import type { Quota, Scope } from './formats.ts';
import type { SettingWords } from './settings.ts';

/** The checked settings, in the units of the service. */
export interface Config {
  readonly host: string;
  readonly port: number;
  readonly tls: Tls | undefined;
  /** Files that are read again while the service runs. */
  readonly reload: Reload;
  /** Whether every call needs a credential. */
  readonly requiresCredential: boolean;
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

export interface Tls {
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

export interface Identity {
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

/** A setting with its value (masked if secret) and the source of the value. */
export interface SettingInForce extends SettingWords {
  readonly value: string;
  /** Whether it has a value: that of a secret is not shown. */
  readonly isSet: boolean;
  readonly source: string;
}
