import { type Kysely, sql } from 'kysely';

/** Moderation rules, a version that increases with each change of them, and flagged messages. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table sendbatch.moderation_rule (
      rule_id bigint generated always as identity primary key,
      action text not null,
      keywords text[] not null,
      patterns text[] not null,
      channel_types smallint[] not null,
      tag_keys text[] not null,
      note text not null
    )`.execute(db);
  await sql`create table sendbatch.moderation_version (version bigint not null)`.execute(db);
  await sql`insert into sendbatch.moderation_version (version) values (0)`.execute(db);
  // Written by the sending transaction, so that no crash loses a flag. No index beyond the key: few
  // messages are flagged, and reviewed ones are removed.
  await sql`
    create table sendbatch.flagged_message (
      message_id bigint primary key,
      channel_key bigint not null,
      message_seq bigint not null,
      rule_ids bigint[] not null,
      flagged_at bigint not null
    )`.execute(db);
}
