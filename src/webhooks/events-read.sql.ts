import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { alive, type MessageRow, messageColumns, type StoredMessage, toStored } from '../messages/messages-read.sql.ts';
import { byShard } from '../postgres/over-shards.ts';
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
  const placed = ranges.map((range, place) => ({ ...range, place }));
  const { db, shards } = store;
  const ofShards = await byShard(db, shards, { items: placed, channelKeyOf }, async (shard, own) => {
    const column = (of: (each: (typeof own)[number]) => number) => sql`${own.map(of)}::bigint[]`;
    const { rows } = await sql<MessageRow & { channel_key: number; place: number }>`
      select r.channel_key, r.place, m.*
      from unnest(${column(channelKeyOf)}, ${column((each) => each.firstSeq)}, ${column((each) => each.lastSeq)},
        ${column((each) => each.place)}) as r(channel_key, first_seq, last_seq, place)
      cross join lateral (
        select ${messageColumns} from sendbatch.message m
        where m.channel_key = r.channel_key and m.message_seq between r.first_seq and r.last_seq and ${alive(now)}
        order by m.message_seq limit ${limits.webhookMessages}
      ) m`.execute(shard);
    return rows;
  });
  const rows = ofShards.flat().sort((a, b) => a.place - b.place || a.message_seq - b.message_seq);
  return await withChannels(store, rows);
}

/** Reads changes by ranges of their numbers, in the order of the ranges; without messages that are gone. */
async function readChanges(
  store: ChannelStore,
  ranges: readonly SeqRange[],
  now: number,
): Promise<(ChannelMessage & { readonly bytes: number })[]> {
  const placed = ranges.map((range, place) => ({ ...range, place }));
  const { db, shards } = store;
  const ofShards = await byShard(db, shards, { items: placed, channelKeyOf }, async (shard, own) => {
    const column = (of: (each: (typeof own)[number]) => number) => sql`${own.map(of)}::bigint[]`;
    const { rows } = await sql<MessageRow & { channel_key: number; place: number; change_no: number }>`
      select r.channel_key, r.place, c.change_no, m.*
      from unnest(${column(channelKeyOf)}, ${column((each) => each.firstSeq)}, ${column((each) => each.lastSeq)},
        ${column((each) => each.place)}) as r(channel_key, first_change, last_change, place)
      cross join lateral (
        select change_no, message_seq from sendbatch.message_change c
        where c.channel_key = r.channel_key and c.change_no between r.first_change and r.last_change
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
    ofShards.flat().sort((a, b) => a.place - b.place || a.change_no - b.change_no),
  );
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
