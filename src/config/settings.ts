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
 * Each setting: meaning, format (with unit and bounds), default, name in the environment. Both `npm
 * run cli -- config` and docs/reference/settings.md are generated from this table (`npm run
 * generate`); the Chinese texts are in scripts/settings.zh.json.
 */
export const schema = {
  host: {
    doc: 'Address to listen on. Any address but loopback requires authentication, or AUTH=off.',
    format: 'text',
    default: '127.0.0.1',
    env: 'HOST',
  },
  port: { doc: 'Port for all protocols; 0 = any free port.', format: 'tcp-port', default: 5001, env: 'PORT' },
  tlsKey: {
    doc: 'File with the TLS private key (PEM). With TLS_CERT, the port uses TLS. Changed TLS files are reloaded within 15 seconds, and on SIGHUP.',
    format: 'path',
    default: '',
    env: 'TLS_KEY',
  },
  tlsCert: { doc: 'File with the TLS certificate chain (PEM).', format: 'path', default: '', env: 'TLS_CERT' },
  workers: {
    doc: 'Processes that share the port. Each is an instance with its own lanes and connections.',
    format: 'workers',
    default: 1,
    env: 'WORKERS',
  },
  auth: {
    doc: 'on = every call needs a credential: an API key, a JWT or a client certificate. off = every caller is trusted, on any address. Unset: on if JWT_… or TLS_CLIENT_CA is set; otherwise callers are trusted and the service listens on loopback only.',
    format: ['', 'on', 'off'],
    default: '',
    env: 'AUTH',
  },
  jwtSecret: {
    doc: 'Secret of HS256 tokens, at least 32 bytes; their subject is the uid. A changed JWT_SECRET_FILE is reloaded within 15 seconds, and on SIGHUP.',
    format: 'text',
    default: '',
    env: 'JWT_SECRET',
    sensitive: true,
  },
  jwtSecretPrevious: {
    doc: 'Second secret accepted for HS256 tokens while JWT_SECRET is rotated. Reloaded like JWT_SECRET; an empty JWT_SECRET_PREVIOUS_FILE ends the overlap.',
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
    doc: 'Signature algorithms accepted with JWT_JWKS_URL, separated by commas.',
    format: 'text',
    default: 'RS256,ES256,EdDSA',
    env: 'JWT_ALGORITHMS',
  },
  jwtIssuer: { doc: 'Issuer (iss) that tokens must have.', format: 'text', default: '', env: 'JWT_ISSUER' },
  jwtAudience: { doc: 'Audience (aud) that tokens must have.', format: 'text', default: '', env: 'JWT_AUDIENCE' },
  jwtScopes: {
    doc: 'Scopes that a token can grant: send, read, admin, metrics. A token without scopes grants send and read. admin and metrics make a user an operator of the service.',
    format: 'scopes',
    default: 'send,read',
    env: 'JWT_SCOPES',
  },
  tlsClientCa: {
    doc: 'File with the certificate authorities (PEM) whose client certificates are accepted as credentials; the common name is the name of the service.',
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
    doc: 'Origins of web pages that may call, separated by commas, or *. Unset: the service’s own origin and loopback origins.',
    format: 'origins',
    default: '',
    env: 'ALLOWED_ORIGINS',
  },
  console: {
    doc: 'on = the console, a web page for people, is served at /console. It calls the API with the credential of whoever signs in. off = it is not served.',
    format: ['on', 'off'],
    default: 'on',
    env: 'CONSOLE',
  },
  databaseUrl: {
    doc: 'PostgreSQL 15 or later, as a libpq URL. Unset: the service starts its own. sslmode: disable, the default, uses no TLS; prefer, require, verify-ca and verify-full all verify certificate and host name (sslrootcert names your own CA); no-verify uses TLS without verification.',
    format: 'database-url',
    default: '',
    env: 'DATABASE_URL',
    sensitive: true,
  },
  databaseWait: {
    doc: 'Milliseconds that a start waits for an unreachable database.',
    format: 'milliseconds',
    default: 30_000,
    env: 'DATABASE_WAIT',
  },
  systemUids: {
    doc: 'Senders that may send to every channel, separated by commas; * = all senders: no channel rules are checked. AddSystemUids adds more.',
    format: 'text',
    default: 'system,____system',
    env: 'SYSTEM_UIDS',
  },
  personAllowlist: {
    doc: 'on = the sender of a message to a user (person, agent, commands that name the user) must be on the user’s allowlist, unless the user has allow_stranger; off = only the denylist is checked.',
    format: ['on', 'off'],
    default: 'off',
    env: 'PERSON_ALLOWLIST',
  },
  rateCaller: {
    doc: 'Messages per caller, such as 100/1s 3000/60s: one quota for bursts and one for the long run. Refused and validated messages count one tenth. Unset: no limit. A key can have its own limit.',
    format: 'quotas',
    default: '',
    env: 'RATE_CALLER',
  },
  rateSender: {
    doc: 'Messages per from_uid, in the format of RATE_CALLER.',
    format: 'quotas',
    default: '',
    env: 'RATE_SENDER',
  },
  rateChannel: {
    doc: 'Messages per channel, in the format of RATE_CALLER.',
    format: 'quotas',
    default: '',
    env: 'RATE_CHANNEL',
  },
  rateStore: {
    doc: 'Where rates are counted: memory = per process, postgres = shared by all instances (2,000 to 4,000 counts per second).',
    format: ['memory', 'postgres'],
    default: 'memory',
    env: 'RATE_STORE',
  },
  moderationHookUrl: {
    doc: 'URL called for each batch after the moderation rules. Unset: none.',
    format: 'web-url',
    default: '',
    env: 'MODERATION_HOOK_URL',
    sensitive: true,
  },
  moderationHookTimeout: {
    doc: 'Milliseconds that the moderation hook has to answer.',
    format: 'milliseconds',
    default: 1000,
    env: 'MODERATION_HOOK_TIMEOUT',
  },
  moderationHookFailure: {
    doc: 'When the hook fails: open = all messages pass, closed = none does.',
    format: ['open', 'closed'],
    default: 'open',
    env: 'MODERATION_HOOK_FAILURE',
  },
  webhookUrl: {
    doc: 'URL that receives stored messages, as the webhook named settings. Unset: only the webhooks created with WebhookService.',
    format: 'web-url',
    default: '',
    env: 'WEBHOOK_URL',
    sensitive: true,
  },
  webhookSecret: {
    doc: 'Secret that signs deliveries to WEBHOOK_URL: whsec_ and 24 to 64 bytes in base64. After a change the previous secret also signs for 24 hours.',
    format: 'text',
    default: '',
    env: 'WEBHOOK_SECRET',
    sensitive: true,
  },
  webhookFormat: {
    doc: 'Format for WEBHOOK_URL: standard = an object with type, timestamp and data; legacy = WuKongIM’s msg.notify, which needs no secret.',
    format: ['standard', 'legacy'],
    default: 'standard',
    env: 'WEBHOOK_FORMAT',
  },
  webhookAllowPrivate: {
    doc: 'on = webhooks may use http and addresses that are not public; off = neither.',
    format: ['on', 'off'],
    default: 'off',
    env: 'WEBHOOK_ALLOW_PRIVATE',
  },
  webhookTimeout: {
    doc: 'Milliseconds that a webhook receiver has to answer.',
    format: 'milliseconds',
    default: 10_000,
    env: 'WEBHOOK_TIMEOUT',
  },
  listenDatabaseUrl: {
    doc: 'PostgreSQL connection for LISTEN that bypasses a pooler without support for it; the coordinator when DATABASE_URL names a worker of Citus. Unset: DATABASE_URL.',
    format: 'database-url',
    default: '',
    env: 'LISTEN_DATABASE_URL',
    sensitive: true,
  },
  retention: {
    doc: 'Days that messages are kept per channel type, such as 2=365 9=7. Unset: forever, apart from their own expire.',
    format: 'retention',
    default: '',
    env: 'RETENTION',
  },
  recallWindow: {
    doc: 'Milliseconds after a message was accepted in which its sender may recall or edit it; 0 = only callers with the scope admin may.',
    format: 'window',
    default: 24 * 3600_000,
    env: 'RECALL_WINDOW',
  },
  recallKeepDays: {
    doc: 'Days that contents replaced by an edit or erased by a recall are kept as copies, which only the scope admin reads; 0 = not at all.',
    format: 'keep-days',
    default: 0,
    env: 'RECALL_KEEP_DAYS',
  },
  recallLegacyCommand: {
    doc: 'on = a recall also sends the command messageRevoke, by which clients of TangSengDaoDao remove the message.',
    format: ['off', 'on'],
    default: 'off',
    env: 'RECALL_LEGACY_COMMAND',
  },
  deliveryCursors: {
    doc: 'on = records up to which message each user has received each channel, by tails and syncs; GetBatchReach then counts deliveries. off = records nothing.',
    format: ['on', 'off'],
    default: 'off',
    env: 'DELIVERY_CURSORS',
  },
  sweepInterval: {
    doc: 'Milliseconds between two removals of expired messages.',
    format: 'milliseconds',
    default: 60_000,
    env: 'SWEEP_INTERVAL',
  },
  batchConcurrency: {
    doc: 'Chunks of background batches that this process sends in parallel; 0 = none, other processes send them.',
    format: 'lanes',
    default: 2,
    env: 'BATCH_CONCURRENCY',
  },
  batchRetention: {
    doc: 'Days that a background batch and its results are kept after its end.',
    format: 'days',
    default: 7,
    env: 'BATCH_RETENTION',
  },
  migrate: {
    doc: 'auto = a start updates the schema. check = a start fails while migrations are pending; sendbatch migrate applies them as a separate step.',
    format: ['auto', 'check'],
    default: 'auto',
    env: 'MIGRATE',
  },
  dataDir: {
    doc: 'Folder of the embedded PostgreSQL. Unset: .sendbatch in the folder where the service is started.',
    format: 'path',
    default: '',
    env: 'DATA_DIR',
  },
  lanes: {
    doc: 'Lanes of group commit, each with a write connection; 0 = one transaction per batch, on the pooled connections. With several SHARDS each has a lane, and this is the number of write connections that they share.',
    format: 'lanes',
    default: 4,
    env: 'LANES',
  },
  shards: {
    doc: 'Shards that the database is divided into: a power of two. Fixed when the first instance starts; an instance with another number does not start. More than 1 only pays on Citus.',
    format: 'shards',
    default: '1',
    env: 'SHARDS',
  },
  poolSize: {
    doc: 'Maximum number of pooled database connections, besides those of the lanes. Half of them are for reading, so reading and sending cannot starve each other.',
    format: 'count',
    default: 10,
    env: 'POOL_SIZE',
  },
  lockTimeout: {
    doc: 'Milliseconds that a send waits for a channel locked by another session, before STORE_BUSY. A BEST_EFFORT batch that also has messages for other channels waits at most 1 s.',
    format: 'milliseconds',
    default: 5000,
    env: 'LOCK_TIMEOUT',
  },
  statementTimeout: {
    doc: 'Milliseconds per SQL statement, before STORE_BUSY.',
    format: 'milliseconds',
    default: 10_000,
    env: 'STATEMENT_TIMEOUT',
  },
  requestTimeout: {
    doc: 'Milliseconds per call; a longer deadline of the caller is shortened to this.',
    format: 'milliseconds',
    default: 30_000,
    env: 'REQUEST_TIMEOUT',
  },
  drainDelay: {
    doc: 'Milliseconds after SIGTERM in which the instance still serves but reports that it is not ready, so that load balancers notice.',
    format: 'pause',
    default: 0,
    env: 'DRAIN_DELAY',
  },
  overloadWait: {
    doc: 'Milliseconds that a sending call may wait. While calls wait longer, new ones are refused as OVERLOADED; up to 250 calls in flight per process are never refused.',
    format: 'milliseconds',
    default: 1000,
    env: 'OVERLOAD_WAIT',
  },
  shutdownGrace: {
    doc: 'Milliseconds that calls in flight have to finish after SIGTERM.',
    format: 'milliseconds',
    default: 10_000,
    env: 'SHUTDOWN_GRACE',
  },
  logLevel: {
    doc: 'Least severe level that is logged.',
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
    doc: 'on = one line per call: request id, caller, batch size, outcomes, duration; never payloads or credentials.',
    format: ['on', 'off'],
    default: 'off',
    env: 'ACCESS_LOG',
  },
  metrics: {
    doc: 'open = /metrics needs no credential. Unset: where calls need a credential, /metrics needs one with the scope metrics or admin.',
    format: ['', 'open'],
    default: '',
    env: 'METRICS',
  },
  tracesExporter: {
    doc: 'otlp = traces are exported; none = they are not. Unset: they are exported if an OTLP endpoint is set.',
    format: ['', 'otlp', 'none'],
    default: '',
    env: 'OTEL_TRACES_EXPORTER',
  },
  otlpEndpoint: {
    doc: 'URL of the OTLP collector over HTTP; /v1/traces is appended. Unset: http://localhost:4318.',
    format: 'web-url',
    default: '',
    env: 'OTEL_EXPORTER_OTLP_ENDPOINT',
  },
  otlpTracesEndpoint: {
    doc: 'URL for traces only, used unchanged.',
    format: 'web-url',
    default: '',
    env: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  },
  otlpProtocol: {
    doc: 'Encoding of OTLP: http/protobuf or http/json.',
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
    doc: 'Share of calls traced by a ratio sampler, 0 to 1.',
    format: 'share',
    default: '1',
    env: 'OTEL_TRACES_SAMPLER_ARG',
  },
} as const satisfies Record<string, Setting>;

/** The values as written; index.ts converts them to a Config. */
export type Settings = {
  -readonly [K in keyof typeof schema]: (typeof schema)[K]['format'] extends NumberFormat
    ? number
    : (typeof schema)[K]['format'] extends readonly (infer Word)[]
      ? Word
      : string;
};

/** A setting, for the documentation. */
export interface SettingWords {
  readonly name: string;
  readonly default: string;
  /** Bounds and unit, or the allowed words. */
  readonly bounds: string;
  readonly doc: string;
  readonly sensitive: boolean;
}

/** Every setting, in the order of the documentation. */
export function describeSettings(): SettingWords[] {
  return Object.values<Setting>(schema).map((setting) => ({
    name: setting.env,
    default: String(setting.default),
    bounds: boundsOf(setting.format),
    doc: setting.doc,
    sensitive: setting.sensitive === true,
  }));
}
