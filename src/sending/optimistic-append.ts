import type { Batch } from '../messages/append-plan.ts';
import type { Channel } from '../messages/channel.ts';
import { type PermissionPrecondition, type PermissionRules, preconditionsFor } from '../messages/permission.ts';
import type { Db } from '../postgres/schema.ts';
import { type Shard, type ShardLayout, shardPoolOf } from '../postgres/shards.ts';
import { type Appended, fulfilled } from './append-types.ts';
import { messagesOf, type Store } from './group-context.ts';
import { type GroupLayout, layOutGroup, outcomesOf } from './group-layout.ts';
import { type AppendedNumbers, appendNew, appendToShard } from './optimistic-append.sql.ts';

/**
 * A group that can be stored by one statement if its precondition holds and none of its keys
 * exists.
 */
export interface OptimisticGroup {
  readonly layout: GroupLayout;
  readonly precondition: PermissionPrecondition;
}

/**
 * Prepares a group for an optimistic append; undefined when some of it needs a decision under
 * locks.
 */
export function tryOptimistic(batches: readonly Batch[], rules: PermissionRules): OptimisticGroup | undefined {
  const layout = layOutGroup(batches);
  const precondition = layout && preconditionsFor(messagesOf(batches), rules);
  return layout === undefined || precondition === undefined ? undefined : { layout, precondition };
}

/** Runs a statement on a connection; `sent` lets the next group be sent behind it. */
export type SendStatement = <T>(statement: (db: Db, sent: () => void) => Promise<T>) => Promise<T>;

/**
 * Stores a group as laid out, and creates the channels that do not exist: the precondition permits
 * every sender. Returns undefined, with nothing stored or created, when a sender is not permitted;
 * rejects with a unique violation when a once-only key exists (`isRepeatedSend`), or a channel that
 * did not when it was looked up (`isCreatedChannel`). With several shards one statement stores in
 * one of them and creates nothing: other groups need several transactions.
 */
export async function appendOptimistic(
  store: Store,
  batches: readonly Batch[],
  { layout, precondition }: OptimisticGroup,
  acceptedAt: number,
  send: SendStatement,
): Promise<readonly Appended[] | undefined | 'needs several transactions'> {
  const { channelKeys, shards } = store;
  const channels = layout.channels.map((each) => each.channel);
  const concerned = [...channels, ...precondition.openChannels];
  const keys = await channelKeys.findSettled(concerned);
  const announce = () => store.announces?.() === true;
  const append = { layout, precondition, channelKeys: keys, acceptedAt };
  const missing = concerned.filter(({ key }) => !keys.has(key));
  let numbers: AppendedNumbers | undefined;
  if (shards.count === 1)
    numbers = await channelKeys.whileCreating(missing, async () => {
      const appended = await send((db, sent) => {
        const answer = appendNew(db, { ...append, announce: announce() });
        sent();
        return answer;
      });
      if (appended !== undefined) channelKeys.created(appended.created);
      return appended;
    });
  else {
    const shard = shardOf(channels, keys, shards);
    if (shard === undefined) return 'needs several transactions';
    const users = shardPoolOf(store.db) === store.db ? undefined : store.db;
    numbers = await send((db, sent) =>
      appendToShard({ db, users: users ?? db, shards, shard, sent }, { ...append, announce: announce() }),
    );
  }
  if (numbers === undefined) return undefined;
  for (const [{ key }, channelKey] of numbers.created) keys.set(key, channelKey);
  store.onStored?.(channels.flatMap((channel) => keys.get(channel.key) ?? []));
  return outcomesOf(batches, layout, numbers).map(fulfilled);
}

/**
 * The one shard that has all of these channels; undefined when there are several, or one is new.
 */
function shardOf(
  channels: readonly Channel[],
  keys: ReadonlyMap<string, number>,
  shards: ShardLayout,
): Shard | undefined {
  let shard: Shard | undefined;
  for (const { key } of channels) {
    const channelKey = keys.get(key);
    if (channelKey === undefined) return undefined;
    const own = shards.of(channelKey);
    if (shard !== undefined && shard !== own) return undefined;
    shard = own;
  }
  return shard ?? shards.all[0];
}
