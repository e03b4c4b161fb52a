import { hash } from 'node:crypto';
import { createRequire } from 'node:module';
import { sql } from 'kysely';
import type pg from 'pg';
import { PgBoss } from 'pg-boss';
import { PreparingClient } from '../postgres/client.ts';
import { answerTimeoutMs, watched } from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';

/** The version of its schema that the library wants. */
const library = createRequire(import.meta.url)('pg-boss/package.json') as { pgboss: { schema: number } };

/** The durable queue: turns of callers. A turn is worth nothing by itself: who takes it looks at what its caller has to do. */
export interface Jobs {
  /** Takes turns, so many at once in this process; each caller has one at a time, in all instances together. */
  run(turn: (callerId: string) => Promise<void>, concurrency: number): Promise<void>;
  /** Gives a caller its next turn, behind all who wait for theirs. One that waits already has it. */
  turn(callerId: string): Promise<void>;
  /** Gives it one later. */
  turnAt(callerId: string, timeMs: number): Promise<void>;
  /** Waits for the turns under way, so long at most; what is not done by then is somebody else's after the heartbeat. */
  stop(graceMs: number): Promise<void>;
}

const turns = 'turns';
const wakes = 'wakes';
const queueNames = [turns, wakes];
/** pg-boss has tables of its own, in a schema of their own. */
const schema = 'sendbatch_jobs';
/** A turn takes a tenth of a second. One whose worker has been silent for this long (the library's least) is given to another, at the next look. */
const heartbeatSeconds = 10;
const superviseSeconds = 2;
/** A worker that nobody wakes looks this often. */
const pollSeconds = 1;
/** Never: a turn that fails is tried again until it is done. */
const retries = 2_000_000_000;

export interface JobsOptions {
  /** Milliseconds that a statement may take; 0: as long as it likes. */
  readonly statementTimeoutMs: number;
  /** Told of what fails in the background. */
  readonly onError: (error: unknown) => void;
}

/** Makes the queue's tables, or brings them up to date. */
export async function installJobs(connection: pg.PoolConfig): Promise<void> {
  const boss = open(connection, { supervise: false, statementTimeoutMs: 0, onError: () => {} });
  await boss.start();
  await createQueues(boss);
  await boss.stop({ graceful: false });
}

/** Whether its tables are missing, or older than the library. */
export async function jobsPending(db: Db): Promise<boolean> {
  const there = await sql<{ there: boolean }>`
    select to_regclass(${`${schema}.version`}) is not null as there`.execute(db);
  if (there.rows[0]?.there !== true) return true;
  const { rows } = await sql<{ version: number }>`select version from ${sql.id(schema, 'version')}`.execute(db);
  const queues = await sql<{ count: number }>`select count(*) as count from ${sql.id(schema, 'queue')}`.execute(db);
  return (rows[0]?.version ?? 0) < library.pgboss.schema || (queues.rows[0]?.count ?? 0) < queueNames.length;
}

/** Opens the queue, which was installed. */
export async function openJobs(connection: pg.PoolConfig, options: JobsOptions): Promise<Jobs> {
  const boss = open(connection, { supervise: true, ...options });
  try {
    await boss.start();
  } catch (error) {
    await boss.stop({ graceful: false });
    throw error;
  }
  let worker: string | undefined;
  const wake = () => {
    if (worker !== undefined) boss.notifyWorker(worker);
  };
  return {
    async run(turn, concurrency) {
      worker = await boss.work<{ callerId: string }>(
        turns,
        { localConcurrency: concurrency, pollingIntervalSeconds: pollSeconds },
        async ([job]) => {
          if (job === undefined) return;
          try {
            await turn(job.data.callerId);
          } finally {
            // A worker that found nothing sleeps out its poll, and another caller may wait.
            wake();
          }
        },
      );
      await boss.work<{ callerId: string }>(
        wakes,
        { pollingIntervalSeconds: pollSeconds, batchSize: 1000 },
        async (jobs) => {
          for (const callerId of new Set(jobs.map((job) => job.data.callerId)))
            await boss.send(turns, { callerId }, { singletonKey: keyOf(callerId) });
          wake();
        },
      );
    },
    async turn(callerId) {
      await boss.send(turns, { callerId }, { singletonKey: keyOf(callerId) });
      wake();
    },
    async turnAt(callerId, timeMs) {
      const second = Math.ceil(timeMs / 1000);
      await boss.send(
        wakes,
        { callerId },
        { singletonKey: `${keyOf(callerId)} ${second}`, startAfter: new Date(timeMs) },
      );
    },
    // The library takes no less than a second.
    stop: (graceMs) => boss.stop({ graceful: true, timeout: Math.max(1000, graceMs) }),
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
    max: 3,
    connectionTimeoutMillis: 5000,
    // The library hands these to its pool of pg. Without them a server that says nothing holds up every turn of this process, and its stop.
    ...watched,
    ...{ Client: JobsClient },
    ...(statementTimeoutMs === 0
      ? {}
      : { statement_timeout: statementTimeoutMs, query_timeout: answerTimeoutMs(statementTimeoutMs) }),
    supervise,
    superviseIntervalSeconds: superviseSeconds,
    // Turns that are done are removed: of the many that there are, the search for the next would read all.
    maintenanceIntervalSeconds: 30,
    monitorIntervalSeconds: superviseSeconds,
    // What it offers beside the queue is not used here.
    schedule: false,
    registerInstance: false,
    reindex: false,
    monitorVacuum: false,
    openTelemetry: { enabled: false },
  });
  boss.on('error', onError);
  return boss;
}

/** The pool listens to a connection only while it is idle; one that breaks between two statements would end the process. What it does to a statement is the statement's error. */
class JobsClient extends PreparingClient {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    this.on('error', () => {});
  }
}

async function createQueues(boss: PgBoss): Promise<void> {
  const common = { retryLimit: retries, retryDelay: 1, deleteAfterSeconds: 60 };
  // `stately`: at most one turn of a caller waits, and one is taken.
  const queues = [
    { name: turns, policy: 'stately', ...common, heartbeatSeconds, expireInSeconds: 3600 },
    { name: wakes, policy: 'short', ...common, expireInSeconds: 60 },
  ] as const;
  for (const { name, policy, ...rest } of queues) {
    await boss.createQueue(name, { policy, ...rest });
    await boss.updateQueue(name, rest);
  }
}

function keyOf(callerId: string): string {
  return hash('sha256', callerId, 'base64url');
}
