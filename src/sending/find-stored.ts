import type { Earlier } from '../messages/append-plan.ts';
import { isPersistent, type PreparedMessage } from '../messages/message.ts';
import type { Store } from './group-context.ts';
import { findEarlier } from './messages.sql.ts';

/** Finds stored messages by message key, regardless of what their sender is permitted now. */
export function createFindStored({
  db,
  shards,
  channelKeys,
}: Pick<Store, 'db' | 'shards' | 'channelKeys'>): (
  messages: readonly PreparedMessage[],
) => Promise<ReadonlyMap<string, Earlier>> {
  return async (messages) => {
    const numbered = messages.filter(isPersistent);
    const keys = await channelKeys.find([...new Map(numbered.map(({ channel }) => [channel.key, channel])).values()]);
    const lookups = numbered.flatMap((message) => {
      const channelKey = keys.get(message.channel.key);
      return channelKey === undefined ? [] : [{ channelKey, message }];
    });
    return lookups.length === 0 ? new Map() : await findEarlier(db, shards, lookups);
  };
}
