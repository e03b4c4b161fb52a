import { type RawBuilder, sql } from 'kysely';
import type { Refusal } from '../messages/service-error.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import type { BatchState, Chunk, Tally } from './batch.ts';

/** A batch as it is kept. Times in milliseconds since 1970. */
export interface StoredBatch {
  readonly batchId: string;
  readonly state: BatchState;
  readonly callerId: string;
  /** The caller at the time of its submission, as the service wrote it. */
  readonly caller: unknown;
  readonly name: string;
  readonly requestId: string;
  readonly contentHash: Buffer;
  /** What a turn costs it. */
  readonly priority: number;
  readonly messageCount: number;
  readonly counts: Tally;
  readonly createdAt: number;
  readonly sendAt: number | null;
  readonly startedAt: number | null;
  readonly endedAt: number | null;
  readonly dueAt: number | null;
  readonly attempts: number;
  /** Since when it makes no progress; null when it does. */
  readonly stalledSince: number | null;
  readonly lastRefusal: Refusal | null;
  /** What its turns have cost it: who settles a turn says which, so that a worker taken for dead, and then not, changes nothing. */
  readonly turn: number;
}

/** What a new batch is. */
export type NewBatch = Pick<
  StoredBatch,
  'batchId' | 'callerId' | 'caller' | 'name' | 'requestId' | 'priority' | 'createdAt' | 'sendAt'
> & {
  /** The batch's own templates, as the service wrote them. */
  readonly templates: string;
};

/** As the table has it. */
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
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const noHash = Buffer.alloc(0);

/** All that callers see of a batch. Its own templates, up to 6 MiB, are only for whoever sends it. */
const seen = sql.raw(
  `batch_id, state, caller_id, caller, name, request_id, content_hash, priority, turns_taken, message_count, accepted_count, duplicate_count,
  refused_count, created_at, send_at, started_at, ended_at, due_at, attempts, stalled_since, last_refusal`,
);

/** Notes a batch whose messages are still coming; nobody sees it. */
export async function insertReceiving(db: Db, batch: NewBatch): Promise<void> {
  await sql`
    insert into sendbatch.batch (batch_id, created_at, received_at, send_at, turns_taken, priority, message_count, state, caller_id, caller, name,
      request_id, content_hash, templates)
    values (${batch.batchId}, ${batch.createdAt}, ${databaseNow}, ${batch.sendAt}, 0, ${batch.priority}, 0, 'receiving', ${batch.callerId},
      ${JSON.stringify(batch.caller)}, ${batch.name}, ${batch.requestId}, ${noHash}, ${batch.templates})`.execute(db);
}

/** Keeps chunks of a batch that is being received. False: it was swept as given up, and nothing was kept. */
export async function receiveChunks(
  db: Db | Tx,
  batchId: string,
  firstOrdinal: number,
  chunks: readonly Chunk[],
): Promise<boolean> {
  const { rows } = await sql`
    with alive as (
      update sendbatch.batch set received_at = ${databaseNow} where batch_id = ${batchId} and state = 'receiving' returning batch_id
    ), kept as (
      insert into sendbatch.batch_chunk (batch_id, ordinal, due_at, drafts)
      select alive.batch_id, ${firstOrdinal}::integer + w.place - 1, w.due_at, w.drafts
      from alive, unnest(${chunks.map((each) => each.dueAt)}::bigint[], ${chunks.map((each) => each.drafts)}::text[])
        with ordinality as w(due_at, drafts, place))
    select from alive`.execute(db);
  return rows.length === 1;
}

/**
 * Makes a batch of what was received. It begins one turn behind the caller's batch that has had the fewest, so that it does not wait for what they have had; and they do not wait for it and all that
 * come after it: beside a caller that always has another small batch, one that begins where the last one began would keep the others waiting for good. Its row is locked by `receiveChunks` of the same transaction. Throws a unique_violation when the caller has another one of this request_id.
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
    where batch_id = ${batchId} and state = 'receiving' returning ${seen}`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error(`batch ${batchId} is not being received`);
  return toStored(row);
}

/** Removes a batch and all of it. */
export async function removeBatch(db: Db, batchId: string): Promise<void> {
  await sql`
    with gone as (delete from sendbatch.batch where batch_id = ${batchId})
    delete from sendbatch.batch_chunk where batch_id = ${batchId}`.execute(db);
}

