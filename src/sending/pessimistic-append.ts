import {
  type AppendState,
  type Batch,
  type Earlier,
  type Outcome,
  type Plan,
  planAppend,
} from '../messages/append-plan.ts';
import { messageSequence } from '../messages/channel.ts';
import { type HeadChange, lockHeads, lockHeadsSkipLocked, setHeads } from '../messages/channel-heads.sql.ts';
import { isPersistent } from '../messages/message.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import { pairKeyOf } from '../messages/permission.ts';
import { insertFlags } from '../moderation/rules.sql.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import type { Tx } from '../postgres/schema.ts';
import { onShard, type Shard, type ShardLayout } from '../postgres/shards.ts';
import { all } from '../postgres/sql.ts';
import { inTransaction, setLockTimeout } from '../postgres/transaction.ts';
import { insertOutbox } from '../webhooks/outbox-router.sql.ts';
import type { SeqRange } from '../webhooks/webhook.ts';
import { type Appended, type AppendMode, type AppendWatch, fulfilled } from './append-types.ts';
import { deniedPairs, type Group, headsByChannel, lookupKeys, messagesOf, type Store } from './group-context.ts';
import { ChannelsHeld } from './held-channels.ts';
import { drawBlock, findEarlier, insertMessages } from './messages.sql.ts';

/**
 * A channel had no row because no sender was permitted, and now one is: the group
 * is loaded again.
 */
export class ChannelAppeared extends Error {}

/** One attempt to append a group under locks. */
export interface LockedAppendOptions {
  readonly mode: AppendMode;
  readonly acceptedAt: number;
  /** An earlier attempt lost its connection at COMMIT: rows found now may be this group's own. */
  readonly mayBeStored: boolean;
  /** Whether webhooks exist, which receive what is stored. */
  readonly announce: boolean;
  readonly lockTimeoutMs: number;
  readonly watch: AppendWatch | undefined;
}

/**
 * Locks the heads, reads, decides, writes, in one transaction of two round trips: BEGIN is sent
 * with the locks and reads, COMMIT with the writes. `missed`: an optimistic append of this group
 * would have failed.
 *
 * The transaction spans all shards of the group. Lock order: the heads, by shard and key, then the
 * rows of block numbers, by shard.
 */
export async function appendLocked(
  store: Store,
  group: Group,
  { mode, acceptedAt, mayBeStored, announce, lockTimeoutMs, watch }: LockedAppendOptions,
): Promise<{ batches: readonly Appended[]; missed: boolean; stored: readonly number[] }> {
  const { batches } = group;
  return await inTransaction(
    store.db,
    (tx) => lockAndRead(tx, store, group, mode === 'skip_locked' ? { lockTimeoutMs } : undefined, watch),
    (tx, { state, held }) => {
      const isFree = (batch: Batch) =>
        held.size === 0 || !batch.messages.some((message) => held.has(message.channel.key));
      const plan = planAppend(held.size === 0 ? batches : batches.filter(isFree), state);
      const outcomes = (
        mayBeStored ? ownRowsAccepted(plan.outcomes, state.earlier, acceptedAt) : plan.outcomes
      ).values();
      return {
        sent: plan.rows.length === 0 ? [] : write(tx, store.shards, group, plan, { acceptedAt, announce }),
        result: {
          batches: batches.map((batch) =>
            isFree(batch) ? fulfilled(outcomes.next().value ?? []) : channelsHeld(batch, held),
          ),
          stored: [...plan.heads.keys()].flatMap((text) => group.channelKeys.get(text) ?? []),
          missed: state.earlier.size > 0 || state.denials.size > 0,
        },
      };
    },
  );
}

/** What the transaction found under its locks. */
interface LockedState {
  readonly state: AppendState;
  /** The channels that another session has locked: their surrogate keys by channel key text. */
  readonly held: ReadonlyMap<string, number>;
}

async function lockAndRead(
  tx: Tx,
  { shards, rules }: Pick<Store, 'shards' | 'rules'>,
  group: Group,
  skipLocked: { readonly lockTimeoutMs: number } | undefined,
  watch: AppendWatch | undefined,
): Promise<LockedState> {
  const startedAt = performance.now();
  const lock = skipLocked === undefined ? lockHeads : lockHeadsSkipLocked;
  const keys = [...group.channelKeys.values()];
  // The facts come last, since they take two round trips with several shards: `all` throws the
  // first error, and what is sent after a failed statement only says that the transaction is
  // aborted.
  const [, heads, earlier, blocks, facts] = await all([
    skipLocked === undefined ? Promise.resolve() : setLockTimeout(tx, skipLocked.lockTimeoutMs),
    mapByShard(tx, shards, keys, lock).finally(() => watch?.locked(performance.now() - startedAt)),
    findEarlier(tx, shards, lookupKeys(group)),
    drawBlocks(tx, shards, keys),
    readPairFacts({ db: tx, shards, rules }, group.pairs),
  ]);
  const denials = deniedPairs(group.pairs, facts, rules);
  for (const message of messagesOf(group.batches))
    if (isPersistent(message) && !group.channelKeys.has(message.channel.key) && !denials.has(pairKeyOf(message)))
      throw new ChannelAppeared();
  const held = new Map([...group.channelKeys].filter(([, key]) => !heads.has(key)));
  const state = { heads: headsByChannel(group, heads), earlier, denials, ...blocksByChannel(group, shards, blocks) };
  return { state, held };
}

