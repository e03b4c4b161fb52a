import { type Kysely, sql } from 'kysely';
import { forEachShard } from '../shard-schemas.ts';

/** Recalls of batches, changes for webhooks, copies of replaced contents, swept changes. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await forEachShard(db, async (shard) => {
    // For `verify`: a channel's last change equals its kept plus its swept changes.
    await sql`alter table sendbatch.swept add column changes bigint not null default 0`.execute(shard);

    // after_seq: the channel's last message when it changed, which places the change among the
    // messages. to_route: not routed to webhooks yet; false where none existed.
    await sql`
      alter table sendbatch.message_change add column after_seq bigint not null default 0,
        add column to_route boolean not null default false`.execute(shard);
    await sql`
      create index message_change_to_route on sendbatch.message_change (channel_key, change_no) where to_route`.execute(
      shard,
    );

    // Contents that an edit or a recall replaced, while RECALL_KEEP_DAYS keeps them. revision: of
    // the content, 0 as it was sent. kind: of the change that replaced it.
    await sql`
      create table sendbatch.message_copy (
        channel_key bigint not null,
        message_seq bigint not null,
        revision integer not null,
        kind smallint not null,
        payload bytea not null,
        subscribers jsonb,
        copied_at bigint not null,
        primary key (channel_key, message_seq, revision)
      )`.execute(shard);
    await sql`create index message_copy_age on sendbatch.message_copy (copied_at)`.execute(shard);
  });

  // Beside webhook_queue, which older versions read: a range of changes per webhook and channel.
  // Both take their queued_id from one sequence.
  await sql`
    create table sendbatch.webhook_change_queue (
      webhook_key bigint not null,
      channel_key bigint not null,
      lane smallint not null,
      queued_id bigint not null default nextval('sendbatch.webhook_queued'),
      first_change bigint not null,
      last_change bigint not null,
      since bigint not null,
      primary key (webhook_key, channel_key)
    ) with (fillfactor = 70)`.execute(db);
  await sql`
    create index webhook_change_queue_lane on sendbatch.webhook_change_queue (webhook_key, lane, queued_id)`.execute(
    db,
  );
  // A delivery of changes: its kind and ranges. Its `ranges` are null, so that older versions leave
  // the lane alone.
  await sql`alter table sendbatch.webhook_lane add column changes jsonb`.execute(db);
  await sql`alter table sendbatch.webhook_parked add column changes jsonb`.execute(db);

  // Who cancelled and recalled a batch. recall_due_at is not null while it is recalled: older
  // versions would send on by due_at. recall_not_before: messages accepted earlier are too old.
  await sql`
    alter table sendbatch.batch add column cancelled_by text, add column cancelled_at bigint,
      add column recalled_by text, add column recall_requested_at bigint, add column recall_due_at bigint,
      add column recall_ended_at bigint, add column recall_not_before bigint, add column recalled_count integer not null default 0,
      add column recall_refused_count integer not null default 0, add column recall_missing_count integer not null default 0`.execute(
    db,
  );
  await sql`
    create index batch_recall_due on sendbatch.batch (caller_id, recall_due_at) where recall_due_at is not null`.execute(
    db,
  );
  await sql`alter table sendbatch.batch_chunk add column recalled boolean not null default false`.execute(db);
}
