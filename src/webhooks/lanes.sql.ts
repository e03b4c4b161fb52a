import { sql } from 'kysely';
import { readNames } from '../messages/channel-keys.sql.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { type ChangesRow, holdsLease, type Lease, type RangeRow } from './lease.sql.ts';
import type { EventKind } from './webhook.ts';

/** Why an attempt failed. Status 0: no answer. */
export interface DeliveryFailure {
  readonly status: number;
  readonly error: string;
}

const emptyLane = sql`delivery_id = null, message_id = null, ranges = null, changes = null, attempts = 0, last_status = null, last_error = null, created_at = null, next_at = 0`;

/** Ends the lane's delivery after success and keeps the lease; false if the lease was lost. */
export async function endDelivery(db: Db, lease: Lease): Promise<boolean> {
  const { numAffectedRows } =
    await sql`update sendbatch.webhook_lane set ${emptyLane} where ${holdsLease(lease)}`.execute(db);
  return numAffectedRows === 1n;
}

/** Counts a failed attempt, schedules the next one, and releases the lane. */
export async function retryDelivery(db: Db, lease: Lease, failure: DeliveryFailure, delayMs: number): Promise<void> {
  await sql`
    update sendbatch.webhook_lane set attempts = attempts + 1, last_status = ${failure.status}, last_error = ${failure.error},
      next_at = ${databaseNow} + ${delayMs}::bigint, leased_until = 0, token = null
    where ${holdsLease(lease)}`.execute(db);
}

/**
 * Parks the lane's delivery after its last attempt and keeps the lease, so the lane continues with
 * the next one.
 */
export async function parkDelivery(db: Db, lease: Lease, failure: DeliveryFailure): Promise<void> {
  await sql`
    with held as (
      select * from sendbatch.webhook_lane where ${holdsLease(lease)} and delivery_id is not null for update
    ), parked as (
      insert into sendbatch.webhook_parked (delivery_id, webhook_key, message_id, ranges, changes, attempts, last_status, last_error, created_at, parked_at)
      select delivery_id, webhook_key, message_id, coalesce(ranges, '[]'), changes, attempts + 1, ${failure.status}::integer, ${failure.error}, created_at, ${databaseNow} from held
    )
    update sendbatch.webhook_lane set ${emptyLane} where (webhook_key, lane) in (select webhook_key, lane from held)`.execute(
    db,
  );
}

/** Releases a lane. Its delivery stays for the next lease. */
export async function releaseLane(db: Db, lease: Lease): Promise<void> {
  await sql`update sendbatch.webhook_lane set leased_until = 0, token = null where ${holdsLease(lease)}`.execute(db);
}

/** Counts a failure of a webhook; returns its consecutive failures. */
export async function countFailure(db: Db, webhookKey: number): Promise<number> {
  const { rows } = await sql<{ failures: number }>`
    update sendbatch.webhook set failures = failures + 1 where webhook_key = ${webhookKey} returning failures`.execute(
    db,
  );
  return rows[0]?.failures ?? 0;
}

/** Pauses a webhook for `delayMs`, or longer if it is paused longer. */
export async function pauseWebhook(db: Db, webhookKey: number, delayMs: number): Promise<void> {
  await sql`
    update sendbatch.webhook set paused_until = greatest(paused_until, ${databaseNow} + ${delayMs}::bigint) where webhook_key = ${webhookKey}`.execute(
    db,
  );
}

/** Resets a webhook that answers again. `retryNow`: its waiting deliveries are retried at once. */
export async function clearFailures(db: Db, webhookKey: number, retryNow: boolean): Promise<void> {
  await sql`
    with recovered as (
      update sendbatch.webhook set failures = 0, paused_until = 0 where webhook_key = ${webhookKey} returning webhook_key
    )
    update sendbatch.webhook_lane l set next_at = 0 from recovered where l.webhook_key = recovered.webhook_key and ${retryNow}`.execute(
    db,
  );
}

