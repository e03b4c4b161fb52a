import type { Batch } from '../messages/append-plan.ts';
import { keyCrcOf } from '../messages/channel.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import { loadChannelKeys, type Store } from './group-context.ts';
import type { Route } from './lanes.ts';

/**
 * Decides the lane of each message in a database with several shards: the index of its shard, or
 * the last lane, which takes what belongs to several.
 *
 * The shard follows from the channel's key, so channels without one are created here, if a sender
 * may send to them. Messages whose channel has no key are not stored, and go with others. When the
 * keys cannot be read now, the batch goes to the last lane, whose append retries.
 */
export function createShardRoute(store: Store): Route {
  const { shards } = store;
  return async (batch: Batch) => {
    const { messages } = batch;
    let channelKeys: ReadonlyMap<string, number>;
    try {
      channelKeys = await orBusy(() => loadChannelKeys([batch], store));
    } catch (error) {
      if (error instanceof ServiceError) return messages.map(() => shards.count);
      throw error;
    }
    const lanes = messages.map(({ channel }) => {
      const channelKey = channelKeys.get(channel.key);
      return channelKey === undefined ? undefined : shards.of(channelKey).index;
    });
    const [first] = messages;
    const any = lanes.find((lane) => lane !== undefined);
    const other = any ?? (first === undefined ? 0 : keyCrcOf(first.channel) % shards.count);
    return lanes.map((lane) => lane ?? other);
  };
}
