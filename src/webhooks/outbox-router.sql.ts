import { sql } from 'kysely';
import { limits } from '../limits.ts';
import { bigintArray } from '../postgres/binary-array.ts';
import { overShards } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { onShard, type ShardLayout } from '../postgres/shards.ts';
import { all, databaseNow } from '../postgres/sql.ts';
import { inTransaction } from '../postgres/transaction.ts';
import type { SeqRange } from './webhook.ts';

/**
 * Records stored ranges in the outbox, in the transaction that stores them and under its head
 * locks.
 */
export async function insertOutbox(tx: Tx, ranges: readonly SeqRange[]): Promise<void> {
  await sql`
    insert into sendbatch.webhook_outbox (channel_key, first_seq, last_seq)
    select * from unnest(${ranges.map((range) => range.channelKey)}::bigint[], ${ranges.map((range) => range.firstSeq)}::bigint[],
      ${ranges.map((range) => range.lastSeq)}::bigint[])`.execute(tx);
}

/** Outbox rows per chunk of a shard. */
export const maxRoutedRows = 5000;

interface OutboxRow {
  readonly outbox_id: number;
  readonly channel_key: number;
  readonly first_seq: number;
  readonly last_seq: number;
}

/**
 * Moves outbox rows and changes of all shards to the queues of matching webhooks. Returns how many
 * of the shard with most, 0 if another router runs. Only one router runs at a time (advisory lock):
 * two could queue a channel's second range before its first.
 *
 * A snapshot has a channel's rows without gaps, since their writer holds the channel's head until
 * it commits. So merging a range into a queued one always continues it.
 */
export async function routeOutbox({ db, shards }: { readonly db: Db; readonly shards: ShardLayout }): Promise<number> {
  return await inTransaction(
    db,
    async (tx) => {
      const [isLocked, found] = await all([lockRouter(tx), overShards(tx, shards.all, readShard)]);
      return isLocked ? found : [];
    },
    (tx, found) => {
      const moved = shards.all.flatMap((shard, index) => {
        const { rows = [], changes = [] } = found[index] ?? {};
        const on = onShard(tx, shard);
        return [
          ...(rows.length === 0 ? [] : [removeOutbox(on, rows)]),
          ...(changes.length === 0 ? [] : [markRouted(on, changes)]),
        ];
      });
      const rows = found.flatMap((each) => each.rows);
      const changes = found.flatMap((each) => each.changes);
      return {
        sent: [
          ...moved,
          ...(rows.length === 0 ? [] : [queueRanges(tx, rows)]),
          ...(changes.length === 0 ? [] : [queueChanges(tx, changes)]),
        ],
        result: Math.max(0, ...found.map((each) => Math.max(each.rows.length, each.changes.length))),
      };
    },
  );
}

/** What a shard has to route. */
interface ToRoute {
  readonly rows: readonly OutboxRow[];
  readonly changes: readonly ChangeRow[];
}

interface ChangeRow {
  readonly channel_key: number;
  readonly change_no: number;
}

/**
 * Changes are read before messages: the later snapshot has every message before them. They wait
 * while there are more messages than one chunk.
 */
async function readShard(shard: Tx): Promise<ToRoute> {
  const [changes, rows] = await all([readChanges(shard), readOutbox(shard)]);
  return { rows, changes: rows.length < maxRoutedRows ? changes : [] };
}

async function readChanges(shard: Tx): Promise<ChangeRow[]> {
  const { rows } = await sql<ChangeRow>`
    select channel_key, change_no from sendbatch.message_change
    where to_route order by channel_key, change_no limit ${maxRoutedRows}`.execute(shard);
  return rows;
}

async function markRouted(shard: Tx, changes: readonly ChangeRow[]): Promise<void> {
  await sql`
    update sendbatch.message_change c set to_route = false
    from unnest(${bigintArray(changes.map((each) => each.channel_key))}::bigint[],
      ${bigintArray(changes.map((each) => each.change_no))}::bigint[]) as w(channel_key, change_no)
    where c.channel_key = w.channel_key and c.change_no = w.change_no`.execute(shard);
}

async function lockRouter(tx: Tx): Promise<boolean> {
  const { rows } = await sql<{ is_locked: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended('sendbatch.webhook', 0)) as is_locked`.execute(tx);
  return rows[0]?.is_locked === true;
}

/** In a statement after the lock: its snapshot lacks what the previous router moved. */
async function readOutbox(shard: Tx): Promise<OutboxRow[]> {
  const { rows } = await sql<OutboxRow>`
    select outbox_id, channel_key, first_seq, last_seq from sendbatch.webhook_outbox
    order by outbox_id limit ${maxRoutedRows}`.execute(shard);
  return rows;
}

/** Removes these rows and no others: one with a lower number may have been committed meanwhile. */
async function removeOutbox(shard: Tx, rows: readonly OutboxRow[]): Promise<void> {
  await sql`
    delete from sendbatch.webhook_outbox
    where outbox_id = any(${bigintArray(rows.map((row) => row.outbox_id))}::bigint[])`.execute(shard);
}

async function queueRanges(tx: Tx, rows: readonly OutboxRow[]): Promise<void> {
  const column = (of: (row: OutboxRow) => number) => sql`${bigintArray(rows.map(of))}::bigint[]`;
  await sql`
    with ranges as (
      select channel_key, min(first_seq) as first_seq, max(last_seq) as last_seq
      from unnest(${column((row) => row.channel_key)}, ${column((row) => row.first_seq)}, ${column((row) => row.last_seq)})
        as w(channel_key, first_seq, last_seq)
      group by channel_key
    )
    insert into sendbatch.webhook_queue as q (webhook_key, channel_key, lane, first_seq, last_seq, since)
    select w.webhook_key, r.channel_key, r.channel_key % ${limits.webhookLanes}, r.first_seq, r.last_seq, ${databaseNow}
    from ranges r
    cross join lateral (select channel_type from sendbatch.channel c where c.channel_key = r.channel_key limit 1) c
    join sendbatch.webhook w on cardinality(w.channel_types) = 0 or c.channel_type = any(w.channel_types)
    order by w.webhook_key, r.channel_key
    on conflict (webhook_key, channel_key) do update set last_seq = greatest(q.last_seq, excluded.last_seq)`.execute(
    tx,
  );
}

/** Queues changes for the webhooks that receive them: the legacy format has none. */
async function queueChanges(tx: Tx, changes: readonly ChangeRow[]): Promise<void> {
  await sql`
    with ranges as (
      select channel_key, min(change_no) as first_change, max(change_no) as last_change
      from unnest(${bigintArray(changes.map((each) => each.channel_key))}::bigint[],
        ${bigintArray(changes.map((each) => each.change_no))}::bigint[]) as w(channel_key, change_no)
      group by channel_key
    )
    insert into sendbatch.webhook_change_queue as q (webhook_key, channel_key, lane, first_change, last_change, since)
    select w.webhook_key, r.channel_key, r.channel_key % ${limits.webhookLanes}, r.first_change, r.last_change, ${databaseNow}
    from ranges r
    cross join lateral (select channel_type from sendbatch.channel c where c.channel_key = r.channel_key limit 1) c
    join sendbatch.webhook w on w.format = 'standard' and (cardinality(w.channel_types) = 0 or c.channel_type = any(w.channel_types))
    order by w.webhook_key, r.channel_key
    on conflict (webhook_key, channel_key) do update set last_change = greatest(q.last_change, excluded.last_change)`.execute(
    tx,
  );
}
