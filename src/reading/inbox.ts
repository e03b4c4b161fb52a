import { limits } from '../limits.ts';
import { readHeads } from '../messages/channel-heads.sql.ts';
import { pageOf } from '../messages/page.ts';
import { orBusy } from '../messages/store-busy.ts';
import { onShard } from '../postgres/shards.ts';
import type { Store } from '../sending/group-context.ts';
import { ackCommands, type Command, syncCommands } from './commands.sql.ts';
import { type ConversationCursor, type ConversationRow, listConversations, markRead } from './conversations.sql.ts';
import { assertReadable, channelToRead, type Reader, viewerOf } from './read-access.ts';
import { assertReached } from './read-channel.ts';

/** Per user: conversations, read cursors and commands. */
export interface Inbox {
  conversations(reader: Reader, before: ConversationCursor | undefined, pageSize: number): Promise<ConversationRow[]>;
  /** `seq` 0: up to the head. A sequence above the head is refused. */
  markRead(reader: Reader, channelType: number, channelId: string, seq: number): Promise<void>;
  commands(reader: Reader, after: number, limit: number): Promise<CommandPage>;
  acknowledge(reader: Reader, seq: number): Promise<void>;
}

/** Commands of a user; `more`: others follow the last one. */
export interface CommandPage {
  readonly commands: readonly Command[];
  readonly more: boolean;
}

export function createInbox(store: Store, now: () => number = Date.now): Inbox {
  const { db, shards, channelKeys } = store;
  const lastSeqOf = async (channelKey: number) =>
    (await readHeads(onShard(db, shards.of(channelKey)), [channelKey])).get(channelKey) ?? 0;
  const uidOf = (reader: Reader) => viewerOf(reader) ?? reader.uid;
  return {
    conversations: (reader, before, pageSize) =>
      orBusy(() => listConversations(store, uidOf(reader), before, pageSize, now())),
    markRead: (reader, channelType, channelId, seq) =>
      orBusy(async () => {
        const uid = uidOf(reader);
        const named = channelToRead(channelType, channelId, uid);
        await assertReadable(store, uid, [named]);
        const channelKey = (await channelKeys.find([named])).get(named.key);
        const lastSeq = channelKey === undefined ? 0 : await lastSeqOf(channelKey);
        assertReached(seq, { lastSeq }, { field: 'read_seq' });
        if (channelKey !== undefined) await markRead(db, uid, channelKey, seq || lastSeq);
      }),
    commands: (reader, after, limit) =>
      orBusy(async () => {
        const most = limit || limits.commandsDefault;
        const { commands, lastSeq } = await syncCommands(store, uidOf(reader), after, most + 1, now());
        assertReached(after, { lastSeq }, { field: 'message_seq' });
        const { page, last } = pageOf(commands, most);
        return { commands: page, more: last !== undefined };
      }),
    acknowledge: (reader, seq) =>
      orBusy(async () => {
        const lastSeq = await ackCommands(db, uidOf(reader), seq);
        assertReached(seq, { lastSeq }, { field: 'last_message_seq' });
      }),
  };
}
