import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { type ChannelMessage, readEvents } from './events-read.sql.ts';
import { type ChangesRow, holdsLease, type Lease, plannedOf, type RangeRow } from './lease.sql.ts';
import { readNext } from './next.sql.ts';
import { countMessages, cutToBytes, type EventKind, type PlannedDelivery } from './webhook.ts';
import { type StoredWebhook, toWebhook, type WebhookRow, webhookColumns } from './webhooks.sql.ts';

/** The events of one POST. */
export interface Delivery {
  readonly webhook: StoredWebhook;
  readonly kind: EventKind;
  /** The `webhook-id`. */
  readonly id: string;
  /** Failed attempts so far. */
  readonly attempts: number;
  /** The messages of its ranges that have not expired, as they are now. */
  readonly messages: readonly ChannelMessage[];
}

/** The lane of redelivered messages, after the lanes of the channels. */
const redeliveryLane = limits.webhookLanes;

/**
 * Leases all idle lanes that have work. A failing webhook gets one lane at a time, as a probe.
 * Lanes that another instance is claiming are skipped, so instances never wait for each other.
 */
export async function claimLanes(
  db: Db,
  token: string,
  { leaseMs, failuresBeforeBreak }: { leaseMs: number; failuresBeforeBreak: number },
): Promise<Lease[]> {
  const { rows } = await sql<{ webhook_key: number; lane: number }>`
    with due as materialized (
      select l.webhook_key, l.lane, w.failures, row_number() over (partition by l.webhook_key order by l.next_at, l.lane) as lane_rank
      from sendbatch.webhook w join sendbatch.webhook_lane l using (webhook_key)
      where w.disabled_by is null and w.paused_until <= ${databaseNow}
        and l.leased_until <= ${databaseNow} and l.next_at <= ${databaseNow} and (
        l.delivery_id is not null
        or l.lane = ${redeliveryLane} and exists (
          select from sendbatch.webhook_parked p where p.webhook_key = l.webhook_key and p.redeliver)
        or l.lane <> ${redeliveryLane} and (
          (select since from sendbatch.webhook_queue q where q.webhook_key = l.webhook_key and q.lane = l.lane order by queued_id limit 1)
            <= ${databaseNow} - w.max_wait_ms
          or (select since from sendbatch.webhook_change_queue q where q.webhook_key = l.webhook_key and q.lane = l.lane order by queued_id limit 1)
            <= ${databaseNow} - w.max_wait_ms
          or w.max_wait_ms > 0 and w.batch_size <= (
            select sum(messages) from (
              select last_seq - first_seq + 1 as messages from sendbatch.webhook_queue q
              where q.webhook_key = l.webhook_key and q.lane = l.lane order by queued_id limit w.batch_size
            ) waiting)))
    ), free as materialized (
      select l.webhook_key, l.lane from due d join sendbatch.webhook_lane l using (webhook_key, lane)
      where l.leased_until <= ${databaseNow} and (
        d.failures < ${failuresBeforeBreak}
        or d.lane_rank = 1 and not exists (
          select from sendbatch.webhook_lane leased where leased.webhook_key = d.webhook_key and leased.leased_until > ${databaseNow}))
      for update of l skip locked
    )
    update sendbatch.webhook_lane l set token = ${token}::uuid, leased_until = ${databaseNow} + ${leaseMs}::bigint
    from free f where l.webhook_key = f.webhook_key and l.lane = f.lane
    returning l.webhook_key, l.lane`.execute(db);
  return rows.map((row) => ({ webhookKey: row.webhook_key, lane: row.lane, token }));
}

interface LaneRow {
  readonly delivery_id: number | null;
  readonly message_id: string | null;
  readonly ranges: RangeRow[] | null;
  readonly changes: ChangesRow | null;
  readonly attempts: number;
  readonly next_at: number;
  readonly now: number;
  readonly has_changes: boolean;
}

/**
 * Takes the lane's current delivery, or creates the next one from its queue, and renews the lease.
 * Undefined if there is no work or the lease was lost. A delivery keeps its id and messages over
 * all attempts, except messages that expire.
 *
 * No lock is held while messages are read. One statement locks and moves queue rows, so the router,
 * which extends the same rows, waits for at most one round trip.
 */
