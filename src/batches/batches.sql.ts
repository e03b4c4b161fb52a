import { type RawBuilder, sql } from 'kysely';
import type { RecallCounts } from '../changes/recall-stored.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { BatchCounts } from '../observability/events/batch-counts.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import type { BatchState, Chunk } from './batch.ts';

/** A stored batch. Times are in milliseconds since 1970. */
export interface StoredBatch {
  readonly batchId: string;
  readonly state: BatchState;
  readonly callerId: string;
  /** Snapshot of the caller at submission. */
  readonly caller: unknown;
  readonly name: string;
  readonly requestId: string;
  readonly contentHash: Buffer;
  /** Cost of one slot. */
  readonly priority: number;
  readonly messageCount: number;
  readonly counts: BatchCounts;
  readonly createdAt: number;
  readonly sendAt: number | null;
  readonly startedAt: number | null;
  readonly endedAt: number | null;
  readonly dueAt: number | null;
  readonly attempts: number;
  /** Start of the current time without progress; null while it makes progress. */
  readonly stalledSince: number | null;
  readonly lastRefusal: Refusal | null;
  /** Name of the caller that cancelled it, and when; null: no caller did. */
  readonly cancelledBy: string | null;
  readonly cancelledAt: number | null;
  /** Null: it was not recalled. */
  readonly recall: BatchRecall | null;
  /**
   * Total cost of its slots. It grows with each claim, so a worker that was presumed dead changes
   * nothing.
   */
  readonly fencingToken: number;
}

/** The recall of a batch. Times are in milliseconds since 1970. */
export interface BatchRecall {
  /** Name of the caller. */
  readonly by: string;
  readonly requestedAt: number;
  /** Null while it is under way. */
  readonly endedAt: number | null;
  /** Messages accepted earlier are too old. */
  readonly notBefore: number;
  readonly counts: RecallCounts;
}

/** The fields of a new batch. */
export type NewBatch = Pick<
  StoredBatch,
  'batchId' | 'callerId' | 'caller' | 'name' | 'requestId' | 'priority' | 'createdAt' | 'sendAt'
> & {
  /** The batch's own templates, as JSON. */
  readonly templates: string;
};

