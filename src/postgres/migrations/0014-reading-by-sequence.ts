import { type Kysely, sql } from 'kysely';

/**
 * What reading needs so that it compares sequences instead of clocks, and costs what it returns.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Where the channel and its commands stood when the member joined. Null: the member was added by a version
  // that did not note it; then the times of the messages decide, as they did for that version.
  await sql`
    alter table sendbatch.channel_uid
      add column joined_seq bigint, add column joined_command_seq bigint`.execute(db);

  // The latest accepted_at of the channel. The next message gets no earlier one, whatever the clock of the
  // instance that takes it says: so accepted_at never falls with the sequence, and a time is found by halving.
  await sql`alter table sendbatch.channel_head add column last_at bigint not null default 0`.execute(db);

  // Only messages with a tag or a stream are in them, so that no other message pays for them.
  await sql`
    create index message_tagged on sendbatch.message (channel_key, tag_key, message_seq)
    where tag_key is not null`.execute(db);
  await sql`
    create index message_streamed on sendbatch.message (channel_key, stream_no, message_seq)
    where stream_no is not null`.execute(db);
}
