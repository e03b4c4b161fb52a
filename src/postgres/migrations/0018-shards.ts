import { type Kysely, sql } from 'kysely';

/** The number of shards, which is fixed when the first instance starts (see shard-schemas.ts). */
export async function up(db: Kysely<unknown>): Promise<void> {
  // At most one row. is_ready: the schemas of all shards exist.
  await sql`
    create table sendbatch.shard_layout (
      shards integer not null,
      is_ready boolean not null
    )`.execute(db);
}
