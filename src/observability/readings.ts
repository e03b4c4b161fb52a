import { type Metric, metrics } from './metrics.ts';
import type { Registry } from './registry.ts';

interface PoolCounts {
  readonly most: number;
  readonly open: number;
  readonly idle: number;
  readonly waiting: number;
}

interface LaneCounts {
  readonly items: number;
  readonly jobs: number;
  readonly oldestMs: number;
}

/** Current values that are read at each scrape. */
export interface Sources {
  /** By the name of the pool. */
  readonly pools: ReadonlyMap<string, () => PoolCounts>;
  /** Per lane; undefined without group commit. */
  readonly lanes: (() => readonly LaneCounts[]) | undefined;
  readonly laneMessages: number;
  readonly tails: () => { readonly readers: number; readonly channels: number };
  readonly isListening: () => boolean;
  readonly lockWaits: () => Promise<{ waiting: number; longestSeconds: number }>;
  readonly webhookQueue: () => Promise<{ queued: number; oldestMs: number; parked: number }>;
  readonly batchQueue: () => Promise<{ batches: number; messages: number; oldestDueMs: number }>;
}

/**
 * A scrape waits this long for the database; without an answer the series of that query are absent.
 */
const queryTimeoutMs = 1000;

/** With more lanes, which are shards, only the largest value of all is reported. */
const mostLaneSeries = 65;

/** Registers the gauges of pools, lanes, tails and queues. */
export function watchSources(registry: Registry, sources: Sources): void {
  const { pools, lanes, tails, isListening } = sources;
  const perPool = (value: (counts: PoolCounts) => number, state?: string) =>
    [...pools].map(([pool, counts]) => ({
      value: value(counts()),
      labels: { pool, ...(state === undefined ? {} : { state }) },
    }));
  registry.gauge(metrics.poolConnections, () => [
    ...perPool(({ idle }) => idle, 'idle'),
    ...perPool(({ open, idle }) => open - idle, 'used'),
  ]);
  registry.gauge(metrics.poolConnectionsMax, () => perPool(({ most }) => most));
  registry.gauge(metrics.poolPendingRequests, () => perPool(({ waiting }) => waiting));
  if (lanes !== undefined) {
    const perLane = (value: (lane: LaneCounts) => number) => {
      const values = lanes().map(value);
      if (values.length > mostLaneSeries) return [{ value: Math.max(...values), labels: { lane: 'largest' } }];
      return values.map((each, index) => ({ value: each, labels: { lane: String(index) } }));
    };
    registry.gauge(metrics.laneMessages, () => perLane(({ items }) => items));
    registry.gauge(metrics.laneBatches, () => perLane(({ jobs }) => jobs));
    registry.gauge(metrics.laneOldestAge, () => perLane(({ oldestMs }) => oldestMs / 1000));
    registry.gauge(metrics.laneLimit, () => [{ value: sources.laneMessages }]);
  }
  registry.gauge(metrics.tailReaders, () => [{ value: tails().readers }]);
  registry.gauge(metrics.tailChannels, () => [{ value: tails().channels }]);
  registry.gauge(metrics.listenerConnected, () => [{ value: isListening() ? 1 : 0 }]);
  watchQueues(registry, sources);
}

/** Gauges that share one query of the database. Every instance reports the same values. */
function watchShared<T>(registry: Registry, read: () => Promise<T>) {
  const query = shared(read);
  return (metric: Metric, value: (result: T) => number) =>
    registry.gauge(metric, async () => {
      const result = await query();
      return result === undefined ? [] : [{ value: value(result) }];
    });
}

function watchQueues(registry: Registry, { lockWaits, batchQueue, webhookQueue }: Sources): void {
  const lock = watchShared(registry, lockWaits);
  lock(metrics.lockWaitingConnections, ({ waiting }) => waiting);
  lock(metrics.lockLongestWait, ({ longestSeconds }) => longestSeconds);
  const batch = watchShared(registry, batchQueue);
  batch(metrics.batchQueueBatches, ({ batches }) => batches);
  batch(metrics.batchQueueMessages, ({ messages }) => messages);
  batch(metrics.batchQueueOldestAge, ({ oldestDueMs }) => oldestDueMs / 1000);
  const webhook = watchShared(registry, webhookQueue);
  webhook(metrics.webhookQueueMessages, ({ queued }) => queued);
  webhook(metrics.webhookQueueOldestAge, ({ oldestMs }) => oldestMs / 1000);
  webhook(metrics.webhookParkedDeliveries, ({ parked }) => parked);
}

/**
 * Shares one query among concurrent readers, so an unresponsive database holds one connection.
 * Undefined: it failed or timed out.
 */
function shared<T>(query: () => Promise<T>): () => Promise<T | undefined> {
  let running: Promise<T | undefined> | undefined;
  return async () => {
    running ??= query()
      .catch(() => undefined)
      .finally(() => {
        running = undefined;
      });
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => resolve(undefined), queryTimeoutMs);
    return await Promise.race([running, promise]).finally(() => clearTimeout(timer));
  };
}
