import { limits } from '../limits.ts';
import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { Channel } from '../messages/channel.ts';
import { isPersistent, type PreparedMessage } from '../messages/message.ts';

/** The row of a message in a group. */
export interface RowSlot {
  /** Index of its channel in the layout. */
  readonly channel: number;
  /** Position among the rows of its channel in the group, from 1. */
  readonly channelOffset: number;
  /** Position among all messages of the group, from 0; added to the block's first id. */
  readonly idOffset: number;
  readonly message: PreparedMessage;
}

/**
 * A group laid out as if every message were new: its numbers are known relative to the heads of its
 * channels.
 */
export interface GroupLayout {
  readonly channels: readonly { readonly channel: Channel; readonly count: number }[];
  readonly rows: readonly RowSlot[];
}

/**
 * Lays out a group; undefined when it needs a decision under locks:
 *  1. a batch has `expected_last_seqs`, which only the heads can answer;
 *  2. a message was refused already, or flagged by moderation;
 *  3. a batch of several messages has one that is not stored: its once-only key finds no repetition
 *     in the batch.
 */
export function layOutGroup(batches: readonly Batch[]): GroupLayout | undefined {
  const channels: { channel: Channel; count: number }[] = [];
  const indexes = new Map<string, number>();
  const rows: RowSlot[] = [];
  let nextIdOffset = 0;
  for (const batch of batches) {
    if (batch.expectedLastSeqs.size > 0 || (batch.refused?.size ?? 0) > 0) return undefined;
    for (const message of batch.messages) {
      if (message.flaggedBy !== undefined) return undefined;
      const idOffset = nextIdOffset++;
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
      rows.push({ channel: index, channelOffset: ++channel.count, idOffset, message });
    }
  }
  return { channels, rows };
}

/**
 * The outcomes of a group that was stored as laid out; the same as `planAppend` decides without
 * earlier sends. `lastSeqs`: the head of each channel of the layout, after the group.
 */
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
      const slot = rows[row];
      if (slot?.message !== message) return { kind: 'accepted', message, messageId, messageSeq: 0 };
      row++;
      const messageSeq = (lastSeqs[slot.channel] ?? 0) - (channels[slot.channel]?.count ?? 0) + slot.channelOffset;
      return { kind: 'accepted', message, messageId, messageSeq };
    }),
  );
}
