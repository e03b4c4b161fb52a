import { sql } from 'kysely';
import type { Db } from './schema.ts';

/** Reads the database's clock, in milliseconds since 1970. */
export async function databaseClock(db: Db): Promise<number> {
  const { rows } = await sql<{ now: number }>`
    select (extract(epoch from clock_timestamp()) * 1000)::bigint as now`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('the database did not say the time');
  return row.now;
}

/**
 * Database time without a round trip: this process's monotonic clock plus an offset measured
 * against the database.
 *
 * All instances share this clock, so that times one instance writes (acceptance, due time, expiry)
 * compare with another's.
 */
export interface Clock {
  /** Database time in milliseconds since 1970. */
  now(): number;
  /** Measures the offset again. */
  measure(): Promise<void>;
}

/** How a clock measures. */
export interface ClockOptions {
  /** Reads the database's time, in milliseconds since 1970. */
  readonly ask: () => Promise<number>;
  /** Called when the wall clock is far from the database's; positive when it is ahead. */
  readonly onClocksApart: (aheadMs: number) => void;
  /** A clock without jumps, in milliseconds. */
  readonly monotonic?: () => number;
  readonly wall?: () => number;
}

/** Difference that is reported. Clocks kept by NTP differ by milliseconds. */
const apartMs = 5000;
/** Shortest time between two reports. */
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
    // The database read its clock between the two, which bounds the offset. One within the bounds
    // is kept: a slow answer says little.
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
