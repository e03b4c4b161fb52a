import { type Kysely, sql } from 'kysely';

/** Who created and revoked a key, and the reports of running instances. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table sendbatch.api_key add column created_by text, add column revoked_by text`.execute(db);
  await sql`create index api_key_created on sendbatch.api_key (created_at, key_id)`.execute(db);

  // One row per process, updated every ten seconds; what a crash loses is reported again.
  await sql`
    create unlogged table sendbatch.instance (
      instance_id text collate "C" primary key,
      report text not null,
      seen_at bigint not null
    ) with (fillfactor = 50)`.execute(db);
}
