import type { Db } from './schema.ts';
import { readSchemaState } from './schema-check.ts';

/** One thing that must hold for calls to be served. */
export interface Check {
  readonly name: 'database' | 'schema' | 'draining';
  /** What is wrong, in words for whoever runs the service; undefined when it is well. */
  readonly fault: string | undefined;
}

export interface Report {
  readonly ready: boolean;
  readonly checks: readonly Check[];
}

/** Whether this instance can serve calls now. */
export interface Readiness {
  /** Asks the database, at most once a second however often it is called. */
  look(): Promise<Report>;
  /** What it is now, and again whenever `ready` changes, until the signal is aborted or the service stops. */
  follow(signal: AbortSignal): AsyncIterable<Report>;
  /** From now on it is not ready; resolves when everybody who follows has been told and has taken it, or after a second. */
  drain(): Promise<void>;
  /** Ends whoever follows. */
  close(): void;
}

/** Probes of many load balancers, and a page that is reloaded, are one question a second. */
const rememberMs = 1000;
/** How long a drain waits for readers that take nothing. */
const tellMs = 1000;

/** `db` has a connection of its own: whether the database answers is asked, not whether a pool is busy. */
export function createReadiness(
  db: Db,
  { patienceMs, now = () => performance.now() }: { readonly patienceMs: number; readonly now?: () => number },
): Readiness {
  let draining = false;
  let closed = false;
  let known: { at: number; checks: Promise<readonly Check[]> } | undefined;
  const followers = new Set<Follower>();

  const look = async (): Promise<Report> => {
    // While it drains the answer is no, whatever the database says: who follows is told at once.
    if (known === undefined || (!draining && now() - known.at > rememberMs))
      known = { at: now(), checks: askDatabase(db, patienceMs) };
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
          // Who is asked for more has taken what it was given.
          if (draining) follower.told.resolve();
          await follower.nap(rememberMs);
        }
      } finally {
        followers.delete(follower);
        follower.told.resolve();
      }
    },
    async drain() {
      draining = true;
      for (const follower of followers) follower.wake();
      await within(Promise.all([...followers].map((follower) => follower.told.promise)), tellMs).catch(() => {});
    },
    close() {
      closed = true;
      for (const follower of followers) follower.wake();
    },
  };
}

interface Follower {
  readonly told: PromiseWithResolvers<void>;
  /** Waits that long, or until it is woken. */
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
    told: Promise.withResolvers<void>(),
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

/** Never rejects: what is wrong is the answer. The words of the driver stay here: they may name a host or a user. */
async function askDatabase(db: Db, patienceMs: number): Promise<readonly Check[]> {
  try {
    const { missing, readOnly } = await within(readSchemaState(db), patienceMs);
    const fault = missing.length === 0 ? undefined : `migrations are missing: ${missing.join(', ')}`;
    return [
      {
        name: 'database',
        fault: readOnly ? 'it is read-only: a standby, or default_transaction_read_only' : undefined,
      },
      { name: 'schema', fault },
    ];
  } catch (error) {
    const { code } = error as { code?: unknown };
    // undefined_table, invalid_schema_name: it answers, and has nothing of ours.
    const isEmpty = code === '42P01' || code === '3F000';
    return isEmpty
      ? [
          { name: 'database', fault: undefined },
          { name: 'schema', fault: 'there is none: no migration was applied' },
        ]
      : [
          { name: 'database', fault: `no answer in ${patienceMs} ms, or none that is good` },
          { name: 'schema', fault: 'not known' },
        ];
  }
}

async function within<T>(work: Promise<T>, milliseconds: number): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error('too slow')), milliseconds);
  // Its own failing after that is nobody's.
  work.catch(() => {});
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
