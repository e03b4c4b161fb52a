import { type Draft, type PreparedMessage, prepareMessage } from '../../src/messages/message.ts';

/** A prepared message. `key`: its once-only key, and its payload unless `more` has another. */
export function prepared(key: string, more: Partial<Draft>): PreparedMessage {
  return prepareMessage(
    {
      clientMsgNo: key,
      fromUid: 'sender',
      channelId: 'c',
      channelType: 6,
      expire: 0,
      payload: Buffer.from(key),
      subscribers: [],
      streamNo: '',
      tagKey: '',
      ...more,
    },
    key,
  );
}
