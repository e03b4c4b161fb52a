import { ChannelType, type MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';

/** Receivers that a table names more than once. */
export interface Receivers {
  add(line: number, draft: MessageDraft): void;
  /** For people; undefined: nobody is named twice. */
  words(): string | undefined;
}

/** Of larger tables the first so many receivers are looked at, in 100 MB. */
const mostReceivers = 1_000_000;

export function createReceivers(): Receivers {
  /** The line on which each came first. */
  const lines = new Map<string, number>();
  const repeated = new Set<string>();
  let example: string | undefined;
  return {
    add(line, { channelType, channelId }) {
      // A group gets many messages as a rule.
      if (channelType !== ChannelType.PERSON) return;
      const first = lines.get(channelId);
      if (first === undefined) {
        if (lines.size < mostReceivers) lines.set(channelId, line);
        return;
      }
      repeated.add(channelId);
      example ??= `${channelId}, in lines ${first} and ${line}`;
    },
    words: () =>
      repeated.size === 0
        ? undefined
        : `${repeated.size} ${repeated.size === 1 ? 'receiver is' : 'receivers are'} named more than once (${example}), which is a message a row for each; --unique <column> takes the first`,
  };
}
