import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { inTransaction } from '../postgres/transaction.ts';
import type { Range } from './webhook.ts';

/** Writes down what a transaction stores, under the locks of the channels' heads. */
export async function insertOutbox(tx: Tx, ranges: readonly Range[]): Promise<void> {
  await sql`
    insert into sendbatch.webhook_outbox (channel_key, first_seq, last_seq)
    select * from unnest(${ranges.map((range) => range.channelKey)}::bigint[], ${ranges.map((range) => range.firstSeq)}::bigint[],
      ${ranges.map((range) => range.lastSeq)}::bigint[])`.execute(tx);
}

/** Rows of the outbox that are moved at once. */
export const routedAtOnce = 5000;

/**
 * Moves what was stored to the queues of the webhooks that are for it; returns how many rows it took. One at a time among all instances: two at once could queue a channel's second range before its
 * first. Who finds another at it leaves it to that one.
 *
 * In a snapshot a channel's rows in the outbox are without gaps from the first one on, since who writes them holds the channel's head until the commit. So a range that is merged into one that is queued is its continuation.
 */
export async function routeOutbox(db: Db): Promise<number> {
  return await inTransaction(
    db,
    async (tx) => {
      const { rows } = await sql<{ mine: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended('sendbatch.webhook', 0)) as mine`.execute(tx);
      return rows[0]?.mine === true;
    },
    // A statement of its own after the lock's: its snapshot has what the one before has moved.
    (tx, mine) => {
      const moved = mine ? moveOutbox(tx) : undefined;
      return { sent: moved === undefined ? [] : [moved], result: moved ?? 0 };
    },
  );
}

async function moveOutbox(tx: Tx): Promise<number> {
  const { rows } = await sql<{ taken: number }>`
    with taken as (
      delete from sendbatch.webhook_outbox
      where outbox_id <= (select max(outbox_id) from (select outbox_id from sendbatch.webhook_outbox order by outbox_id limit ${routedAtOnce}) o)
      returning channel_key, first_seq, last_seq
    ), ranges as (
      select channel_key, min(first_seq) as first_seq, max(last_seq) as last_seq from taken group by channel_key
    ), queued as (
      insert into sendbatch.webhook_queue as q (webhook_key, channel_key, lane, first_seq, last_seq, since)
      select w.webhook_key, r.channel_key, r.channel_key % ${limits.webhookLanes}, r.first_seq, r.last_seq, ${databaseNow}
      from ranges r
      cross join lateral (select channel_type from sendbatch.channel c where c.channel_key = r.channel_key limit 1) c
      join sendbatch.webhook w on cardinality(w.channel_types) = 0 or c.channel_type = any(w.channel_types)
      order by w.webhook_key, r.channel_key
      on conflict (webhook_key, channel_key) do update set last_seq = greatest(q.last_seq, excluded.last_seq)
    )
    select count(*)::integer as taken from taken`.execute(tx);
  return rows[0]?.taken ?? 0;
}
