import { type Kysely, sql } from 'kysely';

/**
 * Keeps the cost of background work proportional to what it finds: sweeps by age, partly waiting
 * batches, versions of deleted templates.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // oldest_at: no message of the channel is older, up to the skew of two commits; 0: not checked
  // yet. The sweeper visits channels of a type in its order. look_at: when a temporary channel is
  // checked next.
  await sql`
    alter table sendbatch.channel add column oldest_at bigint not null default 0, add column look_at bigint not null default 0`.execute(
    db,
  );
  await sql`create index channel_oldest on sendbatch.channel (channel_type, oldest_at)`.execute(db);
  await sql`
    create index channel_look on sendbatch.channel (look_at) where channel_type = 8 and sequence = 0`.execute(db);

  // For lists of batches by state, and for abandoned uploads.
  await sql`create index batch_in_state on sendbatch.batch (state, created_at desc, batch_id desc)`.execute(db);
  await sql`
    create index batch_of_caller_in_state on sendbatch.batch (caller_id, state, created_at desc, batch_id desc)`.execute(
    db,
  );
  await sql`create index batch_receiving on sendbatch.batch (received_at) where state = 'receiving'`.execute(db);

  // A chunk with messages refused for a transient reason keeps them until waits_until, while the
  // batch continues. waiting: the pairs of sender and channel that wait in it; later messages of
  // these wait too, and a chunk with nothing else is blocked until one of the pairs is free.
  // under_way: an attempt started whose results are not recorded.
  await sql`
    alter table sendbatch.batch_chunk add column waits_until bigint, add column blocked boolean not null default false,
      add column under_way boolean not null default false, add column begun_at bigint, add column attempts integer not null default 0,
      add column stalled_since bigint, add column waiting text`.execute(db);
  await sql`update sendbatch.batch_chunk set under_way = true where begun and not settled`.execute(db);
  await sql`
    create index batch_chunk_ready on sendbatch.batch_chunk (batch_id, coalesce(waits_until, due_at)) where not settled and not blocked`.execute(
    db,
  );

  // The last version of a deleted template: the next one of that name continues from it.
  await sql`
    create table sendbatch.template_deleted (
      name text collate "C" primary key,
      version integer not null,
      deleted_at bigint not null
    )`.execute(db);
}
