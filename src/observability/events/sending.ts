import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';
import type { BatchCounts } from './batch-counts.ts';

/** Messages of a sent batch by outcome; the refused ones also by reason and by rate limit. */
export interface SendCounts extends BatchCounts {
  readonly refusedByReason: ReadonlyMap<string, number>;
  /** Messages refused by a rate limit, by limit (`caller`, `sender`, `channel`). */
  readonly refusedByLimit: ReadonlyMap<string, number>;
}

/** Reasons that are server errors: the batch is valid, and a retry may succeed. */
const serverErrors: ReadonlySet<string> = new Set(['STORE_BUSY', 'INTERNAL', 'DEADLINE', 'STOPPING']);

/** Events of batches, group commits and the removal of messages. */
export function createSendingEvents(registry: Registry) {
  const batches = registry.counter(metrics.batches);
  const batchMessages = registry.histogram(metrics.batchMessages);
  const messages = registry.counter(metrics.messages);
  const rateLimited = registry.counter(metrics.rateLimitedMessages);
  const groupMessages = registry.histogram(metrics.groupMessages);
  const groupBatches = registry.histogram(metrics.groupBatches);
  const groupWait = registry.histogram(metrics.groupWait);
  const commits = registry.histogram(metrics.commitDuration);
  const retries = registry.counter(metrics.commitRetries);
  const lockWaits = registry.histogram(metrics.lockWait);
  const removed = registry.counter(metrics.removedMessages);
  for (const outcome of ['stored', 'partial', 'refused', 'failed']) batches.add(0, { outcome });
  for (const outcome of ['accepted', 'duplicate']) messages.add(0, { outcome });
  for (const reason of serverErrors) messages.add(0, { outcome: 'refused', reason });
  for (const reason of ['lock_timeout', 'connection_lost', 'conflict']) retries.add(0, { reason });
  for (const reason of ['expired', 'retention']) removed.add(0, { reason });

  return {
    /** A batch was answered, or failed. */
    batchEnded(counts: SendCounts): void {
      const { accepted, duplicates, refused, refusedByReason, refusedByLimit } = counts;
      const isNoneStored = accepted + duplicates === 0;
      const isServerError = isNoneStored && [...refusedByReason.keys()].some((reason) => serverErrors.has(reason));
      const outcome =
        refusedByReason.size === 0 ? 'stored' : isServerError ? 'failed' : isNoneStored ? 'refused' : 'partial';
      batches.add(1, { outcome });
      batchMessages.record(accepted + duplicates + refused);
      if (accepted > 0) messages.add(accepted, { outcome: 'accepted' });
      if (duplicates > 0) messages.add(duplicates, { outcome: 'duplicate' });
      for (const [reason, each] of refusedByReason) messages.add(each, { outcome: 'refused', reason });
      for (const [limit, each] of refusedByLimit) rateLimited.add(each, { limit });
    },
    /** A group of batches was committed, or failed. */
    groupEnded(group: { items: number; jobs: number; waitMs: number }): void {
      groupMessages.record(group.items);
      groupBatches.record(group.jobs);
      groupWait.record(group.waitMs / 1000);
    },
    /** The append of a group ended, after its retries. */
    commitEnded(commit: { mode: string; ms: number; stored: boolean }): void {
      commits.record(commit.ms / 1000, { mode: commit.mode, outcome: commit.stored ? 'stored' : 'failed' });
    },
    /**
     * A group is retried: a precondition does not hold, or the database reported a retryable error.
     */
    commitRepeated(reason: string): void {
      retries.add(1, { reason });
    },
    /** A pessimistic group has its row locks. */
    headsLocked(ms: number): void {
      lockWaits.record(ms / 1000);
    },
    /** Messages were removed. */
    messagesRemoved(reason: 'expired' | 'retention', count: number): void {
      if (count > 0) removed.add(count, { reason });
    },
  };
}
