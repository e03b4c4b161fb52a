import { limits } from '../limits.ts';
import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { Channel } from '../messages/channel.ts';
import { isPersistent, type Prepared } from '../messages/message.ts';

/** A message that gets a row: the `nth` of its channel in the group, from 1. */
export interface LaidOut {
  /** Index of its channel. */
  readonly channel: number;
  readonly nth: number;
  /** Its place among all messages of the group, from 0. */
  readonly ordinal: number;
  readonly message: Prepared;
}

/** A group in which every message is taken to be new: each one's number is known but for where its channel stands. */
export interface Layout {
  readonly channels: readonly { readonly channel: Channel; readonly count: number }[];
  readonly rows: readonly LaidOut[];
}

/**
 * Lays a group out; undefined when it takes a decision: a batch has a condition, which only the heads can tell, a message that is refused already or flagged, or several messages of which some get no
 * row: the once-only key cannot tell whether those repeat each other.
 */
export function layOut(batches: readonly Batch[]): Layout | undefined {
  const channels: { channel: Channel; count: number }[] = [];
  const indexes = new Map<string, number>();
  const rows: LaidOut[] = [];
  let ordinal = 0;
  for (const batch of batches) {
    if (batch.expectedLastSeqs.size > 0 || (batch.refused?.size ?? 0) > 0) return undefined;
    for (const message of batch.messages) {
      if (message.flaggedBy !== undefined) return undefined;
      const place = ordinal++;
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
      rows.push({ channel: index, nth: ++channel.count, ordinal: place, message });
    }
  }
  return { channels, rows };
}

/** The outcomes of a group that was stored as laid out. `lastSeqs`: of each of its channels, after it. What `decide` says when nothing is known of earlier sends. */
export function numbered(
  batches: readonly Batch[],
  { channels, rows }: Layout,
  { lastSeqs, block }: { lastSeqs: readonly number[]; block: number },
): Outcome[][] {
  let ordinal = 0;
  let row = 0;
  return batches.map(({ messages }) =>
    messages.map((message): Outcome => {
      const messageId = block * limits.idsPerBlock + ordinal++;
      const laid = rows[row];
      if (laid?.message !== message) return { kind: 'accepted', message, messageId, messageSeq: 0 };
      row++;
      const messageSeq = (lastSeqs[laid.channel] ?? 0) - (channels[laid.channel]?.count ?? 0) + laid.nth;
      return { kind: 'accepted', message, messageId, messageSeq };
    }),
  );
}
