/**
 * Every event that the service logs: its level, its text, its fields, and what it means. Code logs
 * through this table, so a line that is not in it cannot exist; the reference of log events is
 * generated from it.
 *
 * Rules:
 *  1. One event per cause, in plain English, the same text each time: alerts and searches can rely
 *     on `msg`.
 *  2. Variable values are fields: camelCase, units last (`durationMs`).
 *  3. An event that can repeat for one cause names the fields that tell causes apart in
 *     `throttledBy`. It is then logged at most once per 5 s for each cause; `repeats` counts the
 *     lines that were left out.
 *  4. `cause` is an expected error in one line; `err` an unexpected one with its stack.
 */
export interface LogEventInfo {
  readonly level: 'debug' | 'info' | 'warn' | 'error' | 'fatal';
  /** The field `msg`. */
  readonly message: string;
  readonly fields: readonly string[];
  readonly throttledBy?: readonly string[];
  /** For the operator: when it is logged, and what to do. */
  readonly meaning: string;
}

const callFields = [
  'requestId',
  'method',
  'protocol',
  'code',
  'reason',
  'caller',
  'messages',
  'accepted',
  'duplicates',
  'refused',
  'durationMs',
  'traceId',
] as const;
const deliveryFields = ['webhook', 'deliveryId', 'messages', 'attempt', 'status', 'durationMs', 'error'] as const;