/** A row of the table. */
export interface BatchRow {
  readonly batch_id: string;
  readonly state: BatchState;
  readonly caller_id: string;
  readonly caller: unknown;
  readonly name: string;
  readonly request_id: string;
  readonly content_hash: Buffer;
  readonly priority: number;
  readonly turns_taken: number;
  readonly message_count: number;
  readonly accepted_count: number;
  readonly duplicate_count: number;
  readonly refused_count: number;
  readonly created_at: number;
  readonly send_at: number | null;
  readonly started_at: number | null;
  readonly ended_at: number | null;
  readonly due_at: number | null;
  readonly attempts: number;
  readonly stalled_since: number | null;
  readonly last_refusal: Refusal | null;
  readonly cancelled_by: string | null;
  readonly cancelled_at: number | null;
  readonly recalled_by: string | null;
  readonly recall_requested_at: number | null;
  readonly recall_ended_at: number | null;
  readonly recall_not_before: number | null;
  readonly recalled_count: number;
  readonly recall_refused_count: number;
  readonly recall_missing_count: number;
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const noHash = Buffer.alloc(0);

/** The columns that callers see. The templates, up to 6 MiB, are read only to send the batch. */
const batchColumns = sql.raw(
  `batch_id, state, caller_id, caller, name, request_id, content_hash, priority, turns_taken, message_count, accepted_count, duplicate_count,
  refused_count, created_at, send_at, started_at, ended_at, due_at, attempts, stalled_since, last_refusal, cancelled_by, cancelled_at,
  recalled_by, recall_requested_at, recall_ended_at, recall_not_before, recalled_count, recall_refused_count, recall_missing_count`,
);

/** Inserts a batch whose messages are still arriving. Callers cannot see it. */
export async function insertReceiving(db: Db, batch: NewBatch): Promise<void> {
  await sql`
    insert into sendbatch.batch (batch_id, created_at, received_at, send_at, turns_taken, priority, message_count, state, caller_id, caller, name,
      request_id, content_hash, templates)
    values (${batch.batchId}, ${batch.createdAt}, ${databaseNow}, ${batch.sendAt}, 0, ${batch.priority}, 0, 'receiving', ${batch.callerId},
      ${JSON.stringify(batch.caller)}, ${batch.name}, ${batch.requestId}, ${noHash}, ${batch.templates})`.execute(db);
}

/**
 * Stores chunks of a batch that is being received. False: it was swept as abandoned, and nothing
 * was stored.
 */
export async function receiveChunks(
  db: Db | Tx,
  batchId: string,
  firstOrdinal: number,
  chunks: readonly Chunk[],
): Promise<boolean> {
  const { rows } = await sql`
    with receiving as (
      update sendbatch.batch set received_at = ${databaseNow} where batch_id = ${batchId} and state = 'receiving' returning batch_id
    ), inserted as (
      insert into sendbatch.batch_chunk (batch_id, ordinal, due_at, drafts)
      select receiving.batch_id, ${firstOrdinal}::integer + chunk.position - 1, chunk.due_at, chunk.drafts
      from receiving, unnest(${chunks.map((each) => each.dueAt)}::bigint[], ${chunks.map((each) => each.drafts)}::text[])
        with ordinality as chunk(due_at, drafts, position))
    select from receiving`.execute(db);
  return rows.length === 1;
}

/**
 * Queues a received batch. Its row is locked by `receiveChunks` of the same transaction. Throws a
 * unique_violation if the caller has another batch with this request_id.
 *
 * Its cost starts one above the caller's batch with the least cost: it does not wait for older
 * batches that have cost more, and a series of small batches cannot starve the older ones.
 */
export async function queueBatch(
  db: Db | Tx,
  { batchId, callerId }: Pick<NewBatch, 'batchId' | 'callerId'>,
  more: { readonly messageCount: number; readonly contentHash: Buffer },
): Promise<StoredBatch> {
  const { rows } = await sql<BatchRow>`
    update sendbatch.batch set state = 'queued', message_count = ${more.messageCount}, content_hash = ${more.contentHash},
      turns_taken = coalesce((
        select min(turns_taken - case when in_flight then priority else 0 end) + 1 from sendbatch.batch
        where caller_id = ${callerId} and due_at is not null), 0),
      due_at = (select min(due_at) from sendbatch.batch_chunk where batch_id = ${batchId})
    where batch_id = ${batchId} and state = 'receiving' returning ${batchColumns}`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error(`batch ${batchId} is not being received`);
  return toStoredBatch(row);
}

/** Deletes a batch and its chunks. */
export async function removeBatch(db: Db, batchId: string): Promise<void> {
  await sql`
    with deleted as (delete from sendbatch.batch where batch_id = ${batchId})
    delete from sendbatch.batch_chunk where batch_id = ${batchId}`.execute(db);
}

export async function findBatch(db: Db, batchId: string): Promise<StoredBatch | undefined> {
  if (!uuid.test(batchId)) return undefined;
  const { rows } = await sql<BatchRow>`
    select ${batchColumns} from sendbatch.batch where batch_id = ${batchId}::uuid and state <> 'receiving'`.execute(db);
  return rows.map(toStoredBatch)[0];
}

/** The batch's own templates, as JSON. */
export async function readTemplates(db: Db, batchId: string): Promise<string> {
  const { rows } = await sql<{ templates: string }>`
    select templates from sendbatch.batch where batch_id = ${batchId}::uuid`.execute(db);
  return rows[0]?.templates ?? '[]';
}

export async function findByRequestId(db: Db, callerId: string, requestId: string): Promise<StoredBatch | undefined> {
  const { rows } = await sql<BatchRow>`
    select ${batchColumns} from sendbatch.batch where caller_id = ${callerId} and request_id = ${requestId} and request_id <> '' and state <> 'receiving'`.execute(
    db,
  );
  return rows.map(toStoredBatch)[0];
}

/** Counts the unfinished batches of a caller, up to `max`. */
export async function countUnfinished(db: Db, callerId: string, max: number): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) as count from (
      select from sendbatch.batch where caller_id = ${callerId} and due_at is not null limit ${max}) as unfinished`.execute(
    db,
  );
  return rows[0]?.count ?? 0;
}

/**
 * Lists batches, newest first, of one caller or all, in some states or any. Each state is read in
 * index order, so a page costs what it returns.
 */
export async function listBatches(
  db: Db,
  {
    callerId,
    states,
    before,
    limit,
  }: {
    readonly callerId: string | undefined;
    readonly states: readonly BatchState[];
    readonly before: { readonly createdAt: number; readonly batchId: string } | undefined;
    readonly limit: number;
  },
): Promise<StoredBatch[]> {
  const newest = (state: RawBuilder<unknown>) => sql`(
    select ${batchColumns} from sendbatch.batch
    where ${state}
      and ${callerId === undefined ? sql`true` : sql`caller_id = ${callerId}`}
      and ${before === undefined ? sql`true` : sql`(created_at, batch_id) < (${before.createdAt}::bigint, ${before.batchId}::uuid)`}
    order by created_at desc, batch_id desc limit ${limit})`;
  const wanted = [...new Set(states)];
  const parts = wanted.length === 0 ? [sql`state <> 'receiving'`] : wanted.map((state) => sql`state = ${state}`);
  const { rows } = await sql<BatchRow>`
    select * from (${sql.join(parts.map(newest), sql` union all `)}) as b
    order by created_at desc, batch_id desc limit ${limit}`.execute(db);
  return rows.map(toStoredBatch);
}

/** Cancels a batch, at once or after its chunk in flight. `by`: name of the caller. */
export async function cancelBatch(db: Db, batchId: string, by: string): Promise<StoredBatch | undefined> {
  const { rows } = await sql<BatchRow>`
    update sendbatch.batch set state = case when in_flight then 'cancelling' else 'cancelled' end,
      due_at = case when in_flight then ${databaseNow} end, ended_at = case when in_flight then null else ${databaseNow} end,
      last_refusal = null, cancelled_by = ${by}, cancelled_at = ${databaseNow}
    where batch_id = ${batchId} and state in ('queued', 'running') returning ${batchColumns}`.execute(db);
  return rows.map(toStoredBatch)[0];
}

/**
 * Cancels what is left of a batch, at once or after its chunk in flight, and makes it due for slots
 * that recall what was sent. Undefined: it was recalled before. `windowMs`: messages accepted
 * earlier than that are too old; undefined: none is.
 */
export async function requestRecall(
  db: Db,
  batchId: string,
  { by, windowMs }: { readonly by: string; readonly windowMs: number | undefined },
): Promise<StoredBatch | undefined> {
  const isUnfinished = sql`state in ('queued', 'running')`;
  const { rows } = await sql<BatchRow>`
    update sendbatch.batch set
      state = case when not ${isUnfinished} then state when in_flight then 'cancelling' else 'cancelled' end,
      ended_at = case when ${isUnfinished} and not in_flight then ${databaseNow} else ended_at end,
      last_refusal = case when ${isUnfinished} then null else last_refusal end,
      cancelled_by = case when ${isUnfinished} then ${by} else cancelled_by end,
      cancelled_at = case when ${isUnfinished} then ${databaseNow} else cancelled_at end,
      due_at = case when ${isUnfinished} and in_flight then ${databaseNow} when ${isUnfinished} then null else due_at end,
      recalled_by = ${by}, recall_requested_at = ${databaseNow}, recall_due_at = ${databaseNow},
      recall_not_before = ${windowMs === undefined ? sql`null` : sql`${databaseNow} - ${windowMs}::bigint`}
    where batch_id = ${batchId} and state <> 'receiving' and recall_requested_at is null returning ${batchColumns}`.execute(
    db,
  );
  return rows.map(toStoredBatch)[0];
}

/**
 * Reads stored results from a position in sending order, up to the first unsettled chunk. If a
 * batch was cancelled between two attempts of a chunk, that chunk is the last one: its final
 * results are included.
 */
export async function readResults(
  db: Db,
  batchId: string,
  from: { readonly dueAt: number; readonly ordinal: number },
  limit: number,
  withDrafts = false,
): Promise<{ dueAt: number; ordinal: number; results: string; drafts: string }[]> {
  const { rows } = await sql<{
    due_at: number;
    ordinal: number;
    settled: boolean;
    results: string | null;
    drafts: string;
  }>`
    select due_at, ordinal, settled or results is not null and exists (
      select from sendbatch.batch b where b.batch_id = c.batch_id and b.ended_at is not null) as settled, results,
      ${withDrafts ? sql`drafts` : sql`''`} as drafts
    from sendbatch.batch_chunk c
    where batch_id = ${batchId} and (due_at, ordinal) >= (${from.dueAt}::bigint, ${from.ordinal}::integer)
    order by due_at, ordinal limit ${limit}`.execute(db);
  const end = rows.findIndex((row) => !row.settled);
  return (end === -1 ? rows : rows.slice(0, end)).map((row) => ({
    dueAt: row.due_at,
    ordinal: row.ordinal,
    results: row.results ?? '[]',
    drafts: row.drafts,
  }));
}

/** A chunk that was not settled when its batch was cancelled. */
export interface UnsentChunk {
  readonly dueAt: number;
  readonly ordinal: number;
  readonly drafts: string;
  /** Results of earlier attempts. */
  readonly results: string;
}

/** The next unsettled chunk from a position in sending order. */
export async function readUnsentChunk(
  db: Db,
  batchId: string,
  from: { readonly dueAt: number; readonly ordinal: number },
): Promise<UnsentChunk | undefined> {
  const { rows } = await sql<{ due_at: number; ordinal: number; drafts: string; results: string | null }>`
    select due_at, ordinal, drafts, results from sendbatch.batch_chunk
    where batch_id = ${batchId} and not settled and (due_at, ordinal) >= (${from.dueAt}::bigint, ${from.ordinal}::integer)
    order by due_at, ordinal limit 1`.execute(db);
  return rows.map((row) => ({ ...row, dueAt: row.due_at, results: row.results ?? '[]' }))[0];
}

/**
 * Deletes batches that ended more than `retentionMs` ago and submissions silent for `idleMs`;
 * returns how many.
 */
export async function sweepBatches(
  db: Db,
  { retentionMs, idleMs, limit }: { readonly retentionMs: number; readonly idleMs: number; readonly limit: number },
): Promise<number> {
  const isExpired = sql`ended_at < ${databaseNow} - ${retentionMs}::bigint and recall_due_at is null`;
  const isAbandoned = sql`state = 'receiving' and received_at < ${databaseNow} - ${idleMs}::bigint`;
  const { rows } = await sql`
    with deleted as (
      delete from sendbatch.batch where batch_id = any(array(
        (select batch_id from sendbatch.batch where ${isExpired} order by ended_at limit ${limit})
        union all
        (select batch_id from sendbatch.batch where ${isAbandoned} order by received_at limit ${limit})))
        -- Checked again under the lock: messages may have arrived since.
        and (${isExpired} or ${isAbandoned})
      returning batch_id
    ), chunks as (delete from sendbatch.batch_chunk where batch_id in (select batch_id from deleted))
    select from deleted`.execute(db);
  return rows.length;
}

export function toStoredBatch(row: BatchRow): StoredBatch {
  return {
    batchId: row.batch_id,
    state: row.state,
    callerId: row.caller_id,
    caller: row.caller,
    name: row.name,
    requestId: row.request_id,
    contentHash: row.content_hash,
    priority: row.priority,
    messageCount: row.message_count,
    counts: { accepted: row.accepted_count, duplicates: row.duplicate_count, refused: row.refused_count },
    createdAt: row.created_at,
    sendAt: row.send_at,
    startedAt: row.started_at,
    endedAt: row.ended_at,
    dueAt: row.due_at,
    attempts: row.attempts,
    stalledSince: row.stalled_since,
    lastRefusal: row.last_refusal,
    cancelledBy: row.cancelled_by,
    cancelledAt: row.cancelled_at,
    recall: recallOf(row),
    fencingToken: row.turns_taken,
  };
}

function recallOf(row: BatchRow): BatchRecall | null {
  if (row.recall_requested_at === null) return null;
  return {
    by: row.recalled_by ?? '',
    requestedAt: row.recall_requested_at,
    endedAt: row.recall_ended_at,
    notBefore: row.recall_not_before ?? 0,
    counts: {
      recalled: row.recalled_count,
      tooOld: row.recall_refused_count,
      missing: row.recall_missing_count,
    },
  };
}
