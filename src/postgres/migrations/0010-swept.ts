import { type Kysely, sql } from 'kysely';

/**
 * How many messages of a channel the sweeper has taken: with it the last sequence is exactly what is kept and what was swept, so that `verify` can tell a message that
 * is missing from one that has expired. What is gone before this is taken as swept. A row only for channels that were swept.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table sendbatch.swept (
      channel_key bigint primary key,
      messages bigint not null
    ) with (fillfactor = 70)`.execute(db);
  await sql`
    insert into sendbatch.swept (channel_key, messages)
    select h.channel_key, h.last_seq - kept.messages from sendbatch.channel_head h
    cross join lateral (select count(*) as messages from sendbatch.message m where m.channel_key = h.channel_key) kept
    where h.last_seq > kept.messages`.execute(db);
}
