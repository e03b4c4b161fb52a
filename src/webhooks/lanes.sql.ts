import { sql } from 'kysely';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { type Lease, mine, type RangeRow } from './queue.sql.ts';

/** Why a try failed; no answer has status 0. */
export interface Fault {
  readonly status: number;
  readonly error: string;
}

const emptyHand = sql`delivery_id = null, message_id = null, ranges = null, attempts = 0, last_status = null, last_error = null, created_at = null, next_at = 0`;

/** The delivery in hand is done; whether it was still this lease's. The lane is kept. */
export async function endDelivery(db: Db, lease: Lease): Promise<boolean> {
  const { numAffectedRows } = await sql`update sendbatch.webhook_lane set ${emptyHand} where ${mine(lease)}`.execute(
    db,
  );
  return numAffectedRows === 1n;
}

/** The delivery in hand has failed once more and is tried again later; the lane is let go. */
export async function retryDelivery(db: Db, lease: Lease, fault: Fault, delayMs: number): Promise<void> {
  await sql`
    update sendbatch.webhook_lane set attempts = attempts + 1, last_status = ${fault.status}, last_error = ${fault.error},
      next_at = ${databaseNow} + ${delayMs}::bigint, leased_until = 0, token = null
    where ${mine(lease)}`.execute(db);
}

/** The delivery in hand is put away; the lane is kept and goes on with what comes next. */
export async function parkDelivery(db: Db, lease: Lease, fault: Fault): Promise<void> {
  await sql`
    with held as (
      select * from sendbatch.webhook_lane where ${mine(lease)} and delivery_id is not null for update
    ), put as (
      insert into sendbatch.webhook_parked (delivery_id, webhook_key, message_id, ranges, attempts, last_status, last_error, created_at, parked_at)
      select delivery_id, webhook_key, message_id, ranges, attempts + 1, ${fault.status}::integer, ${fault.error}, created_at, ${databaseNow} from held
    )
    update sendbatch.webhook_lane set ${emptyHand} where (webhook_key, lane) in (select webhook_key, lane from held)`.execute(
    db,
  );
}

/** Lets a lane go; what is in hand stays in it. */
export async function releaseLane(db: Db, lease: Lease): Promise<void> {
  await sql`update sendbatch.webhook_lane set leased_until = 0, token = null where ${mine(lease)}`.execute(db);
}

/** One failure more; returns how many there are now, one after the other. */
export async function countFailure(db: Db, webhookKey: number): Promise<number> {
  const { rows } = await sql<{ failures: number }>`
    update sendbatch.webhook set failures = failures + 1 where webhook_key = ${webhookKey} returning failures`.execute(
    db,
  );
  return rows[0]?.failures ?? 0;
}

/** Leaves a webhook alone. */
export async function pauseWebhook(db: Db, webhookKey: number, delayMs: number): Promise<void> {
  await sql`
    update sendbatch.webhook set paused_until = greatest(paused_until, ${databaseNow} + ${delayMs}::bigint) where webhook_key = ${webhookKey}`.execute(
    db,
  );
}

/** It answers again: what waits for it because it did not, `wake`, is tried at once. */
export async function clearFailures(db: Db, webhookKey: number, wake: boolean): Promise<void> {
  await sql`
    with well as (
      update sendbatch.webhook set failures = 0, paused_until = 0 where webhook_key = ${webhookKey} returning webhook_key
    )
    update sendbatch.webhook_lane l set next_at = 0 from well w where l.webhook_key = w.webhook_key and ${wake}`.execute(
    db,
  );
}

/** A delivery that has failed. */
export interface FailedDelivery {
  readonly deliveryId: number;
  readonly id: string;
  readonly state: 'retrying' | 'parked' | 'queued';
  readonly ranges: readonly { channelType: number; channelId: string; firstSeq: number; lastSeq: number }[];
  readonly attempts: number;
  readonly fault: Fault;
  readonly createdAt: number;
  readonly nextAt: number | undefined;
  readonly parkedAt: number | undefined;
}

/** Deliveries that have failed, after a number. */
export async function listFailed(db: Db, webhookKey: number, after: number, limit: number): Promise<FailedDelivery[]> {
  const { rows } = await sql<{
    delivery_id: number;
    message_id: string;
    state: FailedDelivery['state'];
    ranges: RangeRow[];
    attempts: number;
    last_status: number | null;
    last_error: string | null;
    created_at: number;
    next_at: number | null;
    parked_at: number | null;
  }>`
    select delivery_id, message_id, 'retrying' as state, ranges, attempts, last_status, last_error, created_at, next_at, null::bigint as parked_at
    from sendbatch.webhook_lane where webhook_key = ${webhookKey} and delivery_id > ${after} and attempts > 0
    union all
    (select delivery_id, message_id, case when redeliver then 'queued' else 'parked' end, ranges, attempts, last_status, last_error, created_at, null, parked_at
    from sendbatch.webhook_parked where webhook_key = ${webhookKey} and delivery_id > ${after}
    order by delivery_id limit ${limit})
    order by delivery_id limit ${limit}`.execute(db);
  const keys = new Set(rows.flatMap((row) => row.ranges.map(([channelKey]) => channelKey)));
  const { rows: channels } = await sql<{ channel_key: number; channel_type: number; channel_id: string }>`
    select channel_key, channel_type, channel_id from sendbatch.channel where channel_key = any(${[...keys]}::bigint[])`.execute(
    db,
  );
  const channelOf = new Map(channels.map((each) => [each.channel_key, each]));
  return rows.map((row) => ({
    deliveryId: row.delivery_id,
    id: row.message_id,
    state: row.state,
    ranges: row.ranges.map(([channelKey, firstSeq, lastSeq]) => ({
      channelType: channelOf.get(channelKey)?.channel_type ?? 0,
      channelId: channelOf.get(channelKey)?.channel_id ?? '',
      firstSeq,
      lastSeq,
    })),
    attempts: row.attempts,
    fault: { status: row.last_status ?? 0, error: row.last_error ?? '' },
    createdAt: row.created_at,
    nextAt: row.next_at ?? undefined,
    parkedAt: row.parked_at ?? undefined,
  }));
}

/** Marks parked deliveries to be taken again: these, or all. Returns how many. */
export async function redeliverParked(db: Db, webhookKey: number, deliveryIds: readonly number[]): Promise<number> {
  const { numAffectedRows } = await sql`
    update sendbatch.webhook_parked set redeliver = true
    where webhook_key = ${webhookKey} and not redeliver
      and (${deliveryIds.length === 0} or delivery_id = any(${[...deliveryIds]}::bigint[]))`.execute(db);
  return Number(numAffectedRows ?? 0n);
}

/** Removes what was parked longer ago than this, and what was queued for a webhook at the moment of its deletion. */
export async function sweepWebhooks(db: Db, keptMs: number): Promise<void> {
  await sql`delete from sendbatch.webhook_parked where parked_at < ${databaseNow} - ${keptMs}::bigint`.execute(db);
  await sql`
    delete from sendbatch.webhook_queue q where not exists (select from sendbatch.webhook w where w.webhook_key = q.webhook_key)`.execute(
    db,
  );
}