/** A delivery with a failed attempt. `queued`: parked, and to be redelivered. */
export interface FailedDelivery {
  readonly deliveryId: number;
  readonly id: string;
  readonly state: 'retrying' | 'parked' | 'queued';
  readonly kind: EventKind;
  /** Of sequences, or of the numbers of changes. */
  readonly ranges: readonly { channelType: number; channelId: string; firstSeq: number; lastSeq: number }[];
  readonly attempts: number;
  readonly failure: DeliveryFailure;
  readonly createdAt: number;
  readonly nextAt: number | undefined;
  readonly parkedAt: number | undefined;
}

/** Lists failed deliveries with an id above `after`. */
export async function listFailed(db: Db, webhookKey: number, after: number, limit: number): Promise<FailedDelivery[]> {
  const { rows } = await sql<{
    delivery_id: number;
    message_id: string;
    state: FailedDelivery['state'];
    ranges: RangeRow[] | null;
    changes: ChangesRow | null;
    attempts: number;
    last_status: number | null;
    last_error: string | null;
    created_at: number;
    next_at: number | null;
    parked_at: number | null;
  }>`
    select delivery_id, message_id, 'retrying' as state, ranges, changes, attempts, last_status, last_error, created_at, next_at, null::bigint as parked_at
    from sendbatch.webhook_lane where webhook_key = ${webhookKey} and delivery_id > ${after} and attempts > 0
    union all
    (select delivery_id, message_id, case when redeliver then 'queued' else 'parked' end, ranges, changes, attempts, last_status, last_error, created_at, null, parked_at
    from sendbatch.webhook_parked where webhook_key = ${webhookKey} and delivery_id > ${after}
    order by delivery_id limit ${limit})
    order by delivery_id limit ${limit}`.execute(db);
  const rangesOf = ({ ranges, changes }: (typeof rows)[number]) => changes?.ranges ?? ranges ?? [];
  const keys = new Set(rows.flatMap((row) => rangesOf(row).map(([channelKey]) => channelKey)));
  const names = await readNames(db, [...keys]);
  return rows.map((row) => ({
    deliveryId: row.delivery_id,
    id: row.message_id,
    state: row.state,
    kind: row.changes?.kind ?? 'stored',
    ranges: rangesOf(row).map(([channelKey, firstSeq, lastSeq]) => ({
      channelType: names.get(channelKey)?.type ?? 0,
      channelId: names.get(channelKey)?.id ?? '',
      firstSeq,
      lastSeq,
    })),
    attempts: row.attempts,
    failure: { status: row.last_status ?? 0, error: row.last_error ?? '' },
    createdAt: row.created_at,
    nextAt: row.next_at ?? undefined,
    parkedAt: row.parked_at ?? undefined,
  }));
}

/** Marks parked deliveries for redelivery: these, or all if empty. Returns how many. */
export async function redeliverParked(db: Db, webhookKey: number, deliveryIds: readonly number[]): Promise<number> {
  const { numAffectedRows } = await sql`
    update sendbatch.webhook_parked set redeliver = true
    where webhook_key = ${webhookKey} and not redeliver
      and (${deliveryIds.length === 0} or delivery_id = any(${[...deliveryIds]}::bigint[]))`.execute(db);
  return Number(numAffectedRows ?? 0n);
}

/** Deletes deliveries parked more than `retentionMs` ago, and queue rows of deleted webhooks. */
export async function sweepWebhooks(db: Db, retentionMs: number): Promise<void> {
  await sql`
    delete from sendbatch.webhook_change_queue q where not exists (select from sendbatch.webhook w where w.webhook_key = q.webhook_key)`.execute(
    db,
  );
  await sql`delete from sendbatch.webhook_parked where parked_at < ${databaseNow} - ${retentionMs}::bigint`.execute(db);
  await sql`
    delete from sendbatch.webhook_queue q where not exists (select from sendbatch.webhook w where w.webhook_key = q.webhook_key)`.execute(
    db,
  );
}
