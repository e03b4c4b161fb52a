import { type Kysely, sql } from 'kysely';

/** What reading needs beside the messages: who is in which channels, read cursors, commands by user, messages for who is connected, and what expires. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create index channel_member_of on sendbatch.channel_uid (uid, channel_key) where member`.execute(db);
  // The two sides of every person channel and agent's channel that was made before members were noted.
  await sql`
    insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member)
    select distinct c.channel_key, side, 0, 0, true
    from sendbatch.channel c, string_to_table(c.channel_id, '@') as side
    where c.channel_type in (1, 11) and c.sequence = 0 and c.channel_id like '%@%'
    on conflict do nothing`.execute(db);

  await sql`
    create table sendbatch.read_cursor (
      uid text collate "C" not null,
      channel_key bigint not null,
      read_seq bigint not null,
      primary key (uid, channel_key)
    )`.execute(db);

  // A user's commands in one numbering of its own: each is taken out of its channel once, under the lock of the user's head, and stays until it is acknowledged.
  await sql`
    create table sendbatch.command_head (
      uid text collate "C" primary key,
      last_seq bigint not null default 0,
      acked_seq bigint not null default 0
    )`.execute(db);
  await sql`
    create table sendbatch.command_taken (
      uid text collate "C" not null,
      channel_key bigint not null,
      taken_seq bigint not null,
      primary key (uid, channel_key)
    )`.execute(db);
  await sql`
    create table sendbatch.command_inbox (
      uid text collate "C" not null,
      command_seq bigint not null,
      channel_key bigint not null,
      message_seq bigint not null,
      primary key (uid, command_seq)
    )`.execute(db);

  // Messages with no_persist on their way to the other instances; unlogged, and swept after a minute.
  await sql`
    create unlogged table sendbatch.live_message (
      live_id bigint generated always as identity primary key,
      sent_at bigint not null,
      body jsonb not null
    )`.execute(db);

  // Only what expires is in it, so that nothing else pays for it. The sweeper goes by it.
  await sql`
    create index message_expiry on sendbatch.message ((accepted_at + greatest(expire * 1000, 86400000)))
    where expire is not null`.execute(db);
}
