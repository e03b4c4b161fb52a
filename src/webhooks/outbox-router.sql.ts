import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
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

/** Outbox rows per chunk. */
export const maxRoutedRows = 5000;

/**
 * Moves outbox rows to the queues of matching webhooks; returns how many, 0 if another router runs.
 * Only one router runs at a time (advisory lock): two could queue a channel's second range before
 * its first.
 *
 * A snapshot has a channel's rows without gaps, since their writer holds the channel's head until
 * it commits. So merging a range into a queued one always continues it.
 */
export async function routeOutbox(db: Db): Promise<number> {
  return await inTransaction(
    db,
    async (tx) => {
      const { rows } = await sql<{ is_locked: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended('sendbatch.webhook', 0)) as is_locked`.execute(tx);
      return rows[0]?.is_locked === true;
    },
    // A separate statement after the lock: its snapshot includes what the previous router moved.
    (tx, isLocked) => {
      const moved = isLocked ? moveOutbox(tx) : undefined;
      return { sent: moved === undefined ? [] : [moved], result: moved ?? 0 };
    },
  );
}

async function moveOutbox(tx: Tx): Promise<number> {
  const { rows } = await sql<{ row_count: number }>`
    with removed as (
      delete from sendbatch.webhook_outbox
      where outbox_id <= (select max(outbox_id) from (select outbox_id from sendbatch.webhook_outbox order by outbox_id limit ${maxRoutedRows}) chunk)
      returning channel_key, first_seq, last_seq
    ), ranges as (
      select channel_key, min(first_seq) as first_seq, max(last_seq) as last_seq from removed group by channel_key
    ), queued as (
      insert into sendbatch.webhook_queue as q (webhook_key, channel_key, lane, first_seq, last_seq, since)
      select w.webhook_key, r.channel_key, r.channel_key % ${limits.webhookLanes}, r.first_seq, r.last_seq, ${databaseNow}
      from ranges r
      cross join lateral (select channel_type from sendbatch.channel c where c.channel_key = r.channel_key limit 1) c
      join sendbatch.webhook w on cardinality(w.channel_types) = 0 or c.channel_type = any(w.channel_types)
      order by w.webhook_key, r.channel_key
      on conflict (webhook_key, channel_key) do update set last_seq = greatest(q.last_seq, excluded.last_seq)
    )
    select count(*)::integer as row_count from removed`.execute(tx);
  return rows[0]?.row_count ?? 0;
}
