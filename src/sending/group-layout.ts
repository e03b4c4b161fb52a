import { limits } from '../limits.ts';
import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { Channel } from '../messages/channel.ts';
import { isPersistent, type PreparedMessage } from '../messages/message.ts';

/** A message that gets a row: the `channelOffset` of its channel in the group, from 1. */
export interface RowSlot {
  /** Index of its channel. */
  readonly channel: number;
  readonly channelOffset: number;
  /** Its place among all messages of the group, from 0. */
  readonly idOffset: number;
  readonly message: PreparedMessage;
}

/** A group in which every message is taken to be new: each one's number is known but for where its channel stands. */
export interface GroupLayout {
  readonly channels: readonly { readonly channel: Channel; readonly count: number }[];
  readonly rows: readonly RowSlot[];
}

/**
 * Lays a group out; undefined when it takes a decision: a batch has a condition, which only the heads can tell, a message that is refused already or flagged, or several messages of which some get no
 * row: the once-only key cannot tell whether those repeat each other.
 */
export function layOutGroup(batches: readonly Batch[]): GroupLayout | undefined {
  const channels: { channel: Channel; count: number }[] = [];
  const indexes = new Map<string, number>();
  const rows: RowSlot[] = [];
  let idOffset = 0;
  for (const batch of batches) {
    if (batch.expectedLastSeqs.size > 0 || (batch.refused?.size ?? 0) > 0) return undefined;
    for (const message of batch.messages) {
      if (message.flaggedBy !== undefined) return undefined;
      const place = idOffset++;
      if (!isPersistent(message)) {
        if (batch.messages.length > 1) return undefined;
        continue;
      }
      let index = indexes.get(message.channel.key);
      if (index === undefined) {
        index = channels.length;
        indexes.set(message.channel.key, index);
        channels.push({ channel: message.channel, count: 0 });
      }
      const channel = channels[index] as { count: number };
      rows.push({ channel: index, channelOffset: ++channel.count, idOffset: place, message });
    }
  }
  return { channels, rows };
}

/** The outcomes of a group that was stored as laid out. `lastSeqs`: of each of its channels, after it. What `planAppend` says when nothing is known of earlier sends. */
export function outcomesOf(
  batches: readonly Batch[],
  { channels, rows }: GroupLayout,
  { lastSeqs, block }: { lastSeqs: readonly number[]; block: number },
): Outcome[][] {
  let idOffset = 0;
  let row = 0;
  return batches.map(({ messages }) =>
    messages.map((message): Outcome => {
      const messageId = block * limits.idsPerBlock + idOffset++;
      const laid = rows[row];
      if (laid?.message !== message) return { kind: 'accepted', message, messageId, messageSeq: 0 };
      row++;
      const messageSeq = (lastSeqs[laid.channel] ?? 0) - (channels[laid.channel]?.count ?? 0) + laid.channelOffset;
      return { kind: 'accepted', message, messageId, messageSeq };
    }),
  );
}
