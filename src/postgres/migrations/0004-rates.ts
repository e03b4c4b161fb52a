import { type Kysely, sql } from 'kysely';

/**
 * Rate limit windows that all instances share (RATE_STORE=postgres), in the layout of
 * rate-limiter-flexible. Unlogged: they are written for each batch, and a crash may reset them.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create unlogged table sendbatch.rate (
      key varchar(255) primary key,
      points integer not null default 0,
      expire bigint
    )`.execute(db);
}
