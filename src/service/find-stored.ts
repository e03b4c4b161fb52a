import { isPersistent, type Prepared } from '../domain/message.ts';
import type { Earlier } from '../domain/plan.ts';
import { findEarlier } from '../storage/message.ts';
import type { Store } from './group.ts';

/** Finds the messages among these that are stored, by message key, whatever their sender may do now. */
export function createFindStored({
  db,
  channelKeys,
}: Pick<Store, 'db' | 'channelKeys'>): (messages: readonly Prepared[]) => Promise<ReadonlyMap<string, Earlier>> {
  return async (messages) => {
    const numbered = messages.filter(isPersistent);
    const keys = await channelKeys.find([...new Map(numbered.map(({ channel }) => [channel.key, channel])).values()]);
    const keyed = numbered.flatMap((message) => {
      const channelKey = keys.get(message.channel.key);
      return channelKey === undefined ? [] : [{ channelKey, message }];
    });
    return keyed.length === 0 ? new Map() : await findEarlier(db, keyed);
  };
}
