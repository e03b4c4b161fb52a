import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import type { WebhookFormat } from './webhook.ts';

/** Who disabled a webhook: a caller, the receiver by 410, or a start without WEBHOOK_URL. */
export type DisabledBy = 'caller' | 'gone' | 'setting';

/** What a caller sets of a webhook. */
export interface WebhookWish {
  readonly name: string;
  readonly url: string;
  readonly format: WebhookFormat;
  /** Empty: all. */
  readonly channelTypes: readonly number[];
  readonly disabled: boolean;
  readonly batchSize: number;
  readonly maxWaitMs: number;
}

/** A webhook as it is kept. Times in milliseconds since 1970, by the database's clock. */
export interface StoredWebhook extends Omit<WebhookWish, 'disabled'> {
  readonly webhookKey: number;
  readonly disabledBy: DisabledBy | undefined;
  readonly secret: string;
  /** The one before, while it signs too. */
  readonly previous: { readonly secret: string; readonly until: number } | undefined;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly failures: number;
}

/** How a webhook stands. */
export interface WebhookStanding {
  readonly queued: number;
  readonly oldest: number | undefined;
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

/** Whether there is a webhook: then what is stored is written to the outbox. */
export async function anyWebhook(db: Db): Promise<boolean> {
  const { rows } = await sql<{ any: boolean }>`select exists (select from sendbatch.webhook) as any`.execute(db);
  return rows[0]?.any === true;
}

/** Makes a webhook and its lanes; `taken`: the name is, `full`: there are as many as may be. */
export async function insertWebhook(db: Db, wish: WebhookWish, secret: string): Promise<'made' | 'taken' | 'full'> {
  const { rows } = await sql<{ made: number; count: number }>`
    with made as (
      insert into sendbatch.webhook (name, url, format, channel_types, disabled_by, batch_size, max_wait_ms, secret, created_at, updated_at)
      select ${wish.name}, ${wish.url}, ${wish.format}, ${[...wish.channelTypes]}::smallint[], ${wish.disabled ? 'caller' : null},
        ${wish.batchSize}::integer, ${wish.maxWaitMs}::integer, ${secret}, ${databaseNow}, ${databaseNow}
      where (select count(*) from sendbatch.webhook) < ${limits.webhooks}
      on conflict do nothing
      returning webhook_key
    ), lanes as (
      insert into sendbatch.webhook_lane (webhook_key, lane)
      select webhook_key, lane from made, generate_series(0, ${limits.webhookLanes}) as lane
    )
    select (select count(*)::integer from made) as made, (select count(*)::integer from sendbatch.webhook) as count`.execute(
    db,
  );
  const [row] = rows;
  if (row?.made === 1) return 'made';
  return (row?.count ?? 0) >= limits.webhooks ? 'full' : 'taken';
}

/** A webhook by its name. */
export async function findWebhook(db: Db, name: string): Promise<(StoredWebhook & WebhookStanding) | undefined> {
  const [found] = await listWebhooks(db, name);
  return found;
}

/** All webhooks, or the one with this name, and how they stand. */
export async function listWebhooks(db: Db, name?: string): Promise<(StoredWebhook & WebhookStanding)[]> {
  const { rows } = await sql<WebhookRow & { queued: number; oldest: number | null; parked: number }>`
    select ${webhookColumns}, q.queued, q.oldest,
      (select count(*) from sendbatch.webhook_parked p where p.webhook_key = w.webhook_key) as parked
    from sendbatch.webhook w
    cross join lateral (
      select coalesce(sum(last_seq - first_seq + 1), 0)::bigint as queued, min(since) as oldest
      from sendbatch.webhook_queue q where q.webhook_key = w.webhook_key
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

/** What all webhooks together have yet to get, since when the first of it waits, and what is parked. */
export async function standingOfWebhooks(
  db: Db,
  now: number,
): Promise<{ readonly queued: number; readonly oldestMs: number; readonly parked: number }> {
  const { rows } = await sql<{ queued: number; oldest: number | null; parked: number }>`
    select coalesce(sum(last_seq - first_seq + 1), 0)::bigint as queued, min(since) as oldest,
      (select count(*) from sendbatch.webhook_parked) as parked
    from sendbatch.webhook_queue`.execute(db);
  const [row] = rows;
  const oldest = row?.oldest ?? now;
  return { queued: row?.queued ?? 0, oldestMs: Math.max(0, now - oldest), parked: row?.parked ?? 0 };
}

/** Replaces what a caller sets, and lets what failed be tried at once. Whether there is such a webhook. */
export async function updateWebhook(db: Db, wish: WebhookWish): Promise<boolean> {
  const { numAffectedRows } = await sql`
    with changed as (
      update sendbatch.webhook set url = ${wish.url}, format = ${wish.format}, channel_types = ${[...wish.channelTypes]}::smallint[],
        disabled_by = ${wish.disabled ? 'caller' : null}, batch_size = ${wish.batchSize}, max_wait_ms = ${wish.maxWaitMs},
        updated_at = ${databaseNow}, failures = 0, paused_until = 0
      where name = ${wish.name}
      returning webhook_key
    )
    update sendbatch.webhook_lane l set next_at = 0 from changed c where l.webhook_key = c.webhook_key`.execute(db);
  return (numAffectedRows ?? 0n) > 0n;
}

/** The webhook of the settings: made, changed, or as it was. A secret that is another keeps the one before for a while. */
export async function putSettingsWebhook(
  db: Db,
  { name, url, format, batchSize }: Pick<WebhookWish, 'name' | 'url' | 'format' | 'batchSize'>,
  secret: string,
  previousMs: number,
): Promise<void> {
  await sql`
    with put as (
      insert into sendbatch.webhook as w (name, url, format, channel_types, batch_size, max_wait_ms, secret, created_at, updated_at)
      values (${name}, ${url}, ${format}, '{}', ${batchSize}, 0, ${secret}, ${databaseNow}, ${databaseNow})
      on conflict (name) do update set url = excluded.url, format = excluded.format, disabled_by = null, updated_at = excluded.updated_at,
        failures = 0, paused_until = 0, secret = excluded.secret,
        previous_secret = case when w.secret = excluded.secret then w.previous_secret else w.secret end,
        previous_until = case when w.secret = excluded.secret then w.previous_until else ${databaseNow} + ${previousMs}::bigint end
      where (w.url, w.format, w.secret) is distinct from (excluded.url, excluded.format, excluded.secret) or w.disabled_by is not null
      returning webhook_key
    )
    insert into sendbatch.webhook_lane (webhook_key, lane)
    select webhook_key, lane from put, generate_series(0, ${limits.webhookLanes}) as lane
    on conflict do nothing`.execute(db);
}

/** Disables a webhook that is not. */
export async function disableWebhook(db: Db, name: string, by: DisabledBy): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update sendbatch.webhook set disabled_by = ${by}, updated_at = ${databaseNow} where name = ${name} and disabled_by is null`.execute(
    db,
  );
  return numAffectedRows === 1n;
}

/** Gives a webhook another secret; returns until when the one before signs too. The one that it has changes nothing: who asks again must not lose the one before. */
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

/** Removes a webhook with all that it has yet to get. Whether there was one. */
export async function deleteWebhook(db: Db, name: string): Promise<boolean> {
  const { rows } = await sql<{ gone: number }>`
    with gone as (delete from sendbatch.webhook where name = ${name} returning webhook_key),
      lanes as (delete from sendbatch.webhook_lane where webhook_key in (select webhook_key from gone)),
      queue as (delete from sendbatch.webhook_queue where webhook_key in (select webhook_key from gone)),
      parked as (delete from sendbatch.webhook_parked where webhook_key in (select webhook_key from gone))
    select count(*)::integer as gone from gone`.execute(db);
  return rows[0]?.gone === 1;
}
