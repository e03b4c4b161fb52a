import { setTimeout as delay } from 'node:timers/promises';
import type { Caller } from '../messages/caller.ts';
import { ServiceError } from '../messages/service-error.ts';
import { secondMs } from '../time.ts';
import type { Batches, StoredBatch } from './batches.ts';

/** Progress of batches. */
export interface BatchWatch {
  /**
   * Yields the batch now and after each change until it has ended, as has its recall if there is
   * one, and unchanged every 15 seconds.
   */
  watch(caller: Caller, batchId: string, signal: AbortSignal): AsyncIterable<StoredBatch>;
  /** Reports a change made by this instance. */
  notify(batchId: string): void;
  /** Ends all watches: the service stops. */
  close(): void;
}

/** Changes by other instances are seen after at most this long. */
const pollMs = secondMs;
/** Minimum time between two updates: a chunk takes tens of ms, and people read no faster. */
const minUpdateMs = 100;
/** Keeps idle connections open through proxies, most of which close them after 30 to 60 s. */
const heartbeatMs = 15 * secondMs;
/**
 * Reads of a batch within this time share one statement. Otherwise 1,000 watchers cost 1,000
 * statements per chunk, and load shedding refuses other calls.
 */
const sharedReadMs = 20;

export function createBatchWatch(batches: Pick<Batches, 'get'>): BatchWatch {
  const listeners = new Map<string, Set<() => void>>();
  const closing = new AbortController();
  const reads = new Map<string, Promise<StoredBatch>>();

  /** Joins a read that has not begun, so that it sees all changes until now. */
  function readShared(caller: Caller, batchId: string): Promise<StoredBatch> {
    const key = JSON.stringify([batchId, caller.id, caller.scopes.has('admin')]);
    const pending = reads.get(key);
    if (pending !== undefined) return pending;
    const read = delay(sharedReadMs).then(() => {
      reads.delete(key);
      return batches.get(caller, batchId);
    });
    reads.set(key, read);
    return read;
  }

  /** Resolves when the batch changed, after the poll interval, or on abort. */
  async function waitForChange(batchId: string, signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const ofBatch = listeners.get(batchId) ?? new Set();
    listeners.set(batchId, ofBatch.add(resolve));
    const timer = setTimeout(resolve, pollMs);
    const onAbort = () => resolve();
    signal.addEventListener('abort', onAbort);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      ofBatch.delete(resolve);
      if (ofBatch.size === 0) listeners.delete(batchId);
    }
  }

  return {
    async *watch(caller, batchId, callSignal) {
      const signal = AbortSignal.any([callSignal, closing.signal]);
      let reported = '';
      let reportedAt = 0;
      while (!callSignal.aborted) {
        if (closing.signal.aborted)
          throw new ServiceError({
            reason: 'STOPPING',
            message: 'this instance is stopping; watch again to reach another one',
            metadata: {},
            retryAfterMs: secondMs,
          });
        const batch = await readShared(caller, batchId);
        const text = JSON.stringify([batch.state, batch.counts, batch.dueAt, batch.attempts, batch.recall]);
        if (text !== reported || performance.now() - reportedAt >= heartbeatMs) {
          yield batch;
          reported = text;
          reportedAt = performance.now();
        }
        if (batch.endedAt !== null && (batch.recall === null || batch.recall.endedAt !== null)) return;
        const change = waitForChange(batchId, signal);
        await delay(minUpdateMs);
        await change;
      }
    },
    notify(batchId) {
      for (const onChange of listeners.get(batchId) ?? []) onChange();
    },
    close: () => closing.abort(),
  };
}
