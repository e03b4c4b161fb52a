import { type Kysely, sql } from 'kysely';

/**
 * Adds what 0008-batches got after databases had been made with it: `received_at`, and the index by which results are read. Nothing changes
 * where 0008-batches had them already.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table sendbatch.batch add column if not exists received_at bigint`.execute(db);
  // A submission that broke off is swept by it.
  await sql`
    update sendbatch.batch set received_at = created_at where state = 'receiving' and received_at is null`.execute(db);
  await sql`
    create index if not exists batch_chunk_order on sendbatch.batch_chunk (batch_id, due_at, ordinal)`.execute(db);
  await sql`drop index if exists sendbatch.batch_chunk_next`.execute(db);
}
