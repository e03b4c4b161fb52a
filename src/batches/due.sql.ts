import { sql } from 'kysely';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';

/** The next due time of a caller's batches and recalls, in milliseconds since 1970. */
export async function findNextDue(db: Db, callerId: string): Promise<number | undefined> {
  const { rows } = await sql<{ due_at: number | null }>`
    select least(
      (select min(due_at) from sendbatch.batch where caller_id = ${callerId} and due_at is not null),
      (select min(recall_due_at) from sendbatch.batch
        where caller_id = ${callerId} and recall_due_at is not null and ended_at is not null)) as due_at`.execute(db);
  return rows[0]?.due_at ?? undefined;
}

/** Callers with a due batch or recall. */
export async function findDueCallers(db: Db, limit: number): Promise<string[]> {
  const { rows } = await sql<{ caller_id: string }>`
    select caller_id from (
      select caller_id from sendbatch.batch where due_at <= ${databaseNow}
      union
      select caller_id from sendbatch.batch where recall_due_at <= ${databaseNow} and ended_at is not null
    ) as due limit ${limit}`.execute(db);
  return rows.map((row) => row.caller_id);
}

/**
 * Backlog of all callers: unfinished batches, their messages, and how long the oldest is overdue.
 */
export async function readBatchQueueStats(
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
