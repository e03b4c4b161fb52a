import { type Kysely, sql } from 'kysely';

/**
 * The chunks that wait. A batch whose messages have times of their own, spread over a day, has nearly as many chunks as messages, and to find the next one took 15 ms, past all that are settled, twice a
 * turn.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create index batch_chunk_unsettled on sendbatch.batch_chunk (batch_id, due_at, ordinal) where not settled`.execute(
    db,
  );
}
