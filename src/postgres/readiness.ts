import { sql } from 'kysely';
import { isReadOnly } from './pool.ts';
import type { Db } from './schema.ts';
import { readSchemaState } from './schema-check.ts';
import { shardPoolOf } from './shards.ts';

/** A condition for serving calls. */
export interface Check {
  readonly name: 'database' | 'schema' | 'draining';
  /** What is wrong, for the operator; undefined if nothing is. */
  readonly fault: string | undefined;
}

export interface Report {
  readonly ready: boolean;
  readonly checks: readonly Check[];
}

/** Whether this instance can serve calls. */
export interface Readiness {
  /** Checks the database, at most once per second however often it is called. */
  look(): Promise<Report>;
  /**
   * Yields the report now and whenever `ready` changes, until the signal aborts or the service
   * stops.
   */
  follow(signal: AbortSignal): AsyncIterable<Report>;
  /**
   * Reports not ready from now on; resolves when all followers have received it, or after a second.
   */
  drain(): Promise<void>;
  /** Ends all followers. */
  close(): void;
}

/** Probes of many load balancers share one check per second. */
const rememberMs = 1000;
/** How long a drain waits for followers that do not read. */
const followerMs = 1000;

/**
 * Creates the readiness check. `db` has a connection of its own: a busy pool does not make an
 * instance unready.
 */
export function createReadiness(
  db: Db,
  { patienceMs, now = () => performance.now() }: { readonly patienceMs: number; readonly now?: () => number },
): Readiness {
  let draining = false;
  let closed = false;
  let known: { at: number; checks: Promise<readonly Check[]> } | undefined;
  const followers = new Set<Follower>();

  const look = async (): Promise<Report> => {
    // While draining the answer is no, whatever the database says; followers receive it at once.
    if (known === undefined || (!draining && now() - known.at > rememberMs))
      known = { at: now(), checks: askBoth(db, patienceMs) };
    const asked = await known.checks;
    const drain: Check = { name: 'draining', fault: draining ? 'this instance is stopping' : undefined };
    const checks = [...asked, drain];
    return { ready: checks.every((check) => check.fault === undefined), checks };
  };

  return {
    look,
    async *follow(signal) {
      const follower = createFollower(signal);
      followers.add(follower);
      try {
        let last: boolean | undefined;
        while (!signal.aborted && !closed) {
          const report = await look();
          if (report.ready !== last) {
            last = report.ready;
            yield report;
          }
          // A follower that asks for more has received the last report.
          if (draining) follower.reported.resolve();
          await follower.nap(rememberMs);
        }
      } finally {
        followers.delete(follower);
        follower.reported.resolve();
      }
    },
    async drain() {
      draining = true;
      for (const follower of followers) follower.wake();
      await within(Promise.all([...followers].map((follower) => follower.reported.promise)), followerMs).catch(
        () => {},
      );
    },
    close() {
      closed = true;
      for (const follower of followers) follower.wake();
    },
  };
}

interface Follower {
  readonly reported: PromiseWithResolvers<void>;
  /** Waits for `milliseconds`, or until it is woken. */
  nap(milliseconds: number): Promise<void>;
  wake(): void;
}

function createFollower(signal: AbortSignal): Follower {
  let up: () => void = () => {};
  let woken = false;
  const wake = () => {
    woken = true;
    up();
  };
  signal.addEventListener('abort', wake, { once: true });
  return {
    reported: Promise.withResolvers<void>(),
    async nap(milliseconds) {
      if (!woken)
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, milliseconds);
          up = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      woken = false;
    },
    wake,
  };
}

const noAnswer = (patienceMs: number) => `no answer in ${patienceMs} ms, or none that is good`;
const readOnlyFault = 'it is read-only: a standby, or default_transaction_read_only';

/** Checks the database, and the node that takes statements on shards where that is another. */
async function askBoth(db: Db, patienceMs: number): Promise<readonly Check[]> {
  const worker = shardPoolOf(db);
  if (worker === db) return await askDatabase(db, patienceMs);
  const [checks, fault] = await Promise.all([askDatabase(db, patienceMs), askWorker(worker, patienceMs)]);
  return checks.map((check) =>
    check.name === 'database' && check.fault === undefined && fault !== undefined
      ? { ...check, fault: `the worker that DATABASE_URL names: ${fault}` }
      : check,
  );
}

async function askWorker(db: Db, patienceMs: number): Promise<string | undefined> {
  try {
    const { rows } = await within(
      sql<{ read_only: boolean }>`select ${isReadOnly} as read_only`.execute(db),
      patienceMs,
    );
    return rows[0]?.read_only === true ? readOnlyFault : undefined;
  } catch {
    return noAnswer(patienceMs);
  }
}

/**
 * Checks the database. Never rejects: errors are the answer, without the driver's text, which may
 * name a host or user.
 */
async function askDatabase(db: Db, patienceMs: number): Promise<readonly Check[]> {
  try {
    const { missing, readOnly } = await within(readSchemaState(db), patienceMs);
    const fault = missing.length === 0 ? undefined : `migrations are missing: ${missing.join(', ')}`;
    return [
      {
        name: 'database',
        fault: readOnly ? readOnlyFault : undefined,
      },
      { name: 'schema', fault },
    ];
  } catch (error) {
    const { code } = error as { code?: unknown };
    // undefined_table, invalid_schema_name: the database answers and has no schema of the service.
    const isEmpty = code === '42P01' || code === '3F000';
    return isEmpty
      ? [
          { name: 'database', fault: undefined },
          { name: 'schema', fault: 'there is none: no migration was applied' },
        ]
      : [
          { name: 'database', fault: noAnswer(patienceMs) },
          { name: 'schema', fault: 'not known' },
        ];
  }
}

async function within<T>(work: Promise<T>, milliseconds: number): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error('too slow')), milliseconds);
  // A later failure has no reader.
  work.catch(() => {});
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
