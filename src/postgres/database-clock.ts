import { sql } from 'kysely';
import type { Db } from './schema.ts';

/** The database's clock, in milliseconds. */
export async function databaseClock(db: Db): Promise<number> {
  const { rows } = await sql<{ now: number }>`
    select (extract(epoch from clock_timestamp()) * 1000)::bigint as now`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('the database did not say the time');
  return row.now;
}

/**
 * Database time without a round trip: this process's monotonic clock plus an offset that is measured against the database.
 *
 * All instances share one clock by it, so that what one instance writes (an acceptance, a due time, an expiry) can be compared by another, whatever their wall clocks say.
 */
export interface Clock {
  /** Milliseconds since 1970, by the database's clock. */
  now(): number;
  /** Measures the offset anew. */
  measure(): Promise<void>;
}

/** What a clock is made of. */
export interface ClockOptions {
  /** Asks the database for its time, in milliseconds since 1970. */
  readonly ask: () => Promise<number>;
  /** Told when this machine's wall clock is far from the database's: positive when it is ahead. */
  readonly onClocksApart: (aheadMs: number) => void;
  /** A clock that never jumps, in milliseconds. */
  readonly monotonic?: () => number;
  readonly wall?: () => number;
}

/** Wall clocks that NTP keeps differ by milliseconds. */
const apartMs = 5000;
/** The warning is repeated this often at most while the clocks stay apart. */
const warnEveryMs = 60_000;

/** Measures the offset once, and returns the clock. */
export async function createClock({
  ask,
  onClocksApart,
  monotonic = () => performance.now(),
  wall = () => Date.now(),
}: ClockOptions): Promise<Clock> {
  let offset: number | undefined;
  let warnedAt = Number.NEGATIVE_INFINITY;
  const measure = async () => {
    const before = monotonic();
    const theirs = await ask();
    const after = monotonic();
    // The database read its clock between the two, so that the offset is between these. One that still can be right is kept: a slow answer says little.
    const least = theirs - after;
    const most = theirs + 1 - before;
    offset = offset === undefined ? (least + most) / 2 : Math.min(Math.max(offset, least), most);
    const aheadMs = Math.round(wall() - (after + offset));
    if (Math.abs(aheadMs) > apartMs && after - warnedAt >= warnEveryMs) {
      warnedAt = after;
      onClocksApart(aheadMs);
    }
  };
  await measure();
  return { now: () => Math.floor(monotonic() + (offset as number)), measure };
}
