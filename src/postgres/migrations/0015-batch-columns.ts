import { type Kysely, sql } from 'kysely';

/**
 * Adds what 0008-batches gained after databases were created with it: `received_at`, and the index
 * that results are read by. No effect where it had them already.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table sendbatch.batch add column if not exists received_at bigint`.execute(db);
  // For sweeping abandoned uploads.
  await sql`
    update sendbatch.batch set received_at = created_at where state = 'receiving' and received_at is null`.execute(db);
  await sql`
    create index if not exists batch_chunk_order on sendbatch.batch_chunk (batch_id, due_at, ordinal)`.execute(db);
  await sql`drop index if exists sendbatch.batch_chunk_next`.execute(db);
}
