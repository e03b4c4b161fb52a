import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import type { WebhookFormat } from './webhook.ts';

/** What disabled a webhook: a caller, an answer of 410, or a start without WEBHOOK_URL. */
export type DisabledBy = 'caller' | 'gone' | 'setting';

/** The fields of a webhook that a caller sets. */
export interface WebhookSpec {
  readonly name: string;
  readonly url: string;
  readonly format: WebhookFormat;
  /** Empty: all. */
  readonly channelTypes: readonly number[];
  readonly disabled: boolean;
  readonly batchSize: number;
  readonly maxWaitMs: number;
}

/** A stored webhook. Times are in milliseconds since 1970, by the database's clock. */
export interface StoredWebhook extends Omit<WebhookSpec, 'disabled'> {
  readonly webhookKey: number;
  readonly disabledBy: DisabledBy | undefined;
  readonly secret: string;
  /** The previous secret, while it still signs too. */
  readonly previous: { readonly secret: string; readonly until: number } | undefined;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly failures: number;
}

/** The backlog of a webhook. */
export interface WebhookStatus {
  /** Queued messages and changes. */
  readonly queued: number;
  /** When the oldest of them was queued, in milliseconds since 1970. */
  readonly oldest: number | undefined;
  /** Parked deliveries. */
  readonly parked: number;
}

/** The columns of a webhook `w`. */
export const webhookColumns = sql`w.webhook_key, w.name, w.url, w.format, w.channel_types, w.disabled_by, w.batch_size, w.max_wait_ms, w.secret,
  case when w.previous_until > ${databaseNow} then w.previous_secret end as previous_secret, w.previous_until, w.created_at, w.updated_at, w.failures`;

export interface WebhookRow {
  readonly webhook_key: number;
  readonly name: string;
  readonly url: string;
  readonly format: WebhookFormat;
  readonly channel_types: number[];
  readonly disabled_by: DisabledBy | null;
  readonly batch_size: number;
  readonly max_wait_ms: number;
  readonly secret: string;
  readonly previous_secret: string | null;
  readonly previous_until: number | null;
  readonly created_at: number;
  readonly updated_at: number;
  readonly failures: number;
}

export function toWebhook(row: WebhookRow): StoredWebhook {
  return {
    webhookKey: row.webhook_key,
    name: row.name,
    url: row.url,
    format: row.format,
    channelTypes: row.channel_types,
    disabledBy: row.disabled_by ?? undefined,
    batchSize: row.batch_size,
    maxWaitMs: row.max_wait_ms,
    secret: row.secret,
    previous:
      row.previous_secret === null || row.previous_until === null
        ? undefined
        : { secret: row.previous_secret, until: row.previous_until },
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    failures: row.failures,
  };
}

/** Whether any webhook exists; if so, stored messages are recorded in the outbox. */
export async function hasWebhook(db: Db): Promise<boolean> {
  const { rows } = await sql<{ found: boolean }>`select exists (select from sendbatch.webhook) as found`.execute(db);
  return rows[0]?.found === true;
}

/** Inserts a webhook and its lanes. `taken`: its name exists; `full`: limits.webhooks exist. */
export async function insertWebhook(db: Db, spec: WebhookSpec, secret: string): Promise<'created' | 'taken' | 'full'> {
  const { rows } = await sql<{ created: number; count: number }>`
    with created as (
      insert into sendbatch.webhook (name, url, format, channel_types, disabled_by, batch_size, max_wait_ms, secret, created_at, updated_at)
      select ${spec.name}, ${spec.url}, ${spec.format}, ${[...spec.channelTypes]}::smallint[], ${spec.disabled ? 'caller' : null},
        ${spec.batchSize}::integer, ${spec.maxWaitMs}::integer, ${secret}, ${databaseNow}, ${databaseNow}
      where (select count(*) from sendbatch.webhook) < ${limits.webhooks}
      on conflict do nothing
      returning webhook_key
    ), lanes as (
      insert into sendbatch.webhook_lane (webhook_key, lane)
      select webhook_key, lane from created, generate_series(0, ${limits.webhookLanes}) as lane
    )
    select (select count(*)::integer from created) as created, (select count(*)::integer from sendbatch.webhook) as count`.execute(
    db,
  );
  const [row] = rows;
  if (row?.created === 1) return 'created';
  return (row?.count ?? 0) >= limits.webhooks ? 'full' : 'taken';
}

/** Finds a webhook by name, with its status. */
export async function findWebhook(db: Db, name: string): Promise<(StoredWebhook & WebhookStatus) | undefined> {
  const [found] = await listWebhooks(db, name);
  return found;
}

/** Lists all webhooks, or the one with this name, with their status. */
export async function listWebhooks(db: Db, name?: string): Promise<(StoredWebhook & WebhookStatus)[]> {
  const { rows } = await sql<WebhookRow & { queued: number; oldest: number | null; parked: number }>`
    select ${webhookColumns}, q.queued, q.oldest,
      (select count(*) from sendbatch.webhook_parked p where p.webhook_key = w.webhook_key) as parked
    from sendbatch.webhook w
    cross join lateral (
      select coalesce(sum(last_seq - first_seq + 1), 0)::bigint as queued, min(since) as oldest
      from (
        select last_seq, first_seq, since from sendbatch.webhook_queue q where q.webhook_key = w.webhook_key
        union all
        select last_change, first_change, since from sendbatch.webhook_change_queue q where q.webhook_key = w.webhook_key
      ) queued
    ) q
    where ${name ?? null}::text is null or w.name = ${name ?? null}
    order by w.name`.execute(db);
  return rows.map((row) => ({
    ...toWebhook(row),
    queued: row.queued,
    oldest: row.oldest ?? undefined,
    parked: row.parked,
  }));
}

