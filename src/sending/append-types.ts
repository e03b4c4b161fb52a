import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { CommitControl } from './group-commit.ts';

/**
 * Result of one batch of a group: an outcome per message, in order, or why the batch could not be
 * stored now.
 */
export type Appended = PromiseSettledResult<readonly Outcome[]>;

/**
 * Appends a group of batches in one transaction: one result per batch, in order. Rejects when the
 * group failed as a whole. Without `control` the group shares no lane.
 */
export type Append = (batches: readonly Batch[], control?: CommitControl) => Promise<readonly Appended[]>;

/**
 * How a group meets the store.
 *  - `optimistic`: assumes that every message is new and every sender permitted. One statement
 *    advances the heads and inserts all rows; the unique index and the precondition make it fail as
 *    a whole where the assumption is wrong.
 *  - `pessimistic`: locks the heads, reads, decides, writes.
 *  - `skip_locked`: pessimistic, without the channels whose heads another session has locked.
 */
export type AppendMode = 'optimistic' | 'pessimistic' | 'skip_locked';

/** Receives what an appender does, for metrics. */
export interface AppendWatch {
  ended(end: { mode: AppendMode; ms: number; stored: boolean }): void;
  /** A group is retried. */
  repeated(
    why:
      | 'duplicate_send'
      | 'sender_denied'
      | 'channel_created'
      | 'channel_removed'
      | 'lock_timeout'
      | 'connection_lost'
      | 'conflict',
  ): void;
  /** Milliseconds from BEGIN until the heads were locked. */
  locked(ms: number): void;
}

export const fulfilled = (value: readonly Outcome[]): Appended => ({ status: 'fulfilled', value });
