import { type Kysely, sql } from 'kysely';

/** Lets reads compare sequences instead of clocks, at a cost proportional to what they return. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Heads of the channel and its commands when the member joined. Null: added by a version that did
  // not record them; then acceptance times decide.
  await sql`
    alter table sendbatch.channel_uid
      add column joined_seq bigint, add column joined_command_seq bigint`.execute(db);

  // The latest accepted_at of the channel. The next message gets no earlier one, so that
  // accepted_at never decreases with the sequence and a time is found by binary search.
  await sql`alter table sendbatch.channel_head add column last_at bigint not null default 0`.execute(db);

  // Only messages with a tag or stream are in these indexes, so that others do not pay for them.
  await sql`
    create index message_tagged on sendbatch.message (channel_key, tag_key, message_seq)
    where tag_key is not null`.execute(db);
  await sql`
    create index message_streamed on sendbatch.message (channel_key, stream_no, message_seq)
    where stream_no is not null`.execute(db);
}
