// SQL of the batch worker: claims a batch, begins a chunk, settles it.
//
// Each statement after a claim is conditional on the batch's fencing token (column turns_taken).
// States of a chunk:
//
//   ready ──beginChunk──> under way ──settleChunk──> settled
//     ^                        │
//     │ waits_until, unblocked │ some messages wait
//     └── waiting, blocked <───┘
//
// A `waiting` chunk has a time of its next attempt. A `blocked` one waits for messages of the same
// sender and channel in an earlier chunk.

import { type RawBuilder, sql } from 'kysely';
import type { RecallCounts } from '../changes/recall-stored.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { BatchCounts } from '../observability/events/batch-counts.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { inTransaction } from '../postgres/transaction.ts';
import { type BatchRow, type NewBatch, type StoredBatch, toStoredBatch } from './batches.sql.ts';

/** A claimed batch with its own templates, as JSON. */
export type ClaimedBatch = StoredBatch & Pick<NewBatch, 'templates'>;

/**
 * Claims the caller's due batch with the least cost, and adds the cost of its priority; first one
 * that has ended and is recalled, since readers see wrong messages meanwhile. A caller
 * has one slot at a time, so a batch still in flight belongs to a worker that died. Due times use
 * the database's clock only.
 */
export async function claimBatch(db: Db, callerId: string): Promise<ClaimedBatch | undefined> {
  const { rows } = await sql<BatchRow & { readonly templates: string }>`
    update sendbatch.batch set in_flight = true, turns_taken = turns_taken + priority,
      started_at = case when ended_at is null then coalesce(started_at, ${databaseNow}) else started_at end,
      state = case state when 'queued' then 'running' else state end
    where batch_id = coalesce((
      select batch_id from sendbatch.batch where caller_id = ${callerId} and recall_due_at <= ${databaseNow} and ended_at is not null
      order by turns_taken, created_at, batch_id limit 1 for update
    ), (
      select batch_id from sendbatch.batch where caller_id = ${callerId} and due_at <= ${databaseNow}
      order by turns_taken, created_at, batch_id limit 1 for update))
    returning *`.execute(db);
  return rows.map((row) => ({ ...toStoredBatch(row), templates: row.templates }))[0];
}

/** How an API key ended. */
export type KeyEnd = 'revoked' | 'expired';

/**
 * How the caller's key ended; undefined: it is valid. A user's batches continue after its token
 * expires.
 */
export async function findKeyEnd(db: Db, callerId: string): Promise<KeyEnd | undefined> {
  const [, keyId] = /^key (.+)$/s.exec(callerId) ?? [];
  if (keyId === undefined) return undefined;
  const { rows } = await sql<{ revoked: boolean }>`
    select revoked_at is not null as revoked from sendbatch.api_key k where key_id = ${keyId} and ${keyHasEnded}`.execute(
    db,
  );
  const [row] = rows;
  return row && (row.revoked ? 'revoked' : 'expired');
}

const keyHasEnded = sql`(k.revoked_at is not null or k.expires_at <= ${databaseNow})`;

/**
 * Cancels the batches of revoked or expired keys (of all, or of one) and returns their ids. A chunk
 * under way ends first.
 */
export async function stopBatchesOfEndedKeys(
  db: Db,
  refusalFor: (end: KeyEnd) => Refusal,
  keyId?: string,
): Promise<string[]> {
  const { rows } = await sql<{ batch_id: string }>`
    update sendbatch.batch b set state = case when in_flight then 'cancelling' else 'cancelled' end,
      due_at = case when in_flight then ${databaseNow} end, ended_at = case when in_flight then null else ${databaseNow} end,
      last_refusal = case when k.revoked_at is null then ${JSON.stringify(refusalFor('expired'))}::jsonb else ${JSON.stringify(refusalFor('revoked'))}::jsonb end
    from sendbatch.api_key k
    where ${keyHasEnded} and (${keyId ?? null}::text is null or k.key_id = ${keyId ?? null}::text)
      and b.caller_id = 'key ' || k.key_id and b.due_at is not null and b.state in ('queued', 'running')
    returning b.batch_id`.execute(db);
  return rows.map((row) => row.batch_id);
}

