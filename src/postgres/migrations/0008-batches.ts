import { type Kysely, sql } from 'kysely';

/** Submitted batches: what to send, progress, results. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // due_at is null when the batch has ended, or is still being received; received_at is then the
  // last arrival.
  await sql`
    create table sendbatch.batch (
      batch_id uuid primary key,
      created_at bigint not null,
      send_at bigint,
      received_at bigint,
      started_at bigint,
      ended_at bigint,
      due_at bigint,
      turns_taken bigint not null,
      stalled_since bigint,
      priority smallint not null,
      message_count integer not null,
      accepted_count integer not null default 0,
      duplicate_count integer not null default 0,
      refused_count integer not null default 0,
      attempts integer not null default 0,
      in_flight boolean not null default false,
      state text not null,
      caller_id text collate "C" not null,
      caller jsonb not null,
      name text not null,
      request_id text collate "C" not null,
      content_hash bytea not null,
      templates text not null,
      last_refusal jsonb
    )`.execute(db);
  // For a caller's next slot. Short, since ended batches are not in it.
  await sql`create index batch_due on sendbatch.batch (caller_id, due_at) where due_at is not null`.execute(db);
  await sql`create index batch_of_caller on sendbatch.batch (caller_id, created_at desc, batch_id desc)`.execute(db);
  await sql`create index batch_by_time on sendbatch.batch (created_at desc, batch_id desc)`.execute(db);
  await sql`create index batch_ended on sendbatch.batch (ended_at) where ended_at is not null`.execute(db);
  await sql`
    create unique index batch_once on sendbatch.batch (caller_id, request_id)
    where request_id <> '' and state <> 'receiving'`.execute(db);

  // One row per chunk, not per message: a batch of 100,000 is 100 rows (TOASTed and compressed),
  // stored in a tenth of the time.
  await sql`
    create table sendbatch.batch_chunk (
      batch_id uuid not null,
      ordinal integer not null,
      due_at bigint not null,
      begun boolean not null default false,
      settled boolean not null default false,
      drafts text not null,
      results text,
      primary key (batch_id, ordinal)
    )`.execute(db);
  // Includes settled chunks: results are paged in this order too.
  await sql`create index batch_chunk_order on sendbatch.batch_chunk (batch_id, due_at, ordinal)`.execute(db);
}