export async function takeDelivery(
  store: ChannelStore,
  lease: Lease,
  { newId, leaseMs, now }: { newId: string; leaseMs: number; now: number },
): Promise<Delivery | undefined> {
  const { db } = store;
  const { rows } = await sql<WebhookRow & LaneRow>`
    select ${webhookColumns}, l.delivery_id, l.message_id, l.ranges, l.changes, l.attempts, l.next_at, ${databaseNow} as now,
      exists (select from sendbatch.webhook_change_queue q where q.webhook_key = l.webhook_key and q.lane = l.lane) as has_changes
    from sendbatch.webhook_lane l join sendbatch.webhook w using (webhook_key)
    where l.webhook_key = ${lease.webhookKey} and l.lane = ${lease.lane} and l.token = ${lease.token}::uuid`.execute(
    db,
  );
  const [row] = rows;
  if (row === undefined || row.disabled_by !== null || row.next_at > row.now) return undefined;
  const webhook = toWebhook(row);
  const { message_id: id, attempts } = row;
  const current = plannedOf(row);
  if (id !== null && current !== undefined) {
    const messages = await readEvents(store, webhook, current, now);
    return (await renewLease(db, lease, leaseMs)) ? { webhook, kind: current.kind, id, attempts, messages } : undefined;
  }
  return lease.lane === redeliveryLane
    ? await takeParked(store, lease, webhook, { leaseMs, now })
    : await takeQueued(
        store,
        { lease, webhook, hasChanges: row.has_changes },
        { newId, leaseMs, now, databaseNow: row.now },
      );
}

async function takeQueued(
  store: ChannelStore,
  { lease, webhook, hasChanges }: { lease: Lease; webhook: StoredWebhook; hasChanges: boolean },
  at: { newId: string; leaseMs: number; now: number; databaseNow: number },
): Promise<Delivery | undefined> {
  const { db } = store;
  const next = await readNext(store, lease, { limit: webhook.batchSize, hasChanges });
  if (next === undefined) return undefined;
  const { planned, since } = next;
  if (countMessages(planned.ranges) < webhook.batchSize && since + webhook.maxWaitMs > at.databaseNow) return undefined;
  const found = await readEvents(store, webhook, planned, at.now);
  // A change stands at its number among the changes, as a message does among the messages.
  const placed = found.map((message) => ({ ...message, message, messageSeq: message.changeNo ?? message.messageSeq }));
  const { ranges, messages } = cutToBytes(planned.ranges, placed, limits.webhookBytes);
  const taken = await takeRanges(db, lease, { kind: planned.kind, ranges }, at);
  if (taken.size === 0) return undefined;
  return {
    webhook,
    kind: planned.kind,
    id: at.newId,
    attempts: 0,
    messages: messages.flatMap(({ message }) => (taken.has(message.channelKey) ? [message] : [])),
  };
}

const messageQueue = {
  queue: sql`sendbatch.webhook_queue`,
  firstColumn: sql.raw('first_seq'),
  lastColumn: sql.raw('last_seq'),
};
const changeQueue = {
  queue: sql`sendbatch.webhook_change_queue`,
  firstColumn: sql.raw('first_change'),
  lastColumn: sql.raw('last_change'),
};

/**
 * Moves ranges from the queue into a new delivery of the lane; returns the channels of the moved
 * ones. Rows locked by the router are skipped until its next run. A row that the router extended
 * meanwhile is cut, not deleted, and goes to the end of its lane, so a busy channel cannot starve
 * others.
 */
