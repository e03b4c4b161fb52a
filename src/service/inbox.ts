import { limits } from '../limits.ts';
import { ackCommands, type Command, syncCommands } from '../storage/command.ts';
import { type ConversationCursor, type ConversationRow, listConversations, markRead } from '../storage/conversation.ts';
import type { Store } from './group.ts';
import { assertReadable, channelToRead, eyesOf, type Reader } from './reading.ts';
import { orBusy } from './store-busy.ts';

/** What belongs to one user: its conversations, what it has read, and its commands. */
export interface Inbox {
  conversations(reader: Reader, before: ConversationCursor | undefined, pageSize: number): Promise<ConversationRow[]>;
  /** `seq` 0: all that there is. */
  markRead(reader: Reader, channelType: number, channelId: string, seq: number): Promise<void>;
  commands(reader: Reader, after: number, limit: number): Promise<Command[]>;
  acknowledge(reader: Reader, seq: number): Promise<void>;
}

export function createInbox(store: Store, now: () => number = Date.now): Inbox {
  const { db, channelKeys } = store;
  const uidOf = (reader: Reader) => eyesOf(reader) ?? reader.uid;
  return {
    conversations: (reader, before, pageSize) =>
      orBusy(() => listConversations(db, uidOf(reader), before, pageSize, now())),
    markRead: (reader, channelType, channelId, seq) =>
      orBusy(async () => {
        const uid = uidOf(reader);
        const named = channelToRead(channelType, channelId, uid);
        await assertReadable(store, uid, [named]);
        const channelKey = (await channelKeys.find([named])).get(named.key);
        if (channelKey !== undefined) await markRead(db, uid, channelKey, seq);
      }),
    commands: (reader, after, limit) =>
      orBusy(() => syncCommands(db, uidOf(reader), after, limit || limits.commandsDefault, now())),
    acknowledge: (reader, seq) => orBusy(() => ackCommands(db, uidOf(reader), seq)),
  };
}
