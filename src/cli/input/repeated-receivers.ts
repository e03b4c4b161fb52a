import { ChannelType, type MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';

/** Finds receivers that a table lists more than once. */
export interface Receivers {
  add(line: number, draft: MessageDraft): void;
  /** A note for the operator; undefined if no receiver is repeated. */
  words(): string | undefined;
}

/**
 * At most this many receivers are remembered, in 100 MB; of a larger table only these are checked.
 */
const maxReceivers = 1_000_000;

export function createReceivers(): Receivers {
  /** The first line of each receiver. */
  const lines = new Map<string, number>();
  const repeated = new Set<string>();
  let example: string | undefined;
  return {
    add(line, { channelType, channelId }) {
      // A group usually gets many messages.
      if (channelType !== ChannelType.PERSON) return;
      const first = lines.get(channelId);
      if (first === undefined) {
        if (lines.size < maxReceivers) lines.set(channelId, line);
        return;
      }
      repeated.add(channelId);
      example ??= `${channelId}, lines ${first} and ${line}`;
    },
    words: () =>
      repeated.size === 0
        ? undefined
        : `${repeated.size} ${repeated.size === 1 ? 'receiver occurs' : 'receivers occur'} in several rows (${example}) and gets one message per row; use --unique <column> to send only the first`,
  };
}
