import { type RawBuilder, sql } from 'kysely';
import { limits } from '../limits.ts';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { alive, type MessageRow, messageColumns, toStored } from '../messages/message-select.sql.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import { byShard } from '../postgres/over-shards.ts';
import type { Db } from '../postgres/schema.ts';
import type { PlannedDelivery, SeqRange } from './webhook.ts';
import type { StoredWebhook } from './webhooks.sql.ts';

/** A stored message with its channel. */
export interface ChannelMessage extends StoredMessage {
  readonly channelKey: number;
  readonly channelType: number;
  readonly channelId: string;
  /** The number of the change, in a delivery of changes. */
  readonly changeNo?: number;
}

/** Reads the unexpired messages of a delivery, in its order. The legacy format has no changes. */
export async function readEvents(
  store: ChannelStore,
  { format }: StoredWebhook,
  { kind, ranges }: PlannedDelivery,
  now: number,
): Promise<(ChannelMessage & { readonly bytes: number })[]> {
  if (kind !== 'stored' && format === 'legacy') return [];
  return kind === 'stored' ? await readMessages(store, ranges, now) : await readChanges(store, ranges, now);
}

/** Reads the unexpired messages of ranges, in the order of the ranges. */
async function readMessages(
  store: ChannelStore,
  ranges: readonly SeqRange[],
  now: number,
): Promise<(ChannelMessage & { readonly bytes: number })[]> {
  const rows = await ofRanges(store, ranges, async (shard, own) => {
    const { rows } = await sql<PlacedRow>`
      select r.channel_key, r.place, m.*
      from ${own}
      cross join lateral (
        select ${messageColumns} from sendbatch.message m
        where m.channel_key = r.channel_key and m.message_seq between r.first_seq and r.last_seq and ${alive(now)}
        order by m.message_seq limit ${limits.webhookMessages}
      ) m`.execute(shard);
    return rows;
  });
  return await withChannels(
    store,
    rows.sort((a, b) => a.place - b.place || a.message_seq - b.message_seq),
  );
}

/**
 * Reads changes by ranges of their numbers, in the order of the ranges; without messages that are
 * gone.
 */
async function readChanges(
  store: ChannelStore,
  ranges: readonly SeqRange[],
  now: number,
): Promise<(ChannelMessage & { readonly bytes: number })[]> {
  const rows = await ofRanges(store, ranges, async (shard, own) => {
    const { rows } = await sql<PlacedRow & { readonly change_no: number }>`
      select r.channel_key, r.place, c.change_no, m.*
      from ${own}
      cross join lateral (
        select change_no, message_seq from sendbatch.message_change c
        where c.channel_key = r.channel_key and c.change_no between r.first_seq and r.last_seq
        order by c.change_no limit ${limits.webhookMessages}
      ) c
      cross join lateral (
        select ${messageColumns} from sendbatch.message m
        where m.channel_key = r.channel_key and m.message_seq = c.message_seq and ${alive(now)} limit 1
      ) m`.execute(shard);
    return rows;
  });
  return await withChannels(
    store,
    rows.sort((a, b) => a.place - b.place || a.change_no - b.change_no),
  );
}

/** A message in a range, by the range's place among all. */
type PlacedRow = MessageRow & { readonly channel_key: number; readonly place: number };

/** Reads something for ranges from their shards; `own`: the ranges of a shard as a table `r`. */
async function ofRanges<Row>(
  { db, shards }: ChannelStore,
  ranges: readonly SeqRange[],
  read: (shard: Db, own: RawBuilder<unknown>) => Promise<Row[]>,
): Promise<Row[]> {
  const placed = ranges.map((range, place) => ({ ...range, place }));
  const ofShards = await byShard(db, shards, { items: placed, channelKeyOf }, async (shard, own) => {
    const column = (of: (each: (typeof own)[number]) => number) => sql`${own.map(of)}::bigint[]`;
    const table = sql`unnest(${column(channelKeyOf)}, ${column((each) => each.firstSeq)}, ${column((each) => each.lastSeq)},
        ${column((each) => each.place)}) as r(channel_key, first_seq, last_seq, place)`;
    return await read(shard, table);
  });
  return ofShards.flat();
}

/** Adds the names of the channels; messages of removed channels are left out. */
async function withChannels(
  { channelKeys }: ChannelStore,
  rows: readonly (MessageRow & { readonly channel_key: number; readonly change_no?: number })[],
): Promise<(ChannelMessage & { readonly bytes: number })[]> {
  const names = await channelKeys.names(new Set(rows.map((row) => row.channel_key)));
  return rows.flatMap((row) => {
    const channel = names.get(row.channel_key);
    if (channel === undefined) return [];
    const { channel_key: channelKey, change_no: changeNo, payload } = row;
    const { type: channelType, id: channelId } = channel;
    const change = changeNo === undefined ? {} : { changeNo };
    return [{ ...toStored(row), channelKey, channelType, channelId, ...change, bytes: payload.length }];
  });
}

const channelKeyOf = ({ channelKey }: SeqRange) => channelKey;