/** By capability, in the order of the reference. */
export const logEvents = {
  listening: {
    level: 'info',
    message: 'listening',
    fields: ['url', 'database', 'version', 'workers'],
    meaning: 'The service has started and accepts calls.',
  },
  settingSuspicious: {
    level: 'warn',
    message: 'suspicious setting',
    fields: ['warning', 'files'],
    meaning:
      'A setting is probably misspelt, or a certificate is expired, not yet valid or about to expire. The service starts nevertheless.',
  },
  reloaded: {
    level: 'info',
    message: 'reloaded',
    fields: ['files'],
    meaning: 'Changed files (tls: key and certificates; token_secrets: JWT secrets) were read again and are in use.',
  },
  reloadFailed: {
    level: 'error',
    message: 'reload failed, the previous content stays in use',
    fields: ['files', 'cause'],
    meaning: 'Changed files cannot be used. Fix them: a restart would fail. Logged once per cause.',
  },
  stopping: {
    level: 'info',
    message: 'stopping, finishing calls in flight',
    fields: ['signal'],
    meaning:
      'The first SIGTERM or SIGINT arrived. New calls are refused; calls in flight have SHUTDOWN_GRACE to finish.',
  },
  stopForced: {
    level: 'warn',
    message: 'second signal, exiting immediately',
    fields: ['signal'],
    meaning:
      'A second signal arrived before the stop had completed. Calls in flight end without an answer; their retries are safe.',
  },
  stopped: {
    level: 'info',
    message: 'stopped',
    fields: [],
    meaning: 'The stop has completed. The exit code is 0.',
  },
  crashed: {
    level: 'error',
    message: 'crashed',
    fields: ['err'],
    meaning:
      'A bug in sendbatch ended the process. What was acknowledged is stored; calls in flight ended without an answer and are safe to repeat with their keys. Report it with err.',
  },
  stopFailed: {
    level: 'error',
    message: 'stop failed',
    fields: ['err'],
    meaning: 'A step of the stop failed; the other steps ran nevertheless. The exit code is 1.',
  },
  workerExited: {
    level: 'error',
    message: 'worker exited, starting a replacement',
    fields: ['pid', 'exitCode', 'signal'],
    meaning: 'A worker process ended by itself: a crash, the out-of-memory killer, or a kill by hand.',
  },
  workerNotReplaced: {
    level: 'error',
    message: 'worker replacement failed to start, retrying',
    fields: ['worker', 'retryInMs'],
    meaning: 'The replacement of a worker could not start; its own line says why. The other workers keep serving.',
  },
  noWorkerLeft: {
    level: 'fatal',
    message: 'no worker left and none can be started, exiting',
    fields: ['worker'],
    meaning: 'All workers have ended and a replacement cannot start. The exit code is 1.',
  },
  workerKilled: {
    level: 'error',
    message: 'worker did not stop in time, killed',
    fields: ['pid'],
    meaning: 'A worker exceeded the time for its stop. Calls that it had in flight end without an answer.',
  },

  databaseUnreachable: {
    level: 'warn',
    message: 'database unreachable, retrying',
    fields: ['cause', 'retryForMs'],
    meaning: 'The start waits for the database for up to DATABASE_WAIT. Logged once per start.',
  },
  databaseNotDurable: {
    level: 'warn',
    message: 'database acknowledges commits before they are on disk',
    fields: ['settings'],
    meaning:
      'One of fsync, synchronous_commit and full_page_writes is off: a crash of the database server can lose accepted messages. Turn the named settings on.',
  },
  schemaMigrated: {
    level: 'info',
    message: 'schema migrated',
    fields: ['migrations'],
    meaning: 'The start applied these migrations.',
  },
  databaseConnectionLost: {
    level: 'warn',
    message: 'database connection lost',
    fields: ['cause', 'repeats'],
    throttledBy: ['cause'],
    meaning:
      'A connection broke: a restart, a failover, a pooler or firewall that closes connections. The next query opens a new one.',
  },
  clockSkew: {
    level: 'warn',
    message: 'clock differs from the database clock',
    fields: ['aheadMs'],
    meaning:
      'The clock of this machine is ahead of the database clock by this much (behind, if negative). The service uses the database clock; token issuers and webhook receivers use theirs. Fix time synchronization.',
  },
  embeddedFolderMoved: {
    level: 'warn',
    message: 'data folder not accessible to the PostgreSQL account, using another one: set DATA_DIR to choose',
    fields: ['folder', 'account', 'unreachable'],
    meaning:
      'PostgreSQL refuses to run as root and runs as this account, which cannot enter the default data folder. Set DATA_DIR to choose the folder.',
  },
  embeddedExited: {
    level: 'error',
    message: 'embedded PostgreSQL exited, restarting it',
    fields: ['pid'],
    meaning: 'The embedded PostgreSQL ended by itself. Sends are refused with STORE_BUSY until it runs again.',
  },
  embeddedRestarted: {
    level: 'warn',
    message: 'embedded PostgreSQL is running again',
    fields: ['pid', 'downMs', 'startedHere'],
    meaning:
      'The embedded PostgreSQL answers again; startedHere is false when another service on the same folder started it.',
  },
  embeddedRestartFailed: {
    level: 'error',
    message: 'embedded PostgreSQL could not be restarted, retrying',
    fields: ['cause'],
    meaning:
      'The restart of the embedded PostgreSQL failed. Logged once per cause; retried with back-off, at least every 30 s.',
  },
  embeddedOrphanKilled: {
    level: 'warn',
    message: 'orphaned PostgreSQL process killed',
    fields: ['pid'],
    meaning: 'A process of an embedded PostgreSQL that had died was still there and prevented a restart.',
  },
  embeddedSpawnFailed: {
    level: 'warn',
    message: 'PostgreSQL program could not be run',
    fields: ['cause', 'repeats'],
    throttledBy: ['cause'],
    meaning: 'The operating system refused to run the program of the embedded PostgreSQL.',
  },
  embeddedLogNotRotated: {
    level: 'warn',
    message: 'log file of the embedded PostgreSQL could not be rotated',
    fields: ['cause', 'repeats'],
    throttledBy: ['cause'],
    meaning:
      'The file postgres.log in the data folder is larger than 10 MiB and could not be renamed: the disk is full, or a permission is missing.',
  },
  embeddedStillUsed: {
    level: 'info',
    message: 'embedded PostgreSQL left running for another service',
    fields: ['folder'],
    meaning: 'Another service is connected to the embedded PostgreSQL; the last one stops it.',
  },
  embeddedStopSlow: {
    level: 'warn',
    message: 'embedded PostgreSQL did not stop in time, leaving it to finish',
    fields: ['pid'],
    meaning: 'The embedded PostgreSQL is still writing its checkpoint. It stops by itself.',
  },

  call: {
    level: 'info',
    message: 'call',
    fields: callFields,
    meaning: 'A call ended. Logged with ACCESS_LOG=on.',
  },
  callEnded: {
    level: 'debug',
    message: 'call ended',
    fields: callFields,
    meaning: 'A call ended. Logged at LOG_LEVEL=debug without ACCESS_LOG.',
  },
  callFailed: {
    level: 'error',
    message: 'call failed',
    fields: [...callFields, 'err', 'repeats'],
    throttledBy: ['method', 'err'],
    meaning: 'A call ended with INTERNAL because of a bug in sendbatch. Report it with err.',
  },
  storeBusy: {
    level: 'warn',
    message: 'call refused, store busy',
    fields: [...callFields, 'cause', 'repeats'],
    throttledBy: ['cause'],
    meaning:
      'A call was refused with STORE_BUSY: the database is unreachable, a lock is held, a lane or a pool is full.',
  },
  requestRejected: {
    level: 'info',
    message: 'request rejected',
    fields: ['httpMethod', 'path', 'requestId', 'reason'],
    meaning:
      'A request was rejected before a call was created: origin, not_found, malformed or overloaded. Logged with ACCESS_LOG=on; the path is without its query.',
  },
  requestFailed: {
    level: 'error',
    message: 'request failed',
    fields: ['httpMethod', 'path', 'requestId', 'err', 'repeats'],
    throttledBy: ['err'],
    meaning:
      'Handling a request failed because of a bug in sendbatch: its stream or connection was ended without an answer. Other requests are not affected. Report it with err.',
  },
  callsShed: {
    level: 'warn',
    message: 'overloaded, refusing calls',
    fields: ['refused', 'refusedShare', 'queueDelayMs'],
    meaning: 'Calls were refused with OVERLOADED before they were read, because the queue delay exceeds OVERLOAD_WAIT.',
  },
  bodyEvicted: {
    level: 'warn',
    message: 'upload refused, memory for request bodies is full',
    fields: ['path', 'requestId', 'repeats'],
    throttledBy: [],
    meaning:
      'The bodies of all calls reached their common limit (256 MiB per process), so one of the client with the largest share was refused with OVERLOADED.',
  },

  issuerKeysFailed: {
    level: 'warn',
    message: 'keys of the token issuer could not be fetched',
    fields: ['cause', 'repeats'],
    throttledBy: ['cause'],
    meaning:
      'The JWKS of the token issuer is unreachable or invalid. Tokens signed by known keys are accepted meanwhile.',
  },
  moderationHookFailed: {
    level: 'warn',
    message: 'moderation hook failed',
    fields: ['cause', 'durationMs', 'repeats'],
    throttledBy: ['cause'],
    meaning:
      'The moderation hook did not answer, or not as it should. MODERATION_HOOK_FAILURE decides whether the messages pass.',
  },
  moderationHookSkipped: {
    level: 'warn',
    message: 'moderation hook skipped, circuit breaker open',
    fields: ['repeats'],
    throttledBy: [],
    meaning:
      'The moderation hook has failed repeatedly and is not called for a while. MODERATION_HOOK_FAILURE decides whether the messages pass.',
  },
  webhookDelivered: {
    level: 'debug',
    message: 'webhook delivered',
    fields: deliveryFields,
    meaning: 'A receiver accepted a delivery.',
  },
  webhookFailed: {
    level: 'warn',
    message: 'webhook delivery failed, will be retried',
    fields: [...deliveryFields, 'repeats'],
    throttledBy: ['webhook', 'status', 'error'],
    meaning: 'A receiver refused a delivery or did not answer (status 0). It is retried with back-off.',
  },
  webhookParked: {
    level: 'error',
    message: 'webhook delivery parked, no retries left',
    fields: [...deliveryFields, 'repeats'],
    throttledBy: ['webhook', 'status', 'error'],
    meaning: 'A delivery failed too often and is kept. RedeliverWebhook retries it.',
  },
  webhookGone: {
    level: 'error',
    message: 'webhook disabled, receiver answered 410 Gone',
    fields: deliveryFields,
    meaning: 'The receiver wants no more deliveries. Enable the webhook again with UpdateWebhook.',
  },

  backgroundRunFailed: {
    level: 'warn',
    message: 'background loop failed',
    fields: ['loop', 'cause', 'err', 'repeats'],
    throttledBy: ['loop', 'cause', 'err'],
    meaning: 'One run of a background loop failed; the next one comes at its usual time.',
  },
  metricsFailed: {
    level: 'warn',
    message: 'metrics could not be collected',
    fields: ['cause', 'err', 'repeats'],
    throttledBy: ['cause', 'err'],
    meaning: 'A scrape of /metrics failed.',
  },
  traceExportFailed: {
    level: 'warn',
    message: 'traces could not be exported',
    fields: ['cause', 'repeats'],
    throttledBy: ['cause'],
    meaning: 'The OTLP collector is unreachable or refuses the spans; they are dropped.',
  },
} as const satisfies Record<string, LogEventInfo>;

/** The name of an event in the table. */
export type LogEvent = keyof typeof logEvents;
