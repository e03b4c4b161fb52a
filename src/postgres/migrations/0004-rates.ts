import { type Kysely, sql } from 'kysely';

/** Counts of rates that all instances share (RATE_STORE=postgres), in the shape of rate-limiter-flexible. Unlogged: a crash forgives them, and they are written for each batch. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create unlogged table sendbatch.rate (
      key varchar(255) primary key,
      points integer not null default 0,
      expire bigint
    )`.execute(db);
}
