import { limits } from '../limits.ts';

/**
 * Calls in flight that are never refused, however long they wait: this many callers that each wait
 * for their answer are no overload. A few more than the limit, because an answered call counts
 * until its response is closed.
 */
export const calmCalls = limits.calmCalls + 10;

/** Measurements of the last second. */
export interface ServiceRate {
  /** Median duration of the calls that were stored, in milliseconds; infinite: no call ends. */
  readonly usualMs: number;
  /** Calls that end per second. */
  readonly perSecond: number;
}

/** Share of `waitMs` that calls wait at the limit, so that few of them wait longer than it. */
const aim = 0.75;

/**
 * Limit of calls in flight: as many as end in time (Little's law), less the time that calls wait
 * for the event loop before they are counted. No limit while calls wait less than half of `waitMs`:
 * bursts pass, and the rate of a service that was idle says nothing.
 */
export function concurrencyLimit({ usualMs, perSecond }: ServiceRate, lateMs: number, waitMs: number): number {
  if (usualMs + lateMs < waitMs / 2) return Number.POSITIVE_INFINITY;
  return Math.max(calmCalls, (perSecond * (aim * waitMs - lateMs)) / 1000);
}

/**
 * Share of the calls that are not counted (reads, streams) to refuse: it rises from 0 to 1 while
 * the delay of the event loop rises from half of `waitMs` to one and a half (random early
 * detection, RFC 2309).
 */
export function refusedShare(lateMs: number, waitMs: number): number {
  return Math.min(1, Math.max(0, lateMs / waitMs - 0.5));
}
