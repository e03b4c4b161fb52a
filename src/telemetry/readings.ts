import type { Registry } from './registry.ts';

interface PoolCounts {
  readonly most: number;
  readonly open: number;
  readonly idle: number;
  readonly waiting: number;
}

/** What is read at each scrape: how things stand now. */
export interface Sources {
  /** By what they are for. */
  readonly pools: ReadonlyMap<string, () => PoolCounts>;
  /** Lane by lane; undefined without group commit. */
  readonly lanes: (() => readonly { items: number; jobs: number; oldestMs: number }[]) | undefined;
  readonly laneMessages: number;
  readonly tails: () => { readonly readers: number; readonly channels: number };
  readonly isListening: () => boolean;
  readonly lockWaits: () => Promise<{ waiting: number; longestSeconds: number }>;
  readonly webhookQueue: () => Promise<{ queued: number; oldestMs: number; parked: number }>;
  readonly batchQueue: () => Promise<{ batches: number; messages: number; oldestDueMs: number }>;
}

/** A scrape waits so long for the database's own view: without an answer those two series are missing. */
const lockWaitsMs = 1000;

export function watchSources(registry: Registry, sources: Sources): void {
  const { pools, lanes, tails, isListening } = sources;
  const each = (value: (counts: PoolCounts) => number, state?: string) =>
    [...pools].map(([pool, counts]) => ({
      value: value(counts()),
      labels: { pool, ...(state === undefined ? {} : { state }) },
    }));
  registry.gauge('sendbatch_pool_connections', 'Open connections to the database, by pool and state.', () => [
    ...each(({ idle }) => idle, 'idle'),
    ...each(({ open, idle }) => open - idle, 'used'),
  ]);
  registry.gauge('sendbatch_pool_connections_max', 'Connections that a pool opens at most.', () =>
    each(({ most }) => most),
  );
  registry.gauge('sendbatch_pool_waiting_requests', 'Statements and transactions that wait for a connection.', () =>
    each(({ waiting }) => waiting),
  );
  if (lanes !== undefined) {
    const byLane = (value: (lane: { items: number; jobs: number; oldestMs: number }) => number) =>
      lanes().map((lane, index) => ({ value: value(lane), labels: { lane: String(index) } }));
    registry.gauge('sendbatch_lane_waiting_messages', 'Messages that wait in a lane for its next commit.', () =>
      byLane(({ items }) => items),
    );
    registry.gauge('sendbatch_lane_waiting_batches', 'Batches that wait in a lane for its next commit.', () =>
      byLane(({ jobs }) => jobs),
    );
    registry.gauge('sendbatch_lane_oldest_age_seconds', 'How long the oldest batch of a lane has waited.', () =>
      byLane(({ oldestMs }) => oldestMs / 1000),
    );
    registry.gauge('sendbatch_lane_limit_messages', 'Messages that may wait in a lane: more are refused.', () => [
      { value: sources.laneMessages },
    ]);
  }
  registry.gauge('sendbatch_tail_readers', 'Live tails that are open.', () => [{ value: tails().readers }]);
  registry.gauge('sendbatch_tail_channels', 'Channels that live tails follow.', () => [{ value: tails().channels }]);
  registry.gauge(
    'sendbatch_listener_connected',
    'Whether hints of other instances are heard: without them tails look every five seconds.',
    () => [{ value: isListening() ? 1 : 0 }],
  );

  watchQueues(registry, sources);
}

/** Gauges of one look at the database, of which every instance says the same. */
function watchShared<T>(registry: Registry, read: () => Promise<T>) {
  const ask = shared(read);
  return (name: string, help: string, value: (seen: T) => number) =>
    registry.gauge(name, help, async () => {
      const seen = await ask();
      return seen === undefined ? [] : [{ value: value(seen) }];
    });
}

function watchQueues(registry: Registry, { lockWaits, batchQueue, webhookQueue }: Sources): void {
  const lock = watchShared(registry, lockWaits);
  lock(
    'sendbatch_lock_waiting_connections',
    'Connections of all instances that wait for a lock now.',
    (now) => now.waiting,
  );
  lock('sendbatch_lock_waiting_longest_seconds', 'How long the first of them has waited.', (now) => now.longestSeconds);
  const batch = watchShared(registry, batchQueue);
  batch('sendbatch_batch_queue_batches', 'Submitted batches that are not done.', ({ batches }) => batches);
  batch('sendbatch_batch_queue_messages', 'Messages of those that have no result yet.', ({ messages }) => messages);
  batch(
    'sendbatch_batch_queue_oldest_age_seconds',
    'For how long the first of them has been due; one that is scheduled for later is not.',
    ({ oldestDueMs }) => oldestDueMs / 1000,
  );
  const webhook = watchShared(registry, webhookQueue);
  webhook(
    'sendbatch_webhook_queue_messages',
    'Messages that webhooks have yet to get, each counted for each.',
    (now) => now.queued,
  );
  webhook(
    'sendbatch_webhook_queue_oldest_age_seconds',
    'For how long the first of them has waited.',
    (now) => now.oldestMs / 1000,
  );
  webhook(
    'sendbatch_webhook_parked_deliveries',
    'Deliveries that failed as often as they may, and wait for somebody to ask for them.',
    (now) => now.parked,
  );
}

/** Asks once for all who ask meanwhile, so that a database that hangs holds one connection; undefined when it fails or takes too long. */
function shared<T>(ask: () => Promise<T>): () => Promise<T | undefined> {
  let asked: Promise<T | undefined> | undefined;
  return async () => {
    asked ??= ask()
      .catch(() => undefined)
      .finally(() => {
        asked = undefined;
      });
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => resolve(undefined), lockWaitsMs);
    return await Promise.race([asked, promise]).finally(() => clearTimeout(timer));
  };
}
