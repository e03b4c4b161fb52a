import { boundsOf, type Format, type NumberFormat } from './formats.ts';

interface Setting {
  readonly doc: string;
  readonly format: Format;
  readonly default: string | number;
  readonly env: string;
  /** Never printed. */
  readonly sensitive?: true;
}

/**
 * Each setting: its meaning, how it is written (the format has the unit and the bounds), its default, its name in the environment.
 * The manual (`npm run cli -- config`) and the tables of both READMEs are made of this (`npm run generate`; the Chinese words are in
 * scripts/settings.zh.json).
 */
export const schema = {
  host: {
    doc: 'Address to listen on. Anything but loopback needs authentication, or AUTH=off.',
    format: 'text',
    default: '127.0.0.1',
    env: 'HOST',
  },
  port: { doc: 'Port for every protocol; 0 = any free one.', format: 'tcp-port', default: 5001, env: 'PORT' },
  tlsKey: {
    doc: 'File with the TLS private key (PEM). With TLS_CERT, the port speaks TLS. Changed TLS files are read again within 15 seconds, and on SIGHUP.',
    format: 'path',
    default: '',
    env: 'TLS_KEY',
  },
  tlsCert: { doc: 'File with the TLS certificate chain (PEM).', format: 'path', default: '', env: 'TLS_CERT' },
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
    doc: 'Secret of HS256 tokens, at least 32 bytes; their subject is the uid. A changed JWT_SECRET_FILE is read again within 15 seconds, and on SIGHUP.',
    format: 'text',
    default: '',
    env: 'JWT_SECRET',
    sensitive: true,
  },
  jwtSecretPrevious: {
    doc: 'Second secret that HS256 tokens are accepted with while JWT_SECRET is rotated. Read again like JWT_SECRET; an empty JWT_SECRET_PREVIOUS_FILE ends the overlap.',
    format: 'text',
    default: '',
    env: 'JWT_SECRET_PREVIOUS',
    sensitive: true,
  },
  jwtJwksUrl: {
    doc: 'URL of the issuer’s public keys (JWKS), instead of JWT_SECRET.',
    format: 'web-url',
    default: '',
    env: 'JWT_JWKS_URL',
  },
  jwtAlgorithms: {
    doc: 'Signatures that are taken with JWT_JWKS_URL, separated by commas.',
    format: 'text',
    default: 'RS256,ES256,EdDSA',
    env: 'JWT_ALGORITHMS',
  },
  jwtIssuer: { doc: 'The issuer (iss) that tokens must name.', format: 'text', default: '', env: 'JWT_ISSUER' },
  jwtAudience: { doc: 'The audience (aud) that tokens must name.', format: 'text', default: '', env: 'JWT_AUDIENCE' },
  jwtScopes: {
    doc: 'Scopes that a token can grant to its user: send, read, admin, metrics. A token that names none grants send and read. admin and metrics make a user an operator of the service.',
    format: 'scopes',
    default: 'send,read',
    env: 'JWT_SCOPES',
  },
  tlsClientCa: {
    doc: 'File with the authorities (PEM) whose client certificates are taken as credentials; the common name is the service.',
    format: 'path',
    default: '',
    env: 'TLS_CLIENT_CA',
  },
  tlsClientScopes: {
    doc: 'Scopes of callers with a client certificate: send, read, admin, metrics.',
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
    doc: 'PostgreSQL 15 or later, as a libpq URL. Unset: the service starts its own. sslmode: disable, the default, is no TLS; prefer, require, verify-ca and verify-full all verify certificate and host name (sslrootcert names a CA of your own); no-verify is TLS without any check.',
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
    format: 'text',
    default: 'system,____system',
    env: 'SYSTEM_UIDS',
  },
  personAllowlist: {
    doc: 'on = messages to a user (persons, agents, commands that name it) need a place on its allowlist, or allow_stranger; off = only the denylist counts.',
    format: ['on', 'off'],
    default: 'off',
    env: 'PERSON_ALLOWLIST',
  },
  rateCaller: {
    doc: 'Messages that a caller may send, as 100/1s 3000/60s: quotas for bursts and for the long run. One refused or only validated counts a tenth. Unset: no limit. A key may have its own.',
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
  webhookUrl: {
    doc: 'URL that gets what is stored, as the webhook named settings. Unset: only the webhooks that WebhookService makes.',
    format: 'web-url',
    default: '',
    env: 'WEBHOOK_URL',
    sensitive: true,
  },
  webhookSecret: {
    doc: 'Secret that signs for WEBHOOK_URL: whsec_ and 24 to 64 bytes in base64. The one before signs too for 24 hours.',
    format: 'text',
    default: '',
    env: 'WEBHOOK_SECRET',
    sensitive: true,
  },
  webhookFormat: {
    doc: 'What WEBHOOK_URL gets: standard = an object with type, timestamp and data; legacy = WuKongIM’s msg.notify, which needs no secret.',
    format: ['standard', 'legacy'],
    default: 'standard',
    env: 'WEBHOOK_FORMAT',
  },
  webhookAllowPrivate: {
    doc: 'on = webhooks may go to addresses that are not public, and by http; off = neither.',
    format: ['on', 'off'],
    default: 'off',
    env: 'WEBHOOK_ALLOW_PRIVATE',
  },
  webhookTimeout: {
    doc: 'Milliseconds that a webhook has to answer.',
    format: 'milliseconds',
    default: 10_000,
    env: 'WEBHOOK_TIMEOUT',
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
  batchConcurrency: {
    doc: 'Chunks of submitted batches that this process sends at once; 0 = none, others do.',
    format: 'lanes',
    default: 2,
    env: 'BATCH_CONCURRENCY',
  },
  batchRetention: {
    doc: 'Days that a submitted batch and its results are kept after its end.',
    format: 'days',
    default: 7,
    env: 'BATCH_RETENTION',
  },
  migrate: {
    doc: 'auto = a start brings the schema up to date. check = a start is refused while migrations are pending: sendbatch migrate applies them as a step of its own.',
    format: ['auto', 'check'],
    default: 'auto',
    env: 'MIGRATE',
  },
  dataDir: {
    doc: 'Folder of the embedded PostgreSQL. Unset: .sendbatch where the service is started.',
    format: 'path',
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
    doc: 'Connections to the database at most, besides those of the lanes. Half of them are for reading, so that neither reading nor sending can take all of the other’s.',
    format: 'count',
    default: 10,
    env: 'POOL_SIZE',
  },
  lockTimeout: {
    doc: 'Milliseconds that a send waits for a channel that another session holds locked, before STORE_BUSY. A BEST_EFFORT batch that has messages for other channels too waits at most 1 s.',
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
  drainDelay: {
    doc: 'Milliseconds after SIGTERM in which it still serves but says that it is not ready, for load balancers to notice.',
    format: 'pause',
    default: 0,
    env: 'DRAIN_DELAY',
  },
  overloadWait: {
    doc: 'Milliseconds that a call which sends may take beyond what it takes on an idle service; when calls take longer, so many new ones are refused as OVERLOADED that the rest do not.',
    format: 'milliseconds',
    default: 150,
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
  accessLog: {
    doc: 'on = a line for each call: request id, caller, batch size, outcomes, duration; never payloads or credentials.',
    format: ['on', 'off'],
    default: 'off',
    env: 'ACCESS_LOG',
  },
  metrics: {
    doc: 'open = /metrics needs no credential. Unset: where calls need one it needs one with the scope metrics or admin.',
    format: ['', 'open'],
    default: '',
    env: 'METRICS',
  },
  tracesExporter: {
    doc: 'otlp = traces are exported; none = they are not. Unset: they are when an OTLP endpoint is set.',
    format: ['', 'otlp', 'none'],
    default: '',
    env: 'OTEL_TRACES_EXPORTER',
  },
  otlpEndpoint: {
    doc: 'URL of the OTLP collector over HTTP, to which /v1/traces is added. Unset: http://localhost:4318.',
    format: 'web-url',
    default: '',
    env: 'OTEL_EXPORTER_OTLP_ENDPOINT',
  },
  otlpTracesEndpoint: {
    doc: 'URL for traces alone, used as it is.',
    format: 'web-url',
    default: '',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  },
  otlpProtocol: {
    doc: 'How OTLP is written: http/protobuf or http/json.',
    format: ['http/protobuf', 'http/json'],
    default: 'http/protobuf',
    env: 'OTEL_EXPORTER_OTLP_PROTOCOL',
  },
  tracesSampler: {
    doc: 'Which calls are traced: parentbased_always_on, parentbased_traceidratio, parentbased_always_off, always_on, traceidratio, always_off.',
    format: [
      'parentbased_always_on',
      'parentbased_traceidratio',
      'parentbased_always_off',
      'always_on',
      'traceidratio',
      'always_off',
    ],
    default: 'parentbased_always_on',
    env: 'OTEL_TRACES_SAMPLER',
  },
  tracesSamplerArg: {
    doc: 'The share of calls for a sampler by ratio, 0 to 1.',
    format: 'share',
    default: '1',
    env: 'OTEL_TRACES_SAMPLER_ARG',
  },
} as const satisfies Record<string, Setting>;

/** The settings as they are written; config.ts makes a Config of them. */
export type Settings = {
  -readonly [K in keyof typeof schema]: (typeof schema)[K]['format'] extends NumberFormat
    ? number
    : (typeof schema)[K]['format'] extends readonly (infer Word)[]
      ? Word
      : string;
};

/** One setting as the manual has it. */
export interface SettingWords {
  readonly name: string;
  readonly default: string;
  /** Bounds and unit, or the words that it takes. */
  readonly bounds: string;
  readonly doc: string;
  readonly sensitive: boolean;
}

/** Every setting, in the order of the manual. */
export function describeSettings(): SettingWords[] {
  return Object.values<Setting>(schema).map((setting) => ({
    name: setting.env,
    default: String(setting.default),
    bounds: boundsOf(setting.format),
    doc: setting.doc,
    sensitive: setting.sensitive === true,
  }));
}
