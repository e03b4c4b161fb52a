import { sql } from 'kysely';
import type { BatchState, Tally } from '../domain/batch.ts';
import type { Refusal } from '../domain/failure.ts';
import { type BatchRow, type NewBatch, type StoredBatch, toStored } from './batch.ts';
import type { Db } from './database.ts';

/** A batch whose turn it is, with its own templates as the service wrote them. */
export type ClaimedBatch = StoredBatch & Pick<NewBatch, 'templates'>;

/**
 * Takes the turn of a caller: of its batches that are due the one that has had the fewest turns, at the price of its priority. What was in flight is taken again: it is of
 * a worker that is gone, for a caller has one turn at a time.
 */
export async function claimBatch(db: Db, callerId: string, now: number): Promise<ClaimedBatch | undefined> {
  const { rows } = await sql<BatchRow & { readonly templates: string }>`
    update sendbatch.batch set in_flight = true, started_at = coalesce(started_at, ${now}::bigint), turns_taken = turns_taken + priority,
      state = case state when 'queued' then 'running' else state end
    where batch_id = (
      select batch_id from sendbatch.batch where caller_id = ${callerId} and due_at <= ${now}::bigint
      order by turns_taken, created_at, batch_id limit 1 for update)
    returning *`.execute(db);
  return rows.map((row) => ({ ...toStored(row), templates: row.templates }))[0];
}

/** A chunk as its turn finds it. */
export interface StoredChunk {
  readonly ordinal: number;
  readonly drafts: string;
  /** Results of an earlier try, of which some are to be tried again. */
  readonly results: string | null;
  /** Whether it was tried before. */
  readonly begun: boolean;
}

/** The next chunk of a batch; it is begun from now on. Undefined when none is left, or the batch has had another turn since. */
export async function beginChunk(
  db: Db,
  { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>,
): Promise<StoredChunk | undefined> {
  const { rows } = await sql<StoredChunk>`
    with next as (
      select ordinal, begun from sendbatch.batch_chunk where batch_id = ${batchId} and not settled
        and exists (select from sendbatch.batch where batch_id = ${batchId} and turns_taken = ${turn}::bigint)
      order by due_at, ordinal limit 1)
    update sendbatch.batch_chunk c set begun = true from next
    where c.batch_id = ${batchId} and c.ordinal = next.ordinal
    returning c.ordinal, c.drafts, c.results, next.begun`.execute(db);
  return rows[0];
}

/** What a try of a chunk came to. */
export interface Settlement {
  readonly batchId: string;
  readonly turn: number;
  readonly ordinal: number;
  readonly results: string;
  /** Of a chunk that is settled: the drafts that were refused, for a retry. */
  readonly keptDrafts: string;
  /** When it is tried again; undefined: all its messages have their results. */
  readonly retryAt: number | undefined;
  /** Newly settled messages. */
  readonly counts: Tally;
  readonly attempts: number;
  readonly stalledSince: number | null;
  readonly lastRefusal: Refusal | undefined;
  readonly now: number;
}

/** Keeps the results of a try, and moves the batch on. When the batch has had another turn since, that one does it: nothing is counted twice. */
export async function settleChunk(db: Db, s: Settlement): Promise<void> {
  const isFinal = s.retryAt === undefined;
  // The subquery sees the chunks as they were before: this one is left out by its number.
  const next = isFinal
    ? sql`(select min(due_at) from sendbatch.batch_chunk where batch_id = ${s.batchId} and not settled and ordinal <> ${s.ordinal})`
    : sql`${s.retryAt}::bigint`;
  await sql`
    with mine as (
      select from sendbatch.batch where batch_id = ${s.batchId} and turns_taken = ${s.turn}::bigint for update
    ), settled as (
      update sendbatch.batch_chunk set settled = ${isFinal}, results = ${s.results}, drafts = case when ${isFinal} then ${s.keptDrafts} else drafts end
      where batch_id = ${s.batchId} and ordinal = ${s.ordinal} and not settled and exists (select from mine)
      returning ordinal
    ), moved as (select ${next} as due_at from settled)
    update sendbatch.batch b set in_flight = false, attempts = ${s.attempts}, stalled_since = ${s.stalledSince}::bigint,
      last_refusal = ${s.lastRefusal === undefined ? null : JSON.stringify(s.lastRefusal)}::jsonb,
      accepted_count = accepted_count + ${s.counts.accepted}::integer, duplicate_count = duplicate_count + ${s.counts.duplicate}::integer,
      refused_count = refused_count + ${s.counts.refused}::integer,
      due_at = case when state in ('cancelling', 'cancelled') then null else moved.due_at end,
      state = case when moved.due_at is null then 'completed' when state in ('cancelling', 'cancelled') then 'cancelled' else state end,
      ended_at = case when moved.due_at is null or state in ('cancelling', 'cancelled') then coalesce(ended_at, ${s.now}::bigint) end
    from moved where b.batch_id = ${s.batchId}`.execute(db);
}

/** A try that failed for a reason of its own: the batch is due again later. */
export async function postponeBatch(
  db: Db,
  { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>,
  { dueAt, stalledSince }: { readonly dueAt: number; readonly stalledSince: number },
): Promise<void> {
  await sql`
    update sendbatch.batch set in_flight = false, attempts = attempts + 1, stalled_since = ${stalledSince}::bigint, due_at = ${dueAt}::bigint
    where batch_id = ${batchId} and turns_taken = ${turn}::bigint and due_at is not null`.execute(db);
}

/** Ends a batch of which nothing is under way, as `cancelled` or `completed`. */
export async function endBatch(
  db: Db,
  { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>,
  state: BatchState,
  now: number,
): Promise<void> {
  await sql`
    update sendbatch.batch set in_flight = false, state = ${state}, due_at = null, ended_at = ${now}::bigint
    where batch_id = ${batchId} and turns_taken = ${turn}::bigint and ended_at is null`.execute(db);
}

/** When a caller has something to do next. */
export async function nextDue(db: Db, callerId: string): Promise<number | undefined> {
  const { rows } = await sql<{ due_at: number | null }>`
    select min(due_at) as due_at from sendbatch.batch where caller_id = ${callerId} and due_at is not null`.execute(db);
  return rows[0]?.due_at ?? undefined;
}

/** Callers that have something to do now. */
export async function dueCallers(db: Db, now: number, limit: number): Promise<string[]> {
  const { rows } = await sql<{ caller_id: string }>`
    select distinct caller_id from sendbatch.batch where due_at <= ${now}::bigint limit ${limit}`.execute(db);
  return rows.map((row) => row.caller_id);
}

/** What there is to do, over all callers. */
export async function standingOfBatches(
  db: Db,
  now: number,
): Promise<{ readonly batches: number; readonly messages: number; readonly oldestDueMs: number }> {
  const { rows } = await sql<{ batches: number; messages: number; oldest: number | null }>`
    select count(*) as batches, coalesce(sum(message_count - accepted_count - duplicate_count - refused_count), 0)::bigint as messages,
      min(due_at) as oldest
    from sendbatch.batch where due_at is not null`.execute(db);
  const [row] = rows;
  const oldest = row?.oldest ?? now;
  return { batches: row?.batches ?? 0, messages: row?.messages ?? 0, oldestDueMs: Math.max(0, now - oldest) };
}