/** Draws a block of ids in each of these shards, or in the first of all; by shard. */
async function drawBlocks(tx: Tx, shards: ShardLayout, channelKeys: readonly number[]): Promise<Map<Shard, number>> {
  const found = shards.group(channelKeys, (key) => key).map(([shard]) => shard);
  const concerned = found.length === 0 ? shards.all.slice(0, 1) : found;
  const blocks = await all<number[]>(concerned.map((shard) => drawBlock(tx, shards, shard)));
  return new Map(concerned.map((shard, index) => [shard, blocks[index] as number]));
}

/** The blocks as the plan needs them: messages that are not stored take ids of the first. */
function blocksByChannel(
  { channelKeys }: Group,
  shards: ShardLayout,
  blocks: ReadonlyMap<Shard, number>,
): Pick<AppendState, 'block' | 'otherBlocks'> {
  const [block = 0] = blocks.values();
  if (blocks.size === 1) return { block };
  return {
    block,
    otherBlocks: new Map([...channelKeys].map(([text, key]) => [text, blocks.get(shards.of(key)) ?? 0])),
  };
}

/**
 * Sends the statements that advance heads and insert rows, moderation flags and the webhooks'
 * outbox, to each shard of the plan.
 */
function write(
  tx: Tx,
  shards: ShardLayout,
  group: Group,
  plan: Plan,
  options: Pick<LockedAppendOptions, 'acceptedAt' | 'announce'>,
): Promise<unknown>[] {
  const keyOf = (text: string) => {
    const channelKey = group.channelKeys.get(text);
    if (channelKey === undefined) throw new Error(`no key for channel ${text}`);
    return channelKey;
  };
  if (shards.count === 1) return writeToShard(tx, group, plan, options);
  const heads = new Map(shards.group([...plan.heads], ([text]) => keyOf(text)));
  return shards
    .group(plan.rows, ({ message }) => keyOf(message.channel.key))
    .flatMap(([shard, rows]) =>
      writeToShard(onShard(tx, shard), group, { rows, heads: new Map(heads.get(shard)) }, options),
    );
}

function writeToShard(
  tx: Tx,
  group: Group,
  plan: Pick<Plan, 'rows' | 'heads'>,
  { acceptedAt, announce }: Pick<LockedAppendOptions, 'acceptedAt' | 'announce'>,
): Promise<unknown>[] {
  const heads: HeadChange[] = [];
  for (const [text, value] of plan.heads) {
    const channelKey = group.channelKeys.get(text);
    if (channelKey !== undefined) heads.push({ channelKey, value });
  }
  const flags = plan.rows.flatMap(({ message, messageId, messageSeq }) => {
    const channelKey = group.channelKeys.get(message.channel.key);
    if (message.flaggedBy === undefined || channelKey === undefined) return [];
    return [{ messageId, messageSeq, channelKey, ruleIds: message.flaggedBy }];
  });
  return [
    setHeads(tx, heads, acceptedAt),
    insertMessages(tx, plan.rows, group.channelKeys, acceptedAt),
    ...(flags.length === 0 ? [] : [insertFlags(tx, flags, acceptedAt)]),
    ...(announce ? [insertOutbox(tx, storedRanges(group, plan))] : []),
  ];
}

/** The sequences that a plan stores, as one range per channel, without channels of commands. */
function storedRanges({ channelKeys }: Group, { rows }: Pick<Plan, 'rows'>): SeqRange[] {
  const ranges = new Map<string, SeqRange>();
  for (const { message, messageSeq } of rows) {
    const { key, sequence } = message.channel;
    const channelKey = channelKeys.get(key);
    if (channelKey === undefined || sequence !== messageSequence) continue;
    const firstSeq = ranges.get(key)?.firstSeq ?? messageSeq;
    ranges.set(key, { channelKey, firstSeq, lastSeq: messageSeq });
  }
  return [...ranges.values()];
}

/**
 * Reports the group's own rows as accepted, not as duplicates, after a commit whose answer was
 * lost. They are recognized by the group's acceptance time. A twin of another instance in that very
 * millisecond is reported as accepted too, under the same numbers.
 */
function ownRowsAccepted(
  batches: Plan['outcomes'],
  earlier: ReadonlyMap<string, Earlier>,
  acceptedAt: number,
): Plan['outcomes'] {
  const reported = new Set<string>();
  const own = (outcome: Outcome): Outcome => {
    const { key } = outcome.message;
    if (outcome.kind !== 'duplicate' || reported.has(key)) return outcome;
    if (earlier.get(key)?.acceptedAt !== acceptedAt) return outcome;
    reported.add(key);
    return { ...outcome, kind: 'accepted' };
  };
  return batches.map((batch) => batch.map(own));
}

function channelsHeld({ messages }: Batch, held: ReadonlyMap<string, number>): Appended {
  const channels = new Map<string, number>();
  for (const { channel } of messages) {
    const channelKey = held.get(channel.key);
    if (channelKey !== undefined) channels.set(channel.key, channelKey);
  }
  return { status: 'rejected', reason: new ChannelsHeld(channels) };
}
