import { type Kysely, sql } from 'kysely';

/** Payload templates; a version never changes. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table sendbatch.template (
      name text collate "C" not null,
      version integer not null,
      body text not null,
      format text not null,
      created_at bigint not null,
      primary key (name, version)
    )`.execute(db);
}