async function takeRanges(
  db: Db,
  lease: Lease,
  { kind, ranges }: PlannedDelivery,
  { newId, leaseMs }: { newId: string; leaseMs: number },
): Promise<Set<number>> {
  const { queue, firstColumn, lastColumn } = kind === 'stored' ? messageQueue : changeQueue;
  const taken = sql`(select jsonb_agg(jsonb_build_array(channel_key, first_seq, last_seq) order by position) from locked)`;
  // Older versions read only `ranges`, and leave a delivery without them to this one.
  const recorded =
    kind === 'stored'
      ? sql`ranges = ${taken}, changes = null`
      : sql`ranges = null, changes = jsonb_build_object('kind', ${kind}::text, 'ranges', ${taken})`;
  const { rows } = await sql<{ channel_key: number }>`
    with lane as (
      select webhook_key, lane from sendbatch.webhook_lane where ${holdsLease(lease)} and delivery_id is null for update
    ), locked as materialized (
      select q.channel_key, q.${lastColumn} as queued_seq, c.first_seq, c.last_seq, c.position
      from ${queue} q join unnest(${ranges.map((range) => range.channelKey)}::bigint[], ${ranges.map((range) => range.firstSeq)}::bigint[],
        ${ranges.map((range) => range.lastSeq)}::bigint[]) with ordinality as c(channel_key, first_seq, last_seq, position) on q.channel_key = c.channel_key
      where q.webhook_key = ${lease.webhookKey} and exists (select from lane)
      order by q.channel_key for update of q skip locked
    ), drained as (
      delete from ${queue} q using locked c
      where q.webhook_key = ${lease.webhookKey} and q.channel_key = c.channel_key and c.queued_seq = c.last_seq
    ), cut as (
      update ${queue} q set ${firstColumn} = c.last_seq + 1, queued_id = nextval('sendbatch.webhook_queued')
      from locked c where q.webhook_key = ${lease.webhookKey} and q.channel_key = c.channel_key and c.queued_seq > c.last_seq
    ), held as (
      update sendbatch.webhook_lane l set delivery_id = nextval('sendbatch.webhook_delivery'), message_id = ${newId},
        ${recorded}, attempts = 0,
        last_status = null, last_error = null, created_at = ${databaseNow}, leased_until = ${databaseNow} + ${leaseMs}::bigint
      from lane where l.webhook_key = lane.webhook_key and l.lane = lane.lane and exists (select from locked)
    )
    select channel_key from locked`.execute(db);
  return new Set(rows.map((row) => row.channel_key));
}

async function takeParked(
  store: ChannelStore,
  lease: Lease,
  webhook: StoredWebhook,
  at: { leaseMs: number; now: number },
): Promise<Delivery | undefined> {
  const { db } = store;
  const { rows } = await sql<{
    delivery_id: number;
    message_id: string;
    ranges: RangeRow[];
    changes: ChangesRow | null;
  }>`
    select delivery_id, message_id, ranges, changes from sendbatch.webhook_parked
    where webhook_key = ${lease.webhookKey} and redeliver order by delivery_id limit 1`.execute(db);
  const [row] = rows;
  if (row === undefined) return undefined;
  const planned = plannedOf(row);
  if (planned === undefined) return undefined;
  const messages = await readEvents(store, webhook, planned, at.now);
  const { rows: taken } = await sql`
    with lane as (
      select webhook_key, lane from sendbatch.webhook_lane where ${holdsLease(lease)} and delivery_id is null for update
    ), redelivered as (
      delete from sendbatch.webhook_parked where delivery_id = ${row.delivery_id} and exists (select from lane)
      returning delivery_id, message_id, ranges, changes, created_at
    )
    update sendbatch.webhook_lane l set delivery_id = r.delivery_id, message_id = r.message_id,
      ranges = case when r.changes is null then r.ranges end, changes = r.changes, attempts = 0,
      last_status = null, last_error = null, created_at = r.created_at, leased_until = ${databaseNow} + ${at.leaseMs}::bigint
    from lane, redelivered r where l.webhook_key = lane.webhook_key and l.lane = lane.lane returning l.lane`.execute(
    db,
  );
  return taken.length === 0 ? undefined : { webhook, kind: planned.kind, id: row.message_id, attempts: 0, messages };
}

/** Renews a lease; false if it was lost. */
async function renewLease(db: Db, lease: Lease, leaseMs: number): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update sendbatch.webhook_lane set leased_until = ${databaseNow} + ${leaseMs}::bigint where ${holdsLease(lease)}`.execute(
    db,
  );
  return numAffectedRows === 1n;
}
