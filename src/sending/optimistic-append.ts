import type { Batch } from '../messages/append-plan.ts';
import { type PermissionPrecondition, type PermissionRules, preconditionsFor } from '../messages/permission.ts';
import type { Db } from '../postgres/schema.ts';
import { type Appended, fulfilled } from './append-types.ts';
import { messagesOf, type Store } from './group-context.ts';
import { type GroupLayout, layOutGroup, outcomesOf } from './group-layout.ts';
import { appendNew } from './messages.sql.ts';

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

/** Runs a statement on a connection. */
export type SendStatement = <T>(statement: (db: Db) => Promise<T>) => Promise<T>;

/**
 * Stores a group as laid out, and creates the channels that do not exist: the precondition permits
 * every sender. Returns undefined, with nothing stored or created, when a sender is not permitted;
 * rejects with a unique violation when a once-only key exists (`isRepeatedSend`), or a channel that
 * did not when it was looked up (`isCreatedChannel`).
 */
export async function appendOptimistic(
  store: Store,
  batches: readonly Batch[],
  { layout, precondition }: OptimisticGroup,
  acceptedAt: number,
  send: SendStatement = (statement) => statement(store.db),
): Promise<readonly Appended[] | undefined> {
  const { channelKeys } = store;
  const channels = layout.channels.map((each) => each.channel);
  const concerned = [...channels, ...precondition.openChannels];
  const keys = await channelKeys.findSettled(concerned);
  const missing = concerned.filter(({ key }) => !keys.has(key));
  const numbers = await channelKeys.whileCreating(missing, async () => {
    const announce = store.announces?.() === true;
    const appended = await send((db) => appendNew(db, layout, precondition, keys, acceptedAt, announce));
    if (appended !== undefined) channelKeys.created(appended.created);
    return appended;
  });
  if (numbers === undefined) return undefined;
  for (const [{ key }, channelKey] of numbers.created) keys.set(key, channelKey);
  store.onStored?.(channels.flatMap((channel) => keys.get(channel.key) ?? []));
  return outcomesOf(batches, layout, numbers).map(fulfilled);
}
