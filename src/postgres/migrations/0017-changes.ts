import { type Kysely, sql } from 'kysely';

/** Recalled and edited messages, and the numbered changes of each channel. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Null for a message that is as it was sent: no row grows by it.
  await sql`alter table sendbatch.message add column changed jsonb`.execute(db);

  // The number of the channel's last change; null: none. Assigned under the head's lock, as
  // sequences are, so that a reader of change n never finds a new n-1 later.
  await sql`alter table sendbatch.channel_head add column last_change bigint`.execute(db);

  // One row per change; kept as long as its message. kind: 1 edited, 2 recalled.
  await sql`
    create table sendbatch.message_change (
      channel_key bigint not null,
      change_no bigint not null,
      message_seq bigint not null,
      kind smallint not null,
      changed_at bigint not null,
      primary key (channel_key, change_no)
    )`.execute(db);
  // For the sweeper, which removes the changes of the messages it removes.
  await sql`create index message_change_of on sendbatch.message_change (channel_key, message_seq)`.execute(db);
}
