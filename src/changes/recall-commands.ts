// The command by which clients of TangSengDaoDao remove a recalled message.
//
// It is the command that its server sends: `{"type": 99, "cmd": "messageRevoke", "param":
// {"message_id": "…"}}` from the message's sender to the readers of its channel. It is sent after
// the recall has committed, under a key of its own per message, so that a repeated recall sends it
// again if it was lost, and never twice.

import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { ChannelKeys } from '../messages/channel-keys.sql.ts';
import { prepareMessage } from '../messages/message.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { RecallTarget } from './changes.sql.ts';

/** Sends the commands of recalled messages. Throws a retryable refusal: then recall again. */
export type SendRecallCommands = (recalled: readonly RecallTarget[]) => Promise<void>;

/** Content type of commands in TangSengDaoDao's protocol. */
const commandType = 99;

export function createRecallCommands({
  channelKeys,
  append,
}: {
  readonly channelKeys: ChannelKeys;
  /** Stores messages, without limits of rates and without moderation. */
  readonly append: (batch: Batch) => Promise<readonly Outcome[]>;
}): SendRecallCommands {
  return async (recalled) => {
    const names = await channelKeys.names(new Set(recalled.map((target) => target.channelKey)));
    const messages = recalled.flatMap(({ channelKey, messageId, fromUid, subscribers }) => {
      const channel = names.get(channelKey);
      // The message had named its receivers, who are no longer stored.
      if (channel === undefined || subscribers === undefined) return [];
      const content = { type: commandType, cmd: 'messageRevoke', param: { message_id: String(messageId) } };
      const draft = {
        header: { noPersist: 0, redDot: 0, syncOnce: 1 },
        fromUid,
        channelId: channel.id,
        channelType: channel.type,
        payload: Buffer.from(JSON.stringify(content)),
        subscribers,
      };
      const key = `recall:${messageId}`;
      return [prepareMessage({ clientMsgNo: key, expire: 0, streamNo: '', tagKey: '', ...draft }, key)];
    });
    if (messages.length === 0) return;
    const outcomes = await append({ messages, atomic: false, expectedLastSeqs: new Map() });
    // If the sender is no longer permitted, or the channel is disbanded, there is nobody to notify.
    for (const outcome of outcomes)
      if (outcome.kind === 'refused' && outcome.refusal.retryAfterMs !== undefined)
        throw new ServiceError(outcome.refusal);
  };
}
