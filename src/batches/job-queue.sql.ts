// The durable queue of slots (pg-boss): decides which caller has a slot, and when.
//
// A job carries only a caller id; the worker that takes it claims whatever is due (claims.sql.ts).
// So a lost or repeated job costs at most one claim. Two queues:
//   turns: slots that are due. At most one queued and one active per caller, over all instances.
//   wakes: timers. A job becomes a slot at its time, at most one per caller and second.
// The names of the queues are stored in databases and must not change.

import { hash } from 'node:crypto';
import { createRequire } from 'node:module';
import { sql } from 'kysely';
import type pg from 'pg';
import { PgBoss } from 'pg-boss';
import { PreparingClient } from '../postgres/client.ts';
import { answerTimeoutMs, watched } from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';
import { secondMs } from '../time.ts';

/** The library's package, which names the schema version that it needs. */
const library = createRequire(import.meta.url)('pg-boss/package.json') as { pgboss: { schema: number } };

/** The durable queue of callers' slots. */
export interface Jobs {
  /** Runs slots, at most `concurrency` at once in this process and one per caller overall. */
  run(runSlot: (callerId: string) => Promise<void>, concurrency: number): Promise<void>;
  /** Queues a slot of a caller behind all queued ones. Does nothing if it has one queued. */
  schedule(callerId: string): Promise<void>;
  /** Queues a slot at a time, in milliseconds since 1970. */
  scheduleAt(callerId: string, timeMs: number): Promise<void>;
  /** Waits up to `graceMs` for active slots. Another worker takes the rest after the heartbeat. */
  stop(graceMs: number): Promise<void>;
}

const slotQueue = 'turns';
const timerQueue = 'wakes';
const queueNames = [slotQueue, timerQueue];
/** The schema of pg-boss's own tables. */
const schema = 'sendbatch_jobs';
/** A slot takes 0.1 s. After this silence (the library's minimum) another worker gets it. */
const heartbeatSeconds = 10;
/** Interval of the search for silent workers. */
const superviseSeconds = 2;
/** Poll interval of a worker that is not notified. */
const pollSeconds = 1;
/** Slots are retried until they succeed. */
const maxRetries = 2_000_000_000;
/** Connections of the queue, besides the pool of the service. */
const connections = 3;
const connectTimeoutMs = 5 * secondMs;
/** Completed slots are deleted this often: the search for the next one reads past them. */
const maintenanceSeconds = 30;
/** Timer jobs that one fetch turns into slots. */
const timersPerFetch = 1000;
/** Shortest time that the library accepts for a graceful stop. */
const minStopMs = secondMs;

export interface JobsOptions {
  /** Milliseconds that a statement may take; 0: unlimited. */
  readonly statementTimeoutMs: number;
  /** Called with errors of background work. */
  readonly onError: (error: unknown) => void;
}

/** Creates or migrates the queue's tables. */
export async function installJobs(connection: pg.PoolConfig): Promise<void> {
  const boss = open(connection, { supervise: false, statementTimeoutMs: 0, onError: () => {} });
  await boss.start();
  await createQueues(boss);
  await boss.stop({ graceful: false });
}

/** Whether the queue's tables are missing or older than the library. */
export async function needsJobsInstall(db: Db): Promise<boolean> {
  const installed = await sql<{ installed: boolean }>`
    select to_regclass(${`${schema}.version`}) is not null as installed`.execute(db);
  if (installed.rows[0]?.installed !== true) return true;
  const { rows } = await sql<{ version: number }>`select version from ${sql.id(schema, 'version')}`.execute(db);
  const queues = await sql<{ count: number }>`select count(*) as count from ${sql.id(schema, 'queue')}`.execute(db);
  return (rows[0]?.version ?? 0) < library.pgboss.schema || (queues.rows[0]?.count ?? 0) < queueNames.length;
}

