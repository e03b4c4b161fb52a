import { type Kysely, sql } from 'kysely';

/**
 * Webhooks and their queue. The queue holds ranges, not messages: a receiver that is down for a day
 * costs one row per channel.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Secrets are stored in the clear: they sign deliveries.
  await sql`
    create table sendbatch.webhook (
      webhook_key bigint generated always as identity primary key,
      name text collate "C" not null unique,
      url text not null,
      format text not null,
      channel_types smallint[] not null,
      disabled_by text,
      batch_size integer not null,
      max_wait_ms integer not null,
      secret text not null,
      previous_secret text,
      previous_until bigint,
      created_at bigint not null,
      updated_at bigint not null,
      failures integer not null default 0,
      paused_until bigint not null default 0
    ) with (fillfactor = 70)`.execute(db);

  // Stored ranges, written by the statement that stores the messages and routed within
  // milliseconds. Row numbers are drawn under the head's lock, so that they increase with the
  // sequence of a channel.
  await sql`
    create table sendbatch.webhook_outbox (
      outbox_id bigint generated always as identity primary key,
      channel_key bigint not null,
      first_seq bigint not null,
      last_seq bigint not null
    ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`.execute(db);

  // What each webhook has not received yet, per channel. queued_id is the position in its lane.
  await sql`create sequence sendbatch.webhook_queued as bigint`.execute(db);
  await sql`
    create table sendbatch.webhook_queue (
      webhook_key bigint not null,
      channel_key bigint not null,
      lane smallint not null,
      queued_id bigint not null default nextval('sendbatch.webhook_queued'),
      first_seq bigint not null,
      last_seq bigint not null,
      since bigint not null,
      primary key (webhook_key, channel_key)
    ) with (fillfactor = 70)`.execute(db);
  await sql`create index webhook_queue_lane on sendbatch.webhook_queue (webhook_key, lane, queued_id)`.execute(db);

  // Lanes: the delivery in progress, and the lease of the instance that works on it.
  await sql`create sequence sendbatch.webhook_delivery as bigint`.execute(db);
  await sql`
    create table sendbatch.webhook_lane (
      webhook_key bigint not null,
      lane smallint not null,
      token uuid,
      leased_until bigint not null default 0,
      next_at bigint not null default 0,
      delivery_id bigint,
      message_id text,
      ranges jsonb,
      attempts integer not null default 0,
      last_status integer,
      last_error text,
      created_at bigint,
      primary key (webhook_key, lane)
    ) with (fillfactor = 50)`.execute(db);

  await sql`
    create table sendbatch.webhook_parked (
      delivery_id bigint primary key,
      webhook_key bigint not null,
      message_id text not null,
      ranges jsonb not null,
      attempts integer not null,
      last_status integer,
      last_error text,
      created_at bigint not null,
      parked_at bigint not null,
      redeliver boolean not null default false
    )`.execute(db);
  await sql`create index webhook_parked_of on sendbatch.webhook_parked (webhook_key, delivery_id)`.execute(db);
}
