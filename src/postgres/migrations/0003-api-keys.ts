import { type Kysely, sql } from 'kysely';

/**
 * API keys. The secret half is stored as SHA-256: a slow hash would not make 256 random bits safer.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table sendbatch.api_key (
      key_id text collate "C" primary key,
      secret_hash bytea not null,
      name text not null,
      scopes text[] not null,
      senders text[],
      rate_per_second integer,
      created_at bigint not null,
      expires_at bigint,
      revoked_at bigint
    )`.execute(db);
}
