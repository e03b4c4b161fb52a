import type { OverviewInterval } from '../../gen/client/sendbatch/v1/admin_service_pb.ts';

/** Sums over intervals. */
export interface Totals {
  readonly messages: number;
  readonly perSecond: number;
  /** Messages that were accepted, or had been before. */
  readonly successShare: number;
  /** Weighted by the sends of each interval; 0 without any. */
  readonly p50Ms: number;
  /** The highest of the intervals. */
  readonly p99Ms: number;
  /** Calls that ended with an error of the caller. */
  readonly refusedCalls: number;
  /** Calls that the service failed. */
  readonly failedCalls: number;
  readonly rejectedRequests: number;
}

export function totalsOf(intervals: readonly OverviewInterval[], stepMs: number): Totals {
  let good = 0;
  let refused = 0;
  let sends = 0;
  let p50Sum = 0;
  let p99Ms = 0;
  let refusedCalls = 0;
  let failedCalls = 0;
  let rejectedRequests = 0;
  for (const each of intervals) {
    good += Number(each.acceptedCount + each.duplicateCount);
    for (const { count } of each.refused) refused += Number(count);
    const count = Number(each.sendCount);
    sends += count;
    p50Sum += each.sendP50Seconds * 1000 * count;
    p99Ms = Math.max(p99Ms, each.sendP99Seconds * 1000);
    refusedCalls += Number(each.refusedCallCount);
    failedCalls += Number(each.failedCallCount);
    rejectedRequests += Number(each.rejectedRequestCount);
  }
  const messages = good + refused;
  return {
    messages,
    perSecond: intervals.length === 0 ? 0 : (messages * 1000) / (intervals.length * stepMs),
    successShare: messages === 0 ? 1 : good / messages,
    p50Ms: sends === 0 ? 0 : p50Sum / sends,
    p99Ms,
    refusedCalls,
    failedCalls,
    rejectedRequests,
  };
}

/** The refused messages of all intervals by reason, most frequent first. */
export function mergeReasons(intervals: readonly OverviewInterval[]): { reason: string; count: number }[] {
  const counts = new Map<string, number>();
  for (const { refused } of intervals)
    for (const { reason, count } of refused) counts.set(reason, (counts.get(reason) ?? 0) + Number(count));
  return [...counts].map(([reason, count]) => ({ reason, count })).sort((a, b) => b.count - a.count);
}
