import type { Batch } from '../messages/append-plan.ts';
import type { Channel } from '../messages/channel.ts';
import type { ChannelKeys } from '../messages/channel-keys.sql.ts';
import { isPersistent, type PreparedMessage } from '../messages/message.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import {
  type Pair,
  type PairFacts,
  type PermissionRules,
  pairKeyOf,
  pairOf,
  sendDenial,
} from '../messages/permission.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { Db } from '../postgres/schema.ts';
import type { ShardLayout } from '../postgres/shards.ts';
import type { KeyedMessage } from './messages.sql.ts';

/** What an append needs of the store. */
export interface Store {
  readonly db: Db;
  readonly shards: ShardLayout;
  readonly channelKeys: ChannelKeys;
  readonly rules: PermissionRules;
  /** Called after the commit with the channels in which messages were stored. */
  readonly onStored?: (channelKeys: Iterable<number>) => void;
  /** Whether webhooks exist, which receive what is stored. */
  readonly announces?: () => boolean;
}

/**
 * Batches that are appended together, with what is known of their channels before the transaction.
 */
export interface Group {
  /**
   * Surrogate keys, by channel key text, of the channels that get a numbered message from a
   * permitted sender.
   */
  readonly channelKeys: ReadonlyMap<string, number>;
  readonly pairs: readonly Pair[];
  readonly batches: readonly Batch[];
}

/**
 * Loads the channel keys of a group. Creates missing channels that a sender may send to, unless
 * `which` is given.
 */
export async function loadGroup(
  batches: readonly Batch[],
  store: Store,
  which?: 'only those that exist',
): Promise<Group> {
  const channelKeys = await loadChannelKeys(batches, store, which);
  return { channelKeys, pairs: pairsOf(messagesOf(batches)), batches };
}

/** The keys of a group's channels, as `loadGroup` finds or creates them. */
export async function loadChannelKeys(
  batches: readonly Batch[],
  store: Store,
  which?: 'only those that exist',
): Promise<Map<string, number>> {
  const channels = new Map<string, Channel>();
  for (const message of messagesOf(batches))
    if (isPersistent(message)) channels.set(message.channel.key, message.channel);
  const channelKeys = await store.channelKeys.find([...channels.values()]);
  if (which === undefined && channelKeys.size < channels.size)
    for (const [text, key] of await createPermittedChannels(batches, channelKeys, store)) channelKeys.set(text, key);
  return channelKeys;
}

/** The channels of a group that have these keys. */
export function channelsOf({ batches, channelKeys }: Group, keys: ReadonlySet<number>): Channel[] {
  const found = new Map<string, Channel>();
  for (const { channel } of messagesOf(batches)) {
    const channelKey = channelKeys.get(channel.key);
    if (channelKey !== undefined && keys.has(channelKey)) found.set(channel.key, channel);
  }
  return [...found.values()];
}

export function* messagesOf(batches: readonly Batch[]): Iterable<PreparedMessage> {
  for (const batch of batches) yield* batch.messages;
}

function pairsOf(messages: Iterable<PreparedMessage>): Pair[] {
  const pairs = new Map<string, Pair>();
  for (const message of messages) {
    const key = pairKeyOf(message);
    if (!pairs.has(key)) pairs.set(key, pairOf(message));
  }
  return [...pairs.values()];
}

/** Denials by pair key: the pairs of sender and channel that may not send. */
export function deniedPairs(
  pairs: readonly Pair[],
  facts: ReadonlyMap<string, PairFacts>,
  rules: PermissionRules,
): Map<string, Refusal> {
  const denials = new Map<string, Refusal>();
  for (const pair of pairs) {
    const known = facts.get(pair.key);
    if (known === undefined) throw new Error('no facts for a pair');
    const refusal = sendDenial(pair, known, rules);
    if (refusal !== undefined) denials.set(pair.key, refusal);
  }
  return denials;
}

/** The messages for which an earlier send may exist, with their channel keys. */
export function lookupKeys({ batches, channelKeys }: Group): KeyedMessage[] {
  return batches.flatMap((batch) =>
    batch.messages.flatMap((message) => {
      const channelKey = isPersistent(message) ? channelKeys.get(message.channel.key) : undefined;
      return channelKey === undefined ? [] : [{ channelKey, message }];
    }),
  );
}

/** Heads by channel key text. */
export function headsByChannel(group: Group, heads: ReadonlyMap<number, number>): Map<string, number> {
  const texts = new Map<string, number>();
  for (const [text, channelKey] of group.channelKeys) {
    const head = heads.get(channelKey);
    if (head !== undefined) texts.set(text, head);
  }
  return texts;
}

/** Creates the missing channels that a sender may send to: a refused message leaves no trace. */
async function createPermittedChannels(
  batches: readonly Batch[],
  keys: ReadonlyMap<string, number>,
  store: Store,
): Promise<Map<string, number>> {
  const missing = [...messagesOf(batches)].filter((each) => isPersistent(each) && !keys.has(each.channel.key));
  const pairs = pairsOf(missing);
  const denials = deniedPairs(pairs, await readPairFacts(store, pairs), store.rules);
  const wanted = new Map<string, Channel>();
  for (const message of missing) if (!denials.has(pairKeyOf(message))) wanted.set(message.channel.key, message.channel);
  return await store.channelKeys.findOrCreate([...wanted.values()], keys);
}
