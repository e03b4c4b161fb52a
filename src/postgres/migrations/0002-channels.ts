import { type Kysely, sql } from 'kysely';

/**
 * Flags and lists of channels, and of users. They refer to the key of the channel's message
 * sequence, also for its commands. Users have separate tables: a uid is no channel, and most uids
 * never get a row.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table sendbatch.channel_info (
      channel_key bigint primary key,
      created_at bigint not null,
      updated_at bigint not null,
      large boolean not null default false,
      ban boolean not null default false,
      disband boolean not null default false,
      send_ban boolean not null default false,
      allow_stranger boolean not null default false
    )`.execute(db);

  // One row per uid and channel for all lists: one probe finds everything about a sender. The
  // partial indexes find whether an allowlist has entries, and serve pages of both lists, which are
  // short where members are many.
  await sql`
    create table sendbatch.channel_uid (
      channel_key bigint not null,
      uid text collate "C" not null,
      created_at bigint not null,
      updated_at bigint not null,
      member boolean not null default false,
      denied boolean not null default false,
      allowed boolean not null default false,
      primary key (channel_key, uid)
    )`.execute(db);
  await sql`create index channel_denied on sendbatch.channel_uid (channel_key, uid) where denied`.execute(db);
  await sql`create index channel_allowed on sendbatch.channel_uid (channel_key, uid) where allowed`.execute(db);

  await sql`
    create table sendbatch.person (
      uid text collate "C" primary key,
      created_at bigint not null,
      updated_at bigint not null,
      large boolean not null default false,
      ban boolean not null default false,
      disband boolean not null default false,
      send_ban boolean not null default false,
      allow_stranger boolean not null default false
    )`.execute(db);
  await sql`
    create table sendbatch.person_uid (
      owner text collate "C" not null,
      uid text collate "C" not null,
      created_at bigint not null,
      updated_at bigint not null,
      denied boolean not null default false,
      allowed boolean not null default false,
      primary key (owner, uid)
    )`.execute(db);
  await sql`create table sendbatch.system_uid (uid text collate "C" primary key)`.execute(db);
}
