import { type Kysely, sql } from 'kysely';

/**
 * What a channel is and who is in it, and the same for users. They hang on the key of the channel's message sequence; its commands go by the same.
 * Users have tables of their own: a uid is no channel, and most uids never get a row.
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

  // One row a uid and channel, whatever lists it is on: one probe tells all of a sender. The partial indexes are for "has anybody an
  // allowlist entry here" and for the pages of the two lists, which are short where the members are many.
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
