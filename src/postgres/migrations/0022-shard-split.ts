import { type Kysely, sql } from 'kysely';

/** How a database is divided into more shards. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Blocks of ids up to this one were drawn before the last split: they do not tell the shard.
  await sql`alter table sendbatch.shard_layout add column split_block bigint not null default 0`.execute(db);

  // The split under way: at most one row. step: copying, removing. Channels up to last_key are
  // copied, and of the next one the messages up to last_seq.
  await sql`
    create table sendbatch.shard_split (
      shards_before integer not null,
      shards integer not null,
      step text not null,
      last_key bigint not null,
      last_seq bigint not null
    )`.execute(db);
}