export async function findBatch(db: Db, batchId: string): Promise<StoredBatch | undefined> {
  if (!uuid.test(batchId)) return undefined;
  const { rows } = await sql<BatchRow>`
    select ${seen} from sendbatch.batch where batch_id = ${batchId}::uuid and state <> 'receiving'`.execute(db);
  return rows.map(toStored)[0];
}

/** The batch's own templates, as the service wrote them. */
export async function readTemplates(db: Db, batchId: string): Promise<string> {
  const { rows } = await sql<{ templates: string }>`
    select templates from sendbatch.batch where batch_id = ${batchId}::uuid`.execute(db);
  return rows[0]?.templates ?? '[]';
}

export async function findByRequestId(db: Db, callerId: string, requestId: string): Promise<StoredBatch | undefined> {
  const { rows } = await sql<BatchRow>`
    select ${seen} from sendbatch.batch where caller_id = ${callerId} and request_id = ${requestId} and request_id <> '' and state <> 'receiving'`.execute(
    db,
  );
  return rows.map(toStored)[0];
}

/** How many batches of a caller have not ended, counted up to a bound. */
export async function countUnfinished(db: Db, callerId: string, most: number): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) as count from (
      select from sendbatch.batch where caller_id = ${callerId} and due_at is not null limit ${most}) as w`.execute(db);
  return rows[0]?.count ?? 0;
}

/** Batches, the newest first: of a caller or of all, in some states or in any. Each state has its own order in an index, so that a page costs what it returns. */
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
    select ${seen} from sendbatch.batch
    where ${state}
      and ${callerId === undefined ? sql`true` : sql`caller_id = ${callerId}`}
      and ${before === undefined ? sql`true` : sql`(created_at, batch_id) < (${before.createdAt}::bigint, ${before.batchId}::uuid)`}
    order by created_at desc, batch_id desc limit ${limit})`;
  const wanted = [...new Set(states)];
  const parts = wanted.length === 0 ? [sql`state <> 'receiving'`] : wanted.map((state) => sql`state = ${state}`);
  const { rows } = await sql<BatchRow>`
    select * from (${sql.join(parts.map(newest), sql` union all `)}) as b
    order by created_at desc, batch_id desc limit ${limit}`.execute(db);
  return rows.map(toStored);
}

/** Cancels it, now or when the chunk that is under way has ended. */
export async function cancelBatch(db: Db, batchId: string): Promise<StoredBatch | undefined> {
  const { rows } = await sql<BatchRow>`
    update sendbatch.batch set state = case when in_flight then 'cancelling' else 'cancelled' end,
      due_at = case when in_flight then ${databaseNow} end, ended_at = case when in_flight then null else ${databaseNow} end,
      last_refusal = null
    where batch_id = ${batchId} and state in ('queued', 'running') returning ${seen}`.execute(db);
  return rows.map(toStored)[0];
}

/** The results of settled chunks from a place in the order of sending on, as stored, up to the first that is not settled. Of a batch that was cancelled between two tries of a chunk that chunk is the last: what
 * was not to be tried again is what became of it. */
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

/** Removes batches that ended longer ago than this, and submissions of which nothing came for so long; returns how many. */
export async function sweepBatches(
  db: Db,
  { keptMs, silentMs, limit }: { readonly keptMs: number; readonly silentMs: number; readonly limit: number },
): Promise<number> {
  const hasEnded = sql`ended_at < ${databaseNow} - ${keptMs}::bigint`;
  const isGivenUp = sql`state = 'receiving' and received_at < ${databaseNow} - ${silentMs}::bigint`;
  const { rows } = await sql`
    with gone as (
      delete from sendbatch.batch where batch_id = any(array(
        (select batch_id from sendbatch.batch where ${hasEnded} order by ended_at limit ${limit})
        union all
        (select batch_id from sendbatch.batch where ${isGivenUp} order by received_at limit ${limit})))
        -- Checked again under the lock: more may have come meanwhile.
        and (${hasEnded} or ${isGivenUp})
      returning batch_id
    ), chunks as (delete from sendbatch.batch_chunk where batch_id in (select batch_id from gone))
    select from gone`.execute(db);
  return rows.length;
}

export function toStored(row: BatchRow): StoredBatch {
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
    counts: { accepted: row.accepted_count, duplicate: row.duplicate_count, refused: row.refused_count },
    createdAt: row.created_at,
    sendAt: row.send_at,
    startedAt: row.started_at,
    endedAt: row.ended_at,
    dueAt: row.due_at,
    attempts: row.attempts,
    stalledSince: row.stalled_since,
    lastRefusal: row.last_refusal,
    turn: row.turns_taken,
  };
}
