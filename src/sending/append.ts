// Appends groups of batches to their channels, each group in one transaction. The one place that
// retries a send.
//
// Entry points: `createAppend` (used by lanes and by LANES=0), `createDryRun` (validate_only).
//
// A group runs in one of three modes:
//
//   optimistic ── precondition fails, key or new channel exists, transient error ──> pessimistic
//   optimistic, pessimistic ── lock timeout ──> skip_locked
//
// Optimistic groups of a lane are sent one behind the other on one connection, while earlier ones
// still run. The other modes need several round trips and have the lane alone.
//
// Every attempt ends in one of these ways:
//  1. Stored: an outcome per message.
//  2. The optimistic attempt was wrong: nothing was stored, retried at once in pessimistic mode.
//  3. A channel was removed or created meanwhile: retried at once, at most `removedChannelAttempts`
//     times.
//  4. A head is locked by another session: retried at once in skip_locked mode. Batches with locked
//     channels get `ChannelsHeld`; held-channels.ts decides how long they wait.
//  5. A transient error (connection lost, deadlock): retried with back-off, at most `maxAttempts`
//     times. A lost commit may have been applied, so the retry finds its own rows by their
//     once-only keys and reports them as accepted.
//  6. The store is busy, or `retryForMs` is over: STORE_BUSY. Nothing was stored, or the same keys
//     find it.
//  7. Any other error is a defect: thrown as it is. group-commit.ts bisects the group, so that one
//     batch fails alone.

import { setTimeout as delay } from 'node:timers/promises';
import { planAppend } from '../messages/append-plan.ts';
import type { Channel } from '../messages/channel.ts';
import { HeadsMissing, readHeads } from '../messages/channel-heads.sql.ts';
import type { PreparedMessage } from '../messages/message.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import { SharedConnection, withConnection } from '../postgres/connection.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import {
  classifyPgError,
  isCreatedChannel,
  isInternalError,
  isLockTimeout,
  isRepeatedSend,
} from '../postgres/pg-errors.ts';
import { shardPoolOf } from '../postgres/shards.ts';
import { type Append, type AppendMode, type AppendWatch, fulfilled } from './append-types.ts';
import type { CommitControl } from './group-commit.ts';
import {
  channelsOf,
  deniedPairs,
  type Group,
  headsByChannel,
  loadGroup,
  lookupKeys,
  messagesOf,
  type Store,
} from './group-context.ts';
import { findEarlier } from './messages.sql.ts';
import { appendOptimistic, type SendStatement, tryOptimistic } from './optimistic-append.ts';
import { appendLocked, ChannelAppeared } from './pessimistic-append.ts';

/**
 * Attempts of one group. Senders cannot deadlock one another (see `lockHeads`); other users of the
 * database can.
 */
const maxAttempts = 6;
const firstPauseMs = 25;
/**
 * Attempts that find a channel removed after its key was looked up; the next attempt creates it
 * again. One or two are enough, since the sweeper leaves a new channel alone. The bound is for a
 * channel whose head was lost.
 */
const removedChannelAttempts = 30;
/**
 * No retry starts later than this after the first attempt. An unresponsive server costs each
 * attempt its full timeout (10 s and 2 s more), so that two attempts fit into the caller's 30 s.
 */
const defaultRetryForMs = 15_000;
/** The default of LOCK_TIMEOUT. */
const defaultLockTimeoutMs = 5000;
/**
 * Share of optimistic groups that may fail before the next one is pessimistic. A failed one costs
 * its group a second attempt; a good one saves three round trips and an index probe per message (37
 * instead of 42 µs at 20 million rows).
 */
const maxMissRate = 0.1;
/** Groups over which the miss rate is averaged, about. */
const missRateWindow = 16;

/** How an appender works. */
export interface AppendOptions {
  /**
   * Milliseconds to wait for locks other than those of heads, such as a table's, while locked heads
   * are skipped.
   */
  readonly lockTimeoutMs?: number;
  /** No retry of a group starts later than this after its first attempt. */
  readonly retryForMs?: number;
  /**
   * Whether groups of a lane are sent behind one another, on a connection that the lane keeps while
   * it is busy. False where lanes share fewer connections.
   */
  readonly pipelines?: boolean;
  /**
   * Whether a message is for a channel that is known to be locked: its group skips locked heads at
   * once.
   */
  readonly holdsAny?: (messages: Iterable<PreparedMessage>) => boolean;
  /** Milliseconds since 1970: the acceptance time of a group. */
  readonly now?: () => number;
  readonly watch?: AppendWatch;
}

/**
 * Creates the appender of a store. It is optimistic as long as the miss rate is below
 * `maxMissRate`.
 */
