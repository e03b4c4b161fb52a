import { type RawBuilder, sql } from 'kysely';
import type { Refusal } from '../messages/service-error.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { inTransaction } from '../postgres/transaction.ts';
import type { Tally } from './batch.ts';
import { type BatchRow, type NewBatch, type StoredBatch, toStored } from './batches.sql.ts';

/** A batch whose turn it is, with its own templates as the service wrote them. */
export type ClaimedBatch = StoredBatch & Pick<NewBatch, 'templates'>;

/**
 * Takes the turn of a caller: of its batches that are due the one that has had the fewest, at the price of its priority. What was in flight is taken again: it is of
 * a worker that is gone, for a caller has one turn at a time. Only the database's clock says what is due.
 */
export async function claimBatch(db: Db, callerId: string): Promise<ClaimedBatch | undefined> {
  const { rows } = await sql<BatchRow & { readonly templates: string }>`
    update sendbatch.batch set in_flight = true, started_at = coalesce(started_at, ${databaseNow}), turns_taken = turns_taken + priority,
      state = case state when 'queued' then 'running' else state end
    where batch_id = (
      select batch_id from sendbatch.batch where caller_id = ${callerId} and due_at <= ${databaseNow}
      order by turns_taken, created_at, batch_id limit 1 for update)
    returning *`.execute(db);
  return rows.map((row) => ({ ...toStored(row), templates: row.templates }))[0];
}

