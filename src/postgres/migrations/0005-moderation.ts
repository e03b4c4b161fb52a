import { type Kysely, sql } from 'kysely';

/** Rules about content, a number that rises with each change of them, and the messages that they flagged. */
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
  // In the writing transaction, so that no crash loses a flag; without an index beyond its key, since few messages are flagged and those reviewed go.
  await sql`
    create table sendbatch.flagged_message (
      message_id bigint primary key,
      channel_key bigint not null,
      message_seq bigint not null,
      rule_ids bigint[] not null,
      flagged_at bigint not null
    )`.execute(db);
}