/** A chunk at the begin of an attempt. */
export interface StoredChunk {
  readonly ordinal: number;
  /** Due time of its messages, in milliseconds since 1970. */
  readonly dueAt: number;
  readonly drafts: string;
  /** Results of earlier attempts, some of them retryable. */
  readonly results: string | null;
  /** Whether there was an earlier attempt. */
  readonly isBegun: boolean;
  /** Time of the first attempt. */
  readonly begunAt: number;
  /** Attempts without progress. */
  readonly attempts: number;
  /** Start of the time without progress; null while there is progress. */
  readonly stalledSince: number | null;
  /** Pairs of sender and channel that wait in this chunk. */
  readonly waitingPairs: readonly string[];
  /** Pairs that wait in earlier chunks. */
  readonly blockingPairs: readonly string[];
}

interface ChunkRow {
  readonly ordinal: number;
  readonly due_at: number;
  readonly drafts: string;
  readonly results: string | null;
  readonly begun: boolean;
  readonly begun_at: number;
  readonly attempts: number;
  readonly stalled_since: number | null;
  readonly waiting: string | null;
  readonly blocking: string[] | null;
}

/** The time from which chunk `c` is ready. */
const readyAt = sql`coalesce(c.waits_until, c.due_at)`;

/**
 * Begins an attempt of the next ready chunk, or (`underWay`) of the chunk that a dead worker left.
 * Undefined if there is none, or the batch was claimed again.
 */
export async function beginChunk(
  db: Db,
  { batchId, fencingToken }: Pick<StoredBatch, 'batchId' | 'fencingToken'>,
  which: 'ready' | 'underWay' = 'ready',
): Promise<StoredChunk | undefined> {
  const { rows } = await sql<ChunkRow>`
    with next as (
      select c.ordinal, c.due_at, c.begun from sendbatch.batch_chunk c where c.batch_id = ${batchId} and not c.settled
        and ${which === 'underWay' ? sql`c.under_way` : sql`not c.blocked and ${readyAt} <= ${databaseNow}`}
        and exists (select from sendbatch.batch where batch_id = ${batchId} and turns_taken = ${fencingToken}::bigint)
      order by c.due_at, c.ordinal limit 1)
    update sendbatch.batch_chunk c set begun = true, under_way = true, begun_at = coalesce(c.begun_at, ${databaseNow}) from next
    where c.batch_id = ${batchId} and c.ordinal = next.ordinal
    returning c.ordinal, c.due_at, c.drafts, c.results, next.begun, c.begun_at, c.attempts, c.stalled_since, c.waiting, (
      select array_agg(earlier.waiting) from sendbatch.batch_chunk earlier
      where earlier.batch_id = ${batchId} and not earlier.settled and earlier.waiting is not null
        and (earlier.due_at, earlier.ordinal) < (next.due_at, next.ordinal)) as blocking`.execute(db);
  const [row] = rows;
  if (row === undefined) return undefined;
  const splitPairs = (text: string | null) => (text === null || text === '' ? [] : text.split(' '));
  return {
    ordinal: row.ordinal,
    dueAt: row.due_at,
    drafts: row.drafts,
    results: row.results,
    isBegun: row.begun,
    begunAt: row.begun_at,
    attempts: row.attempts,
    stalledSince: row.stalled_since,
    waitingPairs: splitPairs(row.waiting),
    blockingPairs: (row.blocking ?? []).flatMap(splitPairs),
  };
}

/** The effects of an attempt of a chunk. */
export interface Settlement {
  readonly batchId: string;
  readonly fencingToken: number;
  readonly ordinal: number;
  readonly results: string;
  /** Refused drafts of a settled chunk, kept for RetryBatch. */
  readonly keptDrafts: string;
  /** Messages that got their final result in this attempt. */
  readonly counts: BatchCounts;
  /** Unset: all messages have their final results. */
  readonly wait: ChunkWait | undefined;
  /** Whether pairs stopped waiting, so that blocked chunks may continue. */
  readonly unblocksOthers: boolean;
}

/** The wait of a chunk that has messages without a final result. */
export interface ChunkWait {
  /** Pairs of sender and channel that wait. Their messages in later chunks wait too. */
  readonly pairs: readonly string[];
  /** Milliseconds until the next attempt; undefined: until an earlier chunk unblocks it. */
  readonly delayMs: number | undefined;
  /** Whether the whole batch waits. */
  readonly holdsBatch: boolean;
  readonly attempts: number;
  readonly stalledSince: number;
  readonly lastRefusal: Refusal | undefined;
}

/**
 * Stores the results of an attempt and updates the batch. Does nothing if the batch was claimed
 * again, so nothing is counted twice.
 */
