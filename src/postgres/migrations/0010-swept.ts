import { type Kysely, sql } from 'kysely';

/**
 * Messages removed per channel by the sweeper. The last sequence equals kept plus swept messages,
 * so that `verify` distinguishes a lost message from an expired one. Messages removed before this
 * migration count as swept. Only swept channels have a row.
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
