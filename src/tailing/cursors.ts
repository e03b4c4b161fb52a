// The cursors of a call, checked against what its channels have.
import { firstKeptChange } from '../changes/read-changes.sql.ts';
import type { Channel } from '../messages/channel.ts';
import { noHeads, type Positions, readManyHeadsAndFirst } from '../messages/channel-heads.sql.ts';
import type { MemberChannel } from '../messages/member-lists.sql.ts';
import { invalidField } from '../messages/service-error.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import { onShard } from '../postgres/shards.ts';
import { channelToRead } from '../reading/read-access.ts';
import { assertChangeKept, assertChangeReached, assertKept, assertReached } from '../reading/read-channel.ts';
import type { Store } from '../sending/group-context.ts';
import type { Cursor } from './tail-event.ts';

/** A cursor of the call, for a channel of its user. */
export interface OwnCursor {
  readonly seq: number;
  readonly change: number | undefined;
}

/** A channel as an error about one of many names it. */
export const positionOf = ({ type, id }: Channel) => ({ channel: { type, id } });

/** The cursors of a call by channel key text. Refuses two positions of one channel. */
export function byChannel(
  cursors: readonly Cursor[],
  viewerUid: string | undefined,
): Map<string, { readonly channel: Channel; readonly cursor: Cursor }> {
  const named = new Map<string, { readonly channel: Channel; readonly cursor: Cursor }>();
  for (const [index, cursor] of cursors.entries()) {
    const channel = channelToRead(cursor.channelType, cursor.channelId, viewerUid);
    const first = named.get(channel.key);
    if (first === undefined) named.set(channel.key, { channel, cursor });
    else if (!isSamePosition(first.cursor, cursor))
      throw invalidField(
        `channels[${index}]`,
        `names the channel ${JSON.stringify(channel.id)} of type ${channel.type} again, from another position; name each channel once`,
      );
  }
  return named;
}

function isSamePosition(one: Cursor, other: Cursor): boolean {
  const isSameSeq = one.fromNow ? other.fromNow : !other.fromNow && one.afterSeq === other.afterSeq;
  return isSameSeq && one.afterChange === other.afterChange;
}

/** The call's cursors by channel key text, without those of channels that the user has left. */
export async function cursorsOf(
  store: Store,
  { channels, viewerUid }: { readonly channels: readonly Cursor[]; readonly viewerUid: string | undefined },
  mine: readonly MemberChannel[],
): Promise<Map<string, OwnCursor>> {
  const known = new Map(mine.map((each) => [each.channel.key, each]));
  const cursors = new Map<string, OwnCursor>();
  const named: { readonly channel: Channel; readonly afterSeq: number; readonly afterChange: number | undefined }[] =
    [];
  for (const { channel, cursor } of byChannel(channels, viewerUid).values()) {
    const { afterSeq, fromNow, afterChange } = cursor;
    cursors.set(channel.key, {
      seq: fromNow ? (known.get(channel.key)?.lastSeq ?? 0) : afterSeq,
      change: afterChange,
    });
    if ((!fromNow && afterSeq > 0) || afterChange !== undefined)
      named.push({ channel, afterSeq: fromNow ? 0 : afterSeq, afterChange });
  }
  const keys = await store.channelKeys.find(named.map((each) => each.channel));
  const heads = await mapByShard(store.db, store.shards, keys.values(), readManyHeadsAndFirst);
  for (const { channel, afterSeq, afterChange = 0 } of named) {
    const channelKey = keys.get(channel.key);
    const positions = (channelKey === undefined ? undefined : heads.get(channelKey)) ?? noHeads;
    assertReached(afterSeq, positions, positionOf(channel));
    if (!known.has(channel.key)) continue;
    assertKept(afterSeq, positions, positionOf(channel));
    await assertChangesKept(store, afterChange, positions, { channel, channelKey });
  }
  return cursors;
}

/** Refuses a change above the last one, and one before the first that is kept. */
export async function assertChangesKept(
  store: Store,
  afterChange: number,
  positions: Positions,
  { channel, channelKey }: { readonly channel: Channel; readonly channelKey: number | undefined },
): Promise<void> {
  assertChangeReached(afterChange, positions, positionOf(channel));
  if (afterChange === 0 || afterChange === positions.lastChange || channelKey === undefined) return;
  const { db, shards } = store;
  const first = await firstKeptChange(onShard(db, shards.of(channelKey)), channelKey);
  assertChangeKept(afterChange, first ?? positions.lastChange + 1, positionOf(channel));
}