export async function settleChunk(db: Db, s: Settlement): Promise<void> {
  const { wait } = s;
  const isFinal = wait === undefined;
  const delayMs = wait?.delayMs;
  const nextAttemptAt = delayMs === undefined ? sql`null` : sql`${databaseNow} + ${Math.ceil(delayMs)}::bigint`;
  const earliestReady = sql`(
    select ${readyAt} from sendbatch.batch_chunk c where c.batch_id = ${s.batchId} and not c.settled and not c.blocked order by ${readyAt} limit 1)`;
  const hasUnsettled = sql`exists (select from sendbatch.batch_chunk c where c.batch_id = ${s.batchId} and not c.settled)`;
  const hasWaiting = sql`exists (
    select from sendbatch.batch_chunk c where c.batch_id = ${s.batchId} and not c.settled and c.waiting is not null)`;
  // Attempts and their reason are kept while any chunk of the batch waits.
  const keepOr = (column: 'attempts' | 'last_refusal', none: RawBuilder<unknown>) =>
    sql`case when b.state = 'cancelling' or b.last_refusal is not null and ${hasWaiting} then b.${sql.raw(column)} else ${none} end`;
  const lastRefusal =
    wait?.lastRefusal === undefined
      ? keepOr('last_refusal', sql`null`)
      : sql`case when b.state = 'cancelling' then b.last_refusal else ${JSON.stringify(wait.lastRefusal)}::jsonb end`;
  await inTransaction(
    db,
    (tx) => lockClaimed(tx, s),
    (tx, isCurrent) => ({
      sent: !isCurrent
        ? []
        : [
            sql`
              update sendbatch.batch_chunk set settled = ${isFinal}, results = ${s.results}, under_way = false,
                drafts = case when ${isFinal} then ${s.keptDrafts} else drafts end, waits_until = ${nextAttemptAt},
                blocked = ${wait !== undefined && delayMs === undefined}, waiting = ${wait === undefined ? null : wait.pairs.join(' ')},
                attempts = ${wait?.attempts ?? 0}, stalled_since = ${wait?.stalledSince ?? null}::bigint
              where batch_id = ${s.batchId} and ordinal = ${s.ordinal} and not settled`.execute(tx),
            ...(s.unblocksOthers
              ? [
                  sql`
                    update sendbatch.batch_chunk set blocked = false, waits_until = null
                    where batch_id = ${s.batchId} and not settled and blocked and ordinal <> ${s.ordinal}`.execute(tx),
                ]
              : []),
            sql`
              update sendbatch.batch b set in_flight = false,
                attempts = ${wait?.lastRefusal === undefined ? keepOr('attempts', sql`0`) : sql`${wait.attempts}`},
                stalled_since = ${wait?.stalledSince ?? null}::bigint,
                last_refusal = ${lastRefusal},
                accepted_count = accepted_count + ${s.counts.accepted}::integer, duplicate_count = duplicate_count + ${s.counts.duplicates}::integer,
                refused_count = refused_count + ${s.counts.refused}::integer,
                due_at = case when b.state in ('cancelling', 'cancelled') or not ${hasUnsettled} then null
                  else greatest(coalesce(${earliestReady}, ${databaseNow}), ${wait?.holdsBatch ? nextAttemptAt : sql`0`}) end,
                state = case when not ${hasUnsettled} then 'completed' when b.state in ('cancelling', 'cancelled') then 'cancelled' else b.state end,
                ended_at = case when not ${hasUnsettled} or b.state in ('cancelling', 'cancelled') then coalesce(ended_at, ${databaseNow}) end
              where b.batch_id = ${s.batchId}`.execute(tx),
          ],
      result: undefined,
    }),
  );
}

/** Completes a batch without a ready chunk, or schedules its next slot. */
export async function rescheduleBatch(
  db: Db,
  { batchId, fencingToken }: Pick<StoredBatch, 'batchId' | 'fencingToken'>,
): Promise<void> {
  // If only blocked chunks are left, nothing would ever unblock them.
  await sql`
    update sendbatch.batch_chunk c set blocked = false, waits_until = null where c.batch_id = ${batchId} and not c.settled and c.blocked
      and not exists (select from sendbatch.batch_chunk other where other.batch_id = ${batchId} and not other.settled and not other.blocked)
      and exists (select from sendbatch.batch where batch_id = ${batchId} and turns_taken = ${fencingToken}::bigint)`.execute(
    db,
  );
  await sql`
    with ready as (
      select min(${readyAt}) as at from sendbatch.batch_chunk c where c.batch_id = ${batchId} and not c.settled and not c.blocked
    )
    update sendbatch.batch set in_flight = false, due_at = ready.at, state = case when ready.at is null then 'completed' else state end,
      ended_at = case when ready.at is null then ${databaseNow} end
    from ready where batch_id = ${batchId} and turns_taken = ${fencingToken}::bigint and ended_at is null`.execute(db);
}