/** Opens the queue, which must be installed. */
export async function openJobs(connection: pg.PoolConfig, options: JobsOptions): Promise<Jobs> {
  const boss = open(connection, { supervise: true, ...options });
  try {
    await boss.start();
  } catch (error) {
    await boss.stop({ graceful: false });
    throw error;
  }
  let workerId: string | undefined;
  const notifyWorker = () => {
    if (workerId !== undefined) boss.notifyWorker(workerId);
  };
  return {
    async run(runSlot, concurrency) {
      workerId = await boss.work<{ callerId: string }>(
        slotQueue,
        { localConcurrency: concurrency, pollingIntervalSeconds: pollSeconds },
        async ([job]) => {
          if (job === undefined) return;
          try {
            await runSlot(job.data.callerId);
          } finally {
            // An idle worker sleeps for its poll interval, while another caller may have a slot.
            notifyWorker();
          }
        },
      );
      await boss.work<{ callerId: string }>(
        timerQueue,
        { pollingIntervalSeconds: pollSeconds, batchSize: timersPerFetch },
        async (jobs) => {
          for (const callerId of new Set(jobs.map((job) => job.data.callerId)))
            await boss.send(slotQueue, { callerId }, { singletonKey: keyOf(callerId) });
          notifyWorker();
        },
      );
    },
    async schedule(callerId) {
      await boss.send(slotQueue, { callerId }, { singletonKey: keyOf(callerId) });
      notifyWorker();
    },
    async scheduleAt(callerId, timeMs) {
      const second = Math.ceil(timeMs / secondMs);
      await boss.send(
        timerQueue,
        { callerId },
        { singletonKey: `${keyOf(callerId)} ${second}`, startAfter: new Date(timeMs) },
      );
    },
    stop: (graceMs) => boss.stop({ graceful: true, timeout: Math.max(minStopMs, graceMs) }),
  };
}

function open(
  connection: pg.PoolConfig,
  { supervise, statementTimeoutMs, onError }: JobsOptions & { supervise: boolean },
): PgBoss {
  const boss = new PgBoss({
    ...(connection as ConstructorParameters<typeof PgBoss>[0] & object),
    schema,
    application_name: 'sendbatch jobs',
    max: connections,
    connectionTimeoutMillis: connectTimeoutMs,
    // Passed to its pg pool. Otherwise an unresponsive server blocks all slots and the shutdown.
    ...watched,
    ...{ Client: JobsClient },
    ...(statementTimeoutMs === 0
      ? {}
      : { statement_timeout: statementTimeoutMs, query_timeout: answerTimeoutMs(statementTimeoutMs) }),
    supervise,
    superviseIntervalSeconds: superviseSeconds,
    maintenanceIntervalSeconds: maintenanceSeconds,
    monitorIntervalSeconds: superviseSeconds,
    // Unused features of the library.
    schedule: false,
    registerInstance: false,
    reindex: false,
    monitorVacuum: false,
    openTelemetry: { enabled: false },
  });
  boss.on('error', onError);
  return boss;
}

/**
 * Ignores errors between statements: the pool listens only to idle connections, and an unhandled
 * error would end the process. A statement in progress reports the error itself.
 */
class JobsClient extends PreparingClient {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    this.on('error', () => {});
  }
}

async function createQueues(boss: PgBoss): Promise<void> {
  const common = { retryLimit: maxRetries, retryDelay: 1, deleteAfterSeconds: 60 };
  // `stately`: at most one queued and one active job per key, here per caller.
  const queues = [
    { name: slotQueue, policy: 'stately', ...common, heartbeatSeconds, expireInSeconds: 3600 },
    { name: timerQueue, policy: 'short', ...common, expireInSeconds: 60 },
  ] as const;
  for (const { name, policy, ...rest } of queues) {
    await boss.createQueue(name, { policy, ...rest });
    await boss.updateQueue(name, rest);
  }
}

function keyOf(callerId: string): string {
  return hash('sha256', callerId, 'base64url');
}
