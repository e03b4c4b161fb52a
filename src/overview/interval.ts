// What instances report per interval, and how reports are added up. Pure.

import type { ServiceCounts } from '../observability/service-counts.ts';

/** Values of an instance at the end of an interval. */
export interface InstanceGauges {
  /** Messages waiting for a commit, by lane. */
  readonly laneMessages: readonly number[];
  readonly laneOldestMs: number;
  readonly tailReaders: number;
  readonly memoryBytes: number;
}

/** What one instance did in an interval. */
export interface Report extends ServiceCounts, InstanceGauges {
  /** The interval's number: its begin in ms since 1970, divided by its length. */
  readonly tick: number;
  readonly cpuSeconds: number;
}

/** Queues in the database, which are the same for all instances. */
export interface Queues {
  readonly batches: number;
  readonly batchMessages: number;
  readonly batchOldestMs: number;
  readonly webhookMessages: number;
  readonly parkedDeliveries: number;
}

/** What all instances did in an interval. */
export interface Interval {
  readonly tick: number;
  /** The instances that reported. */
  readonly instances: ReadonlySet<string>;
  readonly totals: ServiceCounts;
  readonly laneMessages: number;
  readonly laneOldestMs: number;
  readonly tailReaders: number;
  readonly cpuSeconds: number;
  /** Undefined: the database did not answer. */
  readonly queues: Queues | undefined;
}

type NumberField = {
  [Name in keyof ServiceCounts]: ServiceCounts[Name] extends number ? Name : never;
}[keyof ServiceCounts];

const numberFields: readonly NumberField[] = [
  'accepted',
  'duplicates',
  'calls',
  'refusedCalls',
  'failedCalls',
  'rejectedRequests',
  'tailMessages',
  'webhookMessages',
];

/** Combines two counts field by field; a field that one of them lacks is 0 there. */
function combine(
  a: ServiceCounts,
  b: ServiceCounts,
  operation: (left: number, right: number) => number,
): ServiceCounts {
  const numbers = Object.fromEntries(
    numberFields.map((name) => [name, operation(a[name] ?? 0, b[name] ?? 0)]),
  ) as Record<NumberField, number>;
  const reasons = new Set([...Object.keys(a.refused), ...Object.keys(b.refused)]);
  const refused: Record<string, number> = {};
  for (const reason of reasons) {
    const count = operation(a.refused[reason] ?? 0, b.refused[reason] ?? 0);
    if (count !== 0) refused[reason] = count;
  }
  const sends = a.sends.map((each, index) => operation(each, b.sends[index] ?? 0));
  return { ...numbers, refused, sends };
}

/** The growth of counts from `before` to `now`. */
export function growthOf(now: ServiceCounts, before: ServiceCounts): ServiceCounts {
  return combine(now, before, (left, right) => left - right);
}

/** Adds an instance's report to the interval of its tick; a repeated report changes nothing. */
export function addReport(interval: Interval | undefined, instanceId: string, report: Report): Interval {
  const { tick, laneMessages, laneOldestMs, tailReaders, cpuSeconds } = report;
  const waiting = laneMessages.reduce((sum, each) => sum + each, 0);
  if (interval === undefined)
    return {
      tick,
      instances: new Set([instanceId]),
      totals: report,
      laneMessages: waiting,
      laneOldestMs,
      tailReaders,
      cpuSeconds,
      queues: undefined,
    };
  if (interval.instances.has(instanceId)) return interval;
  return {
    tick,
    instances: new Set([...interval.instances, instanceId]),
    totals: combine(interval.totals, report, (left, right) => left + right),
    laneMessages: interval.laneMessages + waiting,
    laneOldestMs: Math.max(interval.laneOldestMs, laneOldestMs),
    tailReaders: interval.tailReaders + tailReaders,
    cpuSeconds: interval.cpuSeconds + cpuSeconds,
    queues: interval.queues,
  };
}

/**
 * Estimates a quantile from the counts of a histogram's buckets, as Prometheus does: values are
 * taken as spread evenly within a bucket; above the last bound, as that bound. 0: no values.
 */
export function quantile(share: number, counts: readonly number[], bounds: readonly number[]): number {
  const total = counts.reduce((sum, each) => sum + each, 0);
  const rank = share * total;
  let before = 0;
  for (const [index, count] of counts.entries()) {
    if (count > 0 && before + count >= rank) {
      const upper = bounds[index];
      const lower = index === 0 ? 0 : (bounds[index - 1] ?? 0);
      return upper === undefined ? lower : lower + (upper - lower) * ((rank - before) / count);
    }
    before += count;
  }
  return 0;
}