/** Schedules the next slot after an attempt that failed with an internal error. */
export async function postponeBatch(
  db: Db,
  { batchId, fencingToken }: Pick<StoredBatch, 'batchId' | 'fencingToken'>,
  { delayMs, stalledSince }: { readonly delayMs: number; readonly stalledSince: number },
): Promise<void> {
  const nextAt = sql`${databaseNow} + ${Math.ceil(delayMs)}::bigint`;
  await sql`
    update sendbatch.batch set in_flight = false, attempts = attempts + 1, stalled_since = ${stalledSince}::bigint,
      due_at = case when due_at is not null then ${nextAt} end,
      recall_due_at = case when recall_due_at is not null then ${nextAt} end
    where batch_id = ${batchId} and turns_taken = ${fencingToken}::bigint and (due_at is not null or recall_due_at is not null)`.execute(
    db,
  );
}

/**
 * Cancels a claimed batch without a chunk under way. `reason`: why the service itself cancels it.
 */
export async function cancelClaimedBatch(
  db: Db,
  { batchId, fencingToken }: Pick<StoredBatch, 'batchId' | 'fencingToken'>,
  reason?: Refusal,
): Promise<void> {
  await sql`
    update sendbatch.batch set in_flight = false, state = 'cancelled', due_at = null, ended_at = ${databaseNow},
      last_refusal = ${reason === undefined ? sql`last_refusal` : sql`${JSON.stringify(reason)}::jsonb`}
    where batch_id = ${batchId} and turns_taken = ${fencingToken}::bigint and ended_at is null`.execute(db);
}

/** A chunk whose messages are to be recalled. */
export interface SentChunk {
  readonly ordinal: number;
  readonly results: string;
  /** Time of its first attempt, in milliseconds since 1970. */
  readonly begunAt: number;
}

/** The next chunks of an ended batch that were not recalled, in sending order. */
export async function readSentChunks(db: Db, batchId: string, limit: number): Promise<SentChunk[]> {
  const { rows } = await sql<{ ordinal: number; results: string; begun_at: number }>`
    select ordinal, results, coalesce(begun_at, 0) as begun_at from sendbatch.batch_chunk
    where batch_id = ${batchId} and not recalled and results is not null
    order by due_at, ordinal limit ${limit}`.execute(db);
  return rows.map((row) => ({ ordinal: row.ordinal, results: row.results, begunAt: row.begun_at }));
}

/**
 * Counts recalled chunks and ends the recall after the last one. Does nothing if the batch was
 * claimed again, so nothing is counted twice.
 */
export async function settleRecall(
  db: Db,
  batch: Pick<StoredBatch, 'batchId' | 'fencingToken'>,
  { ordinals, counts }: { readonly ordinals: readonly number[]; readonly counts: RecallCounts },
): Promise<void> {
  const { batchId } = batch;
  const hasMore = sql`exists (
    select from sendbatch.batch_chunk c where c.batch_id = ${batchId} and not c.recalled and c.results is not null)`;
  await inTransaction(
    db,
    (tx) => lockClaimed(tx, batch),
    (tx, isCurrent) => ({
      sent: !isCurrent
        ? []
        : [
            sql`
              update sendbatch.batch_chunk set recalled = true
              where batch_id = ${batchId} and ordinal = any(${[...ordinals]}::integer[])`.execute(tx),
            sql`
              update sendbatch.batch set in_flight = false, attempts = 0, stalled_since = null,
                recalled_count = recalled_count + ${counts.recalled}::integer,
                recall_refused_count = recall_refused_count + ${counts.tooOld}::integer,
                recall_missing_count = recall_missing_count + ${counts.missing}::integer,
                recall_due_at = case when ${hasMore} then ${databaseNow} end,
                recall_ended_at = case when not ${hasMore} then ${databaseNow} end
              where batch_id = ${batchId}`.execute(tx),
          ],
      result: undefined,
    }),
  );
}

/** Locks a claimed batch; false if it was claimed again. */
async function lockClaimed(
  tx: Tx,
  { batchId, fencingToken }: Pick<StoredBatch, 'batchId' | 'fencingToken'>,
): Promise<boolean> {
  const { rows } = await sql`
    select from sendbatch.batch where batch_id = ${batchId} and turns_taken = ${fencingToken}::bigint for update`.execute(
    tx,
  );
  return rows.length === 1;
}