export function createAppend(
  store: Store,
  {
    retryForMs = defaultRetryForMs,
    lockTimeoutMs = defaultLockTimeoutMs,
    pipelines = true,
    holdsAny,
    now = Date.now,
    watch,
  }: AppendOptions = {},
): Append {
  let missRate = 0;
  const recordMiss = (missed: boolean) => {
    missRate += ((missed ? 1 : 0) - missRate) / missRateWindow;
  };

  const writers = shardPoolOf(store.db);
  const connections: SharedConnection[] = [];
  /** Sends the statement of a group behind those of earlier groups of its lane. */
  const pipelineOf = (control: CommitControl | undefined): SendStatement => {
    if (control === undefined || !pipelines)
      return (statement) => withConnection(writers, (db) => statement(db, () => {}));
    connections[control.lane] ??= new SharedConnection(writers);
    const connection = connections[control.lane] as SharedConnection;
    return (statement) => connection.run((db) => statement(db, () => control.sent()));
  };

  return async (batches, control) => {
    const acceptedAt = now();
    const startedAt = performance.now();
    const ended = (stored: boolean) => watch?.ended({ mode, ms: performance.now() - startedAt, stored });
    const isLate = () => performance.now() - startedAt > retryForMs;
    const skipsLocked = holdsAny?.(messagesOf(batches)) === true;
    const optimistic = missRate < maxMissRate && !skipsLocked ? tryOptimistic(batches, store.rules) : undefined;
    let mode: AppendMode = skipsLocked ? 'skip_locked' : optimistic === undefined ? 'pessimistic' : 'optimistic';
    let mayBeStored = false;
    let removals = 0;
    /** Channels whose heads the last attempt missed. */
    let headless: readonly Channel[] = [];
    let group: Group | undefined;
    for (let attempt = 1; ; ) {
      try {
        if (mode === 'optimistic' && optimistic !== undefined) {
          const appended = await appendOptimistic(store, batches, optimistic, acceptedAt, pipelineOf(control));
          if (appended === 'needs several transactions') {
            mode = 'pessimistic';
            continue;
          }
          recordMiss(appended === undefined);
          if (appended !== undefined) {
            ended(true);
            return appended;
          }
          watch?.repeated('sender_denied');
          mode = 'pessimistic';
          continue;
        }
        await control?.alone();
        if (headless.length > 0) await store.channelKeys.addMissingHeads(headless);
        headless = [];
        group = await loadGroup(batches, store);
        const announce = store.announces?.() === true;
        const options = { mode, acceptedAt, mayBeStored, announce, lockTimeoutMs, watch };
        const appended = await appendLocked(store, group, options);
        recordMiss(appended.missed);
        ended(true);
        store.onStored?.(appended.stored);
        return appended.batches;
      } catch (error) {
        if (mode === 'optimistic' && (isRepeatedSend(error) || isCreatedChannel(error))) {
          recordMiss(true);
          watch?.repeated(isRepeatedSend(error) ? 'duplicate_send' : 'channel_created');
          mode = 'pessimistic';
          continue;
        }
        if (error instanceof HeadsMissing || error instanceof ChannelAppeared) {
          if (error instanceof HeadsMissing) {
            store.channelKeys.forget(error.channelKeys);
            headless = group === undefined ? [] : channelsOf(group, error.channelKeys);
          }
          if (++removals === removedChannelAttempts || isLate()) {
            ended(false);
            throw storeBusy(error);
          }
          watch?.repeated(error instanceof HeadsMissing ? 'channel_removed' : 'channel_created');
          continue;
        }
        if (isLockTimeout(error) && mode !== 'skip_locked') {
          watch?.repeated('lock_timeout');
          mode = 'skip_locked';
          continue;
        }
        const errorClass = store.shards.count > 1 && isInternalError(error) ? 'lost' : classifyPgError(error);
        if (errorClass === 'defect' || errorClass === 'busy' || attempt === maxAttempts || isLate()) {
          ended(false);
          throw errorClass === 'defect' ? error : storeBusy(error);
        }
        watch?.repeated(errorClass === 'lost' ? 'connection_lost' : 'conflict');
        mayBeStored ||= errorClass === 'lost';
        if (mode === 'optimistic') mode = 'pessimistic';
        // Full jitter: groups that collided once must not collide again.
        await delay(Math.random() * firstPauseMs * 2 ** attempt);
        attempt++;
      }
    }
  };
}

/**
 * Creates an appender that decides as `createAppend` does and stores nothing: no number is used, no
 * channel created.
 */
export function createDryRun({ db, shards, channelKeys, rules }: Store): Append {
  return (batches) =>
    orBusy(async () => {
      const group = await loadGroup(batches, { db, shards, channelKeys, rules }, 'only those that exist');
      const heads = await mapByShard(db, shards, group.channelKeys.values(), readHeads);
      const earlier = await findEarlier(db, shards, lookupKeys(group));
      const denials = deniedPairs(group.pairs, await readPairFacts({ db, shards, rules }, group.pairs), rules);
      const state = { heads: headsByChannel(group, heads), earlier, denials, block: 0 };
      return planAppend(batches, state).outcomes.map(fulfilled);
    });
}