/**
 * Backlog of all webhooks: queued messages and changes, age of the oldest, and parked deliveries.
 */
export async function readWebhookStats(
  db: Db,
  now: number,
): Promise<{ readonly queued: number; readonly oldestMs: number; readonly parked: number }> {
  const { rows } = await sql<{ queued: number; oldest: number | null; parked: number }>`
    select coalesce(sum(last_seq - first_seq + 1), 0)::bigint as queued, min(since) as oldest,
      (select count(*) from sendbatch.webhook_parked) as parked
    from (
      select last_seq, first_seq, since from sendbatch.webhook_queue
      union all
      select last_change, first_change, since from sendbatch.webhook_change_queue
    ) queued`.execute(db);
  const [row] = rows;
  const oldest = row?.oldest ?? now;
  return { queued: row?.queued ?? 0, oldestMs: Math.max(0, now - oldest), parked: row?.parked ?? 0 };
}

/** Replaces a caller's fields and retries failed deliveries at once; false if it does not exist. */
export async function updateWebhook(db: Db, spec: WebhookSpec): Promise<boolean> {
  const { numAffectedRows } = await sql`
    with changed as (
      update sendbatch.webhook set url = ${spec.url}, format = ${spec.format}, channel_types = ${[...spec.channelTypes]}::smallint[],
        disabled_by = ${spec.disabled ? 'caller' : null}, batch_size = ${spec.batchSize}, max_wait_ms = ${spec.maxWaitMs},
        updated_at = ${databaseNow}, failures = 0, paused_until = 0
      where name = ${spec.name}
      returning webhook_key
    )
    update sendbatch.webhook_lane l set next_at = 0 from changed c where l.webhook_key = c.webhook_key`.execute(db);
  return (numAffectedRows ?? 0n) > 0n;
}

/**
 * Creates or updates the webhook of the settings. A changed secret keeps the previous one for
 * `previousMs`.
 */
export async function putSettingsWebhook(
  db: Db,
  { name, url, format, batchSize }: Pick<WebhookSpec, 'name' | 'url' | 'format' | 'batchSize'>,
  secret: string,
  previousMs: number,
): Promise<void> {
  await sql`
    with changed as (
      insert into sendbatch.webhook as w (name, url, format, channel_types, batch_size, max_wait_ms, secret, created_at, updated_at)
      values (${name}, ${url}, ${format}, '{}', ${batchSize}, 0, ${secret}, ${databaseNow}, ${databaseNow})
      on conflict (name) do update set url = excluded.url, format = excluded.format, disabled_by = null, updated_at = excluded.updated_at,
        failures = 0, paused_until = 0, secret = excluded.secret,
        previous_secret = case when w.secret = excluded.secret then w.previous_secret else w.secret end,
        previous_until = case when w.secret = excluded.secret then w.previous_until else excluded.updated_at + ${previousMs}::bigint end
      where (w.url, w.format, w.secret) is distinct from (excluded.url, excluded.format, excluded.secret) or w.disabled_by is not null
      returning webhook_key
    )
    insert into sendbatch.webhook_lane (webhook_key, lane)
    select webhook_key, lane from changed, generate_series(0, ${limits.webhookLanes}) as lane
    on conflict do nothing`.execute(db);
}

/** Disables a webhook; false if it does not exist or is disabled. */
export async function disableWebhook(db: Db, name: string, by: DisabledBy): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update sendbatch.webhook set disabled_by = ${by}, updated_at = ${databaseNow} where name = ${name} and disabled_by is null`.execute(
    db,
  );
  return numAffectedRows === 1n;
}

/**
 * Replaces a webhook's secret; returns until when the previous one signs too. Its current secret
 * changes nothing, so a repeated call keeps the previous one.
 */
export async function replaceSecret(
  db: Db,
  name: string,
  secret: string,
  previousMs: number,
): Promise<number | undefined> {
  const { rows } = await sql<{ previous_until: number }>`
    update sendbatch.webhook w set secret = ${secret}, updated_at = ${databaseNow},
      previous_secret = case when w.secret = ${secret} then w.previous_secret else w.secret end,
      previous_until = case when w.secret = ${secret} and w.previous_until is not null then w.previous_until else ${databaseNow} + ${previousMs}::bigint end
    where name = ${name} returning previous_until`.execute(db);
  return rows[0]?.previous_until;
}

/** Deletes a webhook with its queue; false if it does not exist. */
export async function deleteWebhook(db: Db, name: string): Promise<boolean> {
  const { rows } = await sql<{ count: number }>`
    with deleted as (delete from sendbatch.webhook where name = ${name} returning webhook_key),
      lanes as (delete from sendbatch.webhook_lane where webhook_key in (select webhook_key from deleted)),
      queue as (delete from sendbatch.webhook_queue where webhook_key in (select webhook_key from deleted)),
      changes as (delete from sendbatch.webhook_change_queue where webhook_key in (select webhook_key from deleted)),
      parked as (delete from sendbatch.webhook_parked where webhook_key in (select webhook_key from deleted))
    select count(*)::integer as count from deleted`.execute(db);
  return rows[0]?.count === 1;
}