/** Why a caller's credential is no longer good. Keys alone can end; a user goes on when a token of its ends. */
export async function callerEnd(db: Db, callerId: string): Promise<'revoked' | 'expired' | undefined> {
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

/** Cancels the batches of keys that were revoked or have expired, with why; what is under way stops at its next turn. Returns their ids. */
export async function stopBatchesOfEndedKeys(
  db: Db,
  why: (end: 'revoked' | 'expired') => Refusal,
  keyId?: string,
): Promise<string[]> {
  const { rows } = await sql<{ batch_id: string }>`
    update sendbatch.batch b set state = case when in_flight then 'cancelling' else 'cancelled' end,
      due_at = case when in_flight then ${databaseNow} end, ended_at = case when in_flight then null else ${databaseNow} end,
      last_refusal = case when k.revoked_at is null then ${JSON.stringify(why('expired'))}::jsonb else ${JSON.stringify(why('revoked'))}::jsonb end
    from sendbatch.api_key k
    where ${keyHasEnded} and (${keyId ?? null}::text is null or k.key_id = ${keyId ?? null}::text) and b.caller_id = 'key ' || k.key_id and b.due_at is not null and b.state in ('queued', 'running')
    returning b.batch_id`.execute(db);
  return rows.map((row) => row.batch_id);
}

/** A chunk as its turn finds it. */
export interface StoredChunk {
  readonly ordinal: number;
  /** Milliseconds since 1970: the time of its messages. */
  readonly dueAt: number;
  readonly drafts: string;
  /** Results of an earlier try, of which some are to be tried again. */
  readonly results: string | null;
  /** Whether it was tried before, and since when. */
  readonly begun: boolean;
  readonly begunAt: number;
  /** Tries without progress, and since when there is none. */
  readonly attempts: number;
  readonly stalledSince: number | null;
  /** The pairs of sender and channel that wait in it, and those that wait in chunks before it. */
  readonly waiting: readonly string[];
  readonly blockers: readonly string[];
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
  readonly blockers: string[] | null;
}

/** When a chunk `c` is ready. */
const readyAt = sql`coalesce(c.waits_until, c.due_at)`;

/**
 * The next chunk of a batch that is ready; it is under way from now on. `underWay`: the one that is, whose worker is gone. Undefined when there is none, or the batch has had another turn
 * since.
 */
export async function beginChunk(
  db: Db,
  { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>,
  which: 'ready' | 'underWay' = 'ready',
): Promise<StoredChunk | undefined> {
  const { rows } = await sql<ChunkRow>`
    with next as (
      select c.ordinal, c.due_at, c.begun from sendbatch.batch_chunk c where c.batch_id = ${batchId} and not c.settled
        and ${which === 'underWay' ? sql`c.under_way` : sql`not c.blocked and ${readyAt} <= ${databaseNow}`}
        and exists (select from sendbatch.batch where batch_id = ${batchId} and turns_taken = ${turn}::bigint)
      order by c.due_at, c.ordinal limit 1)
    update sendbatch.batch_chunk c set begun = true, under_way = true, begun_at = coalesce(c.begun_at, ${databaseNow}) from next
    where c.batch_id = ${batchId} and c.ordinal = next.ordinal
    returning c.ordinal, c.due_at, c.drafts, c.results, next.begun, c.begun_at, c.attempts, c.stalled_since, c.waiting, (
      select array_agg(b.waiting) from sendbatch.batch_chunk b
      where b.batch_id = ${batchId} and not b.settled and b.waiting is not null and (b.due_at, b.ordinal) < (next.due_at, next.ordinal)) as blockers`.execute(
    db,
  );
  const [row] = rows;
  if (row === undefined) return undefined;
  const pairsOf = (text: string | null) => (text === null || text === '' ? [] : text.split(' '));
  return {
    ordinal: row.ordinal,
    dueAt: row.due_at,
    drafts: row.drafts,
    results: row.results,
    begun: row.begun,
    begunAt: row.begun_at,
    attempts: row.attempts,
    stalledSince: row.stalled_since,
    waiting: pairsOf(row.waiting),
    blockers: (row.blockers ?? []).flatMap(pairsOf),
  };
}

/** What a try of a chunk came to. */
export interface Settlement {
  readonly batchId: string;
  readonly turn: number;
  readonly ordinal: number;
  readonly results: string;
  /** Of a chunk that is settled: the drafts that were refused, for a retry. */
  readonly keptDrafts: string;
  /** Newly settled messages. */
  readonly counts: Tally;
  /** What still waits in it; undefined: all its messages have their results. */
  readonly wait: ChunkWait | undefined;
  /** Pairs that waited in it do so no more: chunks that are blocked may go on. */
  readonly frees: boolean;
}

/** Why a chunk has no results for some of its messages. */
export interface ChunkWait {
  /** Pairs of sender and channel, whose later messages wait too. */
  readonly pairs: readonly string[];
  /** Milliseconds until it is tried again; undefined: when a pair that waits in an earlier chunk is free. */
  readonly delayMs: number | undefined;
  /** The whole batch waits with it. */
  readonly holdsBatch: boolean;
  readonly attempts: number;
  readonly stalledSince: number;
  readonly lastRefusal: Refusal | undefined;
}

/** Keeps the results of a try, and moves the batch on. When the batch has had another turn since, that one does it: nothing is counted twice. */
export async function settleChunk(db: Db, s: Settlement): Promise<void> {
  const { wait } = s;
  const isFinal = wait === undefined;
  const delayMs = wait?.delayMs;
  const waitsUntil = delayMs === undefined ? sql`null` : sql`${databaseNow} + ${Math.ceil(delayMs)}::bigint`;
  const earliest = sql`(
    select ${readyAt} from sendbatch.batch_chunk c where c.batch_id = ${s.batchId} and not c.settled and not c.blocked order by ${readyAt} limit 1)`;
  const isLeft = sql`exists (select from sendbatch.batch_chunk c where c.batch_id = ${s.batchId} and not c.settled)`;
  const someWait = sql`exists (
    select from sendbatch.batch_chunk c where c.batch_id = ${s.batchId} and not c.settled and c.waiting is not null)`;
  // Tries and their reason stand as long as some of the batch waits for it.
  const kept = (column: 'attempts' | 'last_refusal', none: RawBuilder<unknown>) =>
    sql`case when b.state = 'cancelling' or b.last_refusal is not null and ${someWait} then b.${sql.raw(column)} else ${none} end`;
  await inTransaction(
    db,
    async (tx) => {
      const { rows } = await sql`
        select from sendbatch.batch where batch_id = ${s.batchId} and turns_taken = ${s.turn}::bigint for update`.execute(
        tx,
      );
      return rows.length === 1;
    },
    (tx, isMine) => ({
      sent: !isMine
        ? []
        : [
            sql`
              update sendbatch.batch_chunk set settled = ${isFinal}, results = ${s.results}, under_way = false,
                drafts = case when ${isFinal} then ${s.keptDrafts} else drafts end, waits_until = ${waitsUntil},
                blocked = ${wait !== undefined && delayMs === undefined}, waiting = ${wait === undefined ? null : wait.pairs.join(' ')},
                attempts = ${wait?.attempts ?? 0}, stalled_since = ${wait?.stalledSince ?? null}::bigint
              where batch_id = ${s.batchId} and ordinal = ${s.ordinal} and not settled`.execute(tx),
            ...(s.frees
              ? [
                  sql`
                    update sendbatch.batch_chunk set blocked = false, waits_until = null
                    where batch_id = ${s.batchId} and not settled and blocked and ordinal <> ${s.ordinal}`.execute(tx),
                ]
              : []),
            sql`
              update sendbatch.batch b set in_flight = false,
                attempts = ${wait?.lastRefusal === undefined ? kept('attempts', sql`0`) : sql`${wait.attempts}`},
                stalled_since = ${wait?.stalledSince ?? null}::bigint,
                last_refusal = ${wait?.lastRefusal === undefined ? kept('last_refusal', sql`null`) : sql`case when b.state = 'cancelling' then b.last_refusal else ${JSON.stringify(wait.lastRefusal)}::jsonb end`},
                accepted_count = accepted_count + ${s.counts.accepted}::integer, duplicate_count = duplicate_count + ${s.counts.duplicate}::integer,
                refused_count = refused_count + ${s.counts.refused}::integer,
                due_at = case when b.state in ('cancelling', 'cancelled') or not ${isLeft} then null
                  else greatest(coalesce(${earliest}, ${databaseNow}), ${wait?.holdsBatch ? waitsUntil : sql`0`}) end,
                state = case when not ${isLeft} then 'completed' when b.state in ('cancelling', 'cancelled') then 'cancelled' else b.state end,
                ended_at = case when not ${isLeft} or b.state in ('cancelling', 'cancelled') then coalesce(ended_at, ${databaseNow}) end
              where b.batch_id = ${s.batchId}`.execute(tx),
          ],
      result: undefined,
    }),
  );
}

/** No chunk of a batch was ready in its turn: it has ended, or waits for the next one. */
export async function restBatch(db: Db, { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>): Promise<void> {
  // Blocked ones without one that they wait for would wait for good.
  await sql`
    update sendbatch.batch_chunk c set blocked = false, waits_until = null where c.batch_id = ${batchId} and not c.settled and c.blocked
      and not exists (select from sendbatch.batch_chunk o where o.batch_id = ${batchId} and not o.settled and not o.blocked)
      and exists (select from sendbatch.batch where batch_id = ${batchId} and turns_taken = ${turn}::bigint)`.execute(
    db,
  );
  await sql`
    with ready as (
      select min(${readyAt}) as at from sendbatch.batch_chunk c where c.batch_id = ${batchId} and not c.settled and not c.blocked
    )
    update sendbatch.batch set in_flight = false, due_at = ready.at, state = case when ready.at is null then 'completed' else state end,
      ended_at = case when ready.at is null then ${databaseNow} end
    from ready where batch_id = ${batchId} and turns_taken = ${turn}::bigint and ended_at is null`.execute(db);
}

/** A try that failed for a reason of its own: the batch is due again later. */
export async function postponeBatch(
  db: Db,
  { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>,
  { delayMs, stalledSince }: { readonly delayMs: number; readonly stalledSince: number },
): Promise<void> {
  await sql`
    update sendbatch.batch set in_flight = false, attempts = attempts + 1, stalled_since = ${stalledSince}::bigint,
      due_at = ${databaseNow} + ${Math.ceil(delayMs)}::bigint
    where batch_id = ${batchId} and turns_taken = ${turn}::bigint and due_at is not null`.execute(db);
}

/** Cancels a batch of which nothing is under way; `why`: the service does so by itself. */
export async function endBatch(
  db: Db,
  { batchId, turn }: Pick<StoredBatch, 'batchId' | 'turn'>,
  why?: Refusal,
): Promise<void> {
  await sql`
    update sendbatch.batch set in_flight = false, state = 'cancelled', due_at = null, ended_at = ${databaseNow},
      last_refusal = ${why === undefined ? sql`last_refusal` : sql`${JSON.stringify(why)}::jsonb`}
    where batch_id = ${batchId} and turns_taken = ${turn}::bigint and ended_at is null`.execute(db);
}

/** When a caller has something to do next. */
export async function nextDue(db: Db, callerId: string): Promise<number | undefined> {
  const { rows } = await sql<{ due_at: number | null }>`
    select min(due_at) as due_at from sendbatch.batch where caller_id = ${callerId} and due_at is not null`.execute(db);
  return rows[0]?.due_at ?? undefined;
}

/** Callers that have something to do now. */
export async function dueCallers(db: Db, limit: number): Promise<string[]> {
  const { rows } = await sql<{ caller_id: string }>`
    select distinct caller_id from sendbatch.batch where due_at <= ${databaseNow} limit ${limit}`.execute(db);
  return rows.map((row) => row.caller_id);
}

/** What there is to do, over all callers. */
export async function batchQueueStats(
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
