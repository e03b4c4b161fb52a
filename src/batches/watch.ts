import { setTimeout as delay } from 'node:timers/promises';
import type { Caller } from '../messages/caller.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { Batches, StoredBatch } from './batches.ts';

/** Batches as they move. */
export interface BatchWatch {
  /** The batch now and after each change, until it has ended; unchanged every 15 seconds. */
  watch(caller: Caller, batchId: string, signal: AbortSignal): AsyncIterable<StoredBatch>;
  /** It has moved, in this instance. */
  moved(batchId: string): void;
  /** Ends all: the service stops. */
  close(): void;
}

/** What moves in another instance is seen after so long. */
const pollMs = 1000;
/** A chunk takes some tens of milliseconds; nobody reads progress faster than this. */
const leastMs = 100;
const heartbeatMs = 15_000;
/** Those who want to see a batch within so long see it by one look: a thousand watchers were a thousand statements at each chunk, and others were refused. */
const togetherMs = 20;

export function createBatchWatch(batches: Pick<Batches, 'get'>): BatchWatch {
  const waiting = new Map<string, Set<() => void>>();
  const closing = new AbortController();
  const looks = new Map<string, Promise<StoredBatch>>();

  /** Whoever joins does so before it looks: what has moved by then is seen. */
  function look(caller: Caller, batchId: string): Promise<StoredBatch> {
    const key = JSON.stringify([batchId, caller.id, caller.scopes.has('admin')]);
    const begun = looks.get(key);
    if (begun !== undefined) return begun;
    const looking = delay(togetherMs).then(() => {
      looks.delete(key);
      return batches.get(caller, batchId);
    });
    looks.set(key, looking);
    return looking;
  }

  /** Resolves when it has moved, after the poll's time, or when nobody waits any more. */
  async function move(batchId: string, signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const others = waiting.get(batchId) ?? new Set();
    waiting.set(batchId, others.add(resolve));
    const timer = setTimeout(resolve, pollMs);
    const stop = () => resolve();
    signal.addEventListener('abort', stop);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', stop);
      others.delete(resolve);
      if (others.size === 0) waiting.delete(batchId);
    }
  }

  return {
    async *watch(caller, batchId, callSignal) {
      const signal = AbortSignal.any([callSignal, closing.signal]);
      let said = '';
      let saidAt = 0;
      while (!callSignal.aborted) {
        if (closing.signal.aborted)
          throw new ServiceError({
            reason: 'STOPPING',
            message: 'this instance is stopping; watch again to reach another one',
            metadata: {},
            retryAfterMs: 1000,
          });
        const batch = await look(caller, batchId);
        const text = JSON.stringify([batch.state, batch.counts, batch.dueAt, batch.attempts]);
        if (text !== said || performance.now() - saidAt >= heartbeatMs) {
          yield batch;
          said = text;
          saidAt = performance.now();
        }
        if (batch.endedAt !== null) return;
        const moved = move(batchId, signal);
        await delay(leastMs);
        await moved;
      }
    },
    moved(batchId) {
      for (const wake of waiting.get(batchId) ?? []) wake();
    },
    close: () => closing.abort(),
  };
}
