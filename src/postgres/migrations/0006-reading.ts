import { type Kysely, sql } from 'kysely';

/**
 * What reading needs besides messages: channels by member, read cursors, commands per user,
 * ephemeral messages, expiry.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create index channel_member_of on sendbatch.channel_uid (uid, channel_key) where member`.execute(db);
  // Members of person and agent channels created before members were recorded.
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

  // A user's commands in the user's own numbering: each is taken from its channel once, under the
  // lock of the user's head, and stays until it is acknowledged.
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

  // Messages with no_persist on their way to other instances; unlogged, and swept after a minute.
  await sql`
    create unlogged table sendbatch.live_message (
      live_id bigint generated always as identity primary key,
      sent_at bigint not null,
      body jsonb not null
    )`.execute(db);

  // For the sweeper. Only expiring messages are in it, so that others do not pay for it.
  await sql`
    create index message_expiry on sendbatch.message ((accepted_at + greatest(expire * 1000, 86400000)))
    where expire is not null`.execute(db);
}
