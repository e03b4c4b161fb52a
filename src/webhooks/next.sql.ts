import { sql } from 'kysely';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { changeKindOf } from '../messages/message.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import type { Db } from '../postgres/schema.ts';
import { type Lease, toRange } from './lease.sql.ts';
import { type PlannedDelivery, planDelivery, type QueuedChange, takeFirst } from './webhook.ts';

/** Plans the lane's next delivery. `since`: when its first event was queued. */
export async function readNext(
  store: ChannelStore,
  lease: Lease,
  { limit, hasChanges }: { readonly limit: number; readonly hasChanges: boolean },
): Promise<{ readonly planned: PlannedDelivery; readonly since: number } | undefined> {
  const { rows } = await sql<{
    channel_key: number;
    first_seq: number;
    last_seq: number;
    since: number;
    has_changes: boolean;
  }>`
    select channel_key, first_seq, last_seq, since,
      exists (
        select from sendbatch.webhook_change_queue where webhook_key = ${lease.webhookKey} and lane = ${lease.lane}) as has_changes
    from sendbatch.webhook_queue
    where webhook_key = ${lease.webhookKey} and lane = ${lease.lane} order by queued_id limit ${limit}`.execute(
    store.db,
  );
  const [first] = rows;
  // The same snapshot has a change and the messages after it.
  if (first?.has_changes ?? hasChanges) return await readNextWithChanges(store, lease, limit);
  if (first === undefined) return undefined;
  const ranges = takeFirst(
    rows.map((row) => toRange([row.channel_key, row.first_seq, row.last_seq])),
    limit,
  );
  return { planned: { kind: 'stored', ranges }, since: first.since };
}

/** The same for a lane that has changes, which stand among the messages of their channels. */
async function readNextWithChanges(
  { db, shards }: ChannelStore,
  { webhookKey, lane }: Lease,
  limit: number,
): Promise<{ readonly planned: PlannedDelivery; readonly since: number } | undefined> {
  const ofLane = sql`webhook_key = ${webhookKey} and lane = ${lane} order by queued_id limit ${limit}`;
  const { rows } = await sql<{
    channel_key: number;
    first_seq: number | null;
    last_seq: number | null;
    first_change: number | null;
    last_change: number | null;
    since: number;
  }>`
    with queued as materialized (
      (select channel_key, queued_id, since from sendbatch.webhook_queue where ${ofLane})
      union all
      (select channel_key, queued_id, since from sendbatch.webhook_change_queue where ${ofLane})
    ), channels as materialized (
      select channel_key, min(queued_id) as queued_id, min(since) as since from queued group by channel_key
    )
    select c.channel_key, c.since, m.first_seq, m.last_seq, x.first_change, x.last_change
    from channels c
    left join sendbatch.webhook_queue m on m.webhook_key = ${webhookKey} and m.channel_key = c.channel_key
    left join sendbatch.webhook_change_queue x on x.webhook_key = ${webhookKey} and x.channel_key = c.channel_key
    order by c.queued_id`.execute(db);
  const [first] = rows;
  if (first === undefined) return undefined;
  const changed = new Map(
    rows.flatMap(({ channel_key: key, first_change: from, last_change: to }) =>
      from === null || to === null ? [] : [[key, { firstChange: from, lastChange: to }] as const],
    ),
  );
  const kept = await mapByShard(db, shards, changed.keys(), (shard, keys) => readKept(shard, keys, changed, limit));
  const queues = rows.map(({ channel_key: channelKey, first_seq: firstSeq, last_seq: lastSeq }) => {
    const changes = changed.get(channelKey);
    return {
      channelKey,
      messages: firstSeq === null || lastSeq === null ? undefined : { firstSeq, lastSeq },
      changes: changes && { ...changes, kept: kept.get(channelKey) ?? [] },
    };
  });
  const planned = planDelivery(queues, limit);
  return planned && { planned, since: first.since };
}

/** Reads the first kept changes of ranges, by channel. */
async function readKept(
  shard: Db,
  keys: readonly number[],
  ranges: ReadonlyMap<number, { readonly firstChange: number; readonly lastChange: number }>,
  limit: number,
): Promise<Map<number, QueuedChange[]>> {
  const { rows } = await sql<{ channel_key: number; change_no: number; kind: number; after_seq: number }>`
    select r.channel_key, c.*
    from unnest(${[...keys]}::bigint[], ${keys.map((key) => ranges.get(key)?.firstChange ?? 0)}::bigint[],
      ${keys.map((key) => ranges.get(key)?.lastChange ?? 0)}::bigint[]) as r(channel_key, first_change, last_change)
    cross join lateral (
      select change_no, kind, after_seq from sendbatch.message_change c
      where c.channel_key = r.channel_key and c.change_no between r.first_change and r.last_change
      order by change_no limit ${limit}
    ) c
    order by r.channel_key, c.change_no`.execute(shard);
  const kept = new Map<number, QueuedChange[]>();
  for (const row of rows) {
    const change: QueuedChange = {
      changeNo: row.change_no,
      kind: changeKindOf(row.kind),
      afterSeq: row.after_seq,
    };
    const ofChannel = kept.get(row.channel_key);
    if (ofChannel === undefined) kept.set(row.channel_key, [change]);
    else ofChannel.push(change);
  }
  return kept;
}
