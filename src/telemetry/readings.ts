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

  watchBatches(registry, sources.batchQueue);
  const ask = shared(sources.lockWaits);
  registry.gauge(
    'sendbatch_lock_waiting_connections',
    'Connections of all instances that wait for a lock now.',
    async () => {
      const waits = await ask();
      return waits === undefined ? [] : [{ value: waits.waiting }];
    },
  );
  registry.gauge('sendbatch_lock_waiting_longest_seconds', 'How long the first of them has waited.', async () => {
    const waits = await ask();
    return waits === undefined ? [] : [{ value: waits.longestSeconds }];
  });
}

/** The batches of the background are the database's: every instance says the same of them. */
function watchBatches(registry: Registry, read: Sources['batchQueue']): void {
  const ask = shared(read);
  const gauge = (name: string, help: string, value: (queue: Awaited<ReturnType<typeof read>>) => number) =>
    registry.gauge(name, help, async () => {
      const queue = await ask();
      return queue === undefined ? [] : [{ value: value(queue) }];
    });
  gauge('sendbatch_batch_queue_batches', 'Submitted batches that are not done.', ({ batches }) => batches);
  gauge('sendbatch_batch_queue_messages', 'Messages of those that have no result yet.', ({ messages }) => messages);
  gauge(
    'sendbatch_batch_queue_oldest_age_seconds',
    'For how long the first of them has been due; one that is scheduled for later is not.',
    ({ oldestDueMs }) => oldestDueMs / 1000,
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
