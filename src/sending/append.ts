import { setTimeout as delay } from 'node:timers/promises';
import {
  type AppendState,
  type Batch,
  type Earlier,
  type Outcome,
  type Plan,
  planAppend,
} from '../messages/append-plan.ts';
import { messageSequence } from '../messages/channel.ts';
import {
  type HeadChange,
  HeadsMissing,
  lockHeads,
  lockHeadsSkipLocked,
  readHeads,
  setHeads,
} from '../messages/channel-keys.sql.ts';
import { isPersistent, type PreparedMessage } from '../messages/message.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import {
  type PermissionPrecondition,
  type PermissionRules,
  pairKeyOf,
  preconditionsFor,
} from '../messages/permission.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import { insertFlags } from '../moderation/rules.sql.ts';
import { classifyPgError, isLockTimeout, isRepeatedSend } from '../postgres/pg-errors.ts';
import { all, inTransaction, setLockTimeout } from '../postgres/pool.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { insertOutbox } from '../webhooks/outbox-router.sql.ts';
import type { Range } from '../webhooks/webhook.ts';
import {
  createPermittedChannels,
  deniedPairs,
  type Group,
  headsByChannel,
  loadGroup,
  lookupKeys,
  messagesOf,
  type Store,
} from './group-context.ts';
import { type GroupLayout, layOutGroup, outcomesOf } from './group-layout.ts';
import { ChannelsHeld } from './held-channels.ts';
import { appendNew, drawBlock, findEarlier, insertMessages } from './messages.sql.ts';

/** What became of a batch: an outcome a message, in order, or why it could not be stored now. */
export type Appended = PromiseSettledResult<readonly Outcome[]>;

/** Appends a group of batches in one transaction. Rejects when it failed as a whole. */
export type Append = (batches: readonly Batch[]) => Promise<readonly Appended[]>;

/** Tries of one group. Deadlocks cannot happen between senders (see lockHeads); this is for others in the same database, and restarts. */
const attempts = 6;
const firstPauseMs = 25;
/**
 * Attempts that find a channel removed after its key was looked up; the next attempt creates it again. One or two are
 * enough, since the sweeper leaves a new channel alone. The bound is for a channel whose head was lost.
 */
const removedChannelAttempts = 30;

/**
 * No try begins later than this after the first: a server that swallows what it is sent costs each try its whole time-out, and the lane waits. The
 * first such try takes the statement time-out of 10 s and 2 s, so that the next, on a connection of its own, is still made; callers wait for 30 s.
 */
const usualRetryForMs = 15_000;
/** As LOCK_TIMEOUT is unless set. */
const usualLockTimeoutMs = 5000;

/**
 * How a group meets the store.
 *  - `optimistic`: nobody repeats an earlier send, and everybody may send. One statement raises the heads and stores all; PostgreSQL's unique index and the
 *    statement's own assumption find the lie: then nothing was stored, and the group goes again, `pessimistic`.
 *  - `pessimistic`: lock, look, decide, write.
 *  - `skip_locked`: as careful, but without the channels that somebody else holds locked: their batches are told so, the others go through.
 */
type AppendMode = 'optimistic' | 'pessimistic' | 'skip_locked';

/** Groups that were trusted and should not have been, at most, before the next one is not. To have been wrong costs a group once more. */
const maxMissRate = 0.1;

/** Told of what an appender does. */
export interface AppendWatch {
  ended(end: { mode: AppendMode; ms: number; stored: boolean }): void;
  /** A group goes again: what was trusted is not so, a lock took too long, the store had trouble. */
  repeated(
    why:
      | 'duplicate_send'
      | 'sender_denied'
      | 'channel_created'
      | 'channel_removed'
      | 'lock_timeout'
      | 'connection_lost'
      | 'conflict',
  ): void;
  /** From BEGIN until the heads were locked. */
  locked(ms: number): void;
}

/** How an appender works. */
export interface AppendOptions {
  /** Milliseconds to wait for locks other than those of heads, such as a table's, where held heads are skipped. */
  readonly lockTimeoutMs?: number;
  /** No try of a group begins later than this after its first. */
  readonly retryForMs?: number;
  /** Whether any message is for a channel that is known to be held locked: its group skips locked heads at once. */
  readonly holdsAny?: (messages: Iterable<PreparedMessage>) => boolean;
  readonly now?: () => number;
  readonly watch?: AppendWatch;
}

/**
 * The appender of one store. It is trusting as long as few groups meet a repeated send or a sender that may not: not to look saves three flights and an
 * index probe a message (37 µs instead of 42 in a table of 20 million, on the prototype), so that it pays below one wrong group in ten.
 */
export function createAppend(
  store: Store,
  {
    retryForMs = usualRetryForMs,
    lockTimeoutMs = usualLockTimeoutMs,
    holdsAny,
    now = Date.now,
    watch,
  }: AppendOptions = {},
): Append {
  const { db, rules } = store;
  /** The share of groups that had to be looked at, over about the last 16. */
  let missRate = 0;
  const note = (missed: boolean) => {
    missRate += ((missed ? 1 : 0) - missRate) / 16;
  };

  return async (batches) => {
    const acceptedAt = now();
    const start = performance.now();
    const ended = (stored: boolean) => watch?.ended({ mode: mode, ms: performance.now() - start, stored });
    const isLate = () => performance.now() - start > retryForMs;
    const skipsLocked = holdsAny?.(messagesOf(batches)) === true;
    const optimistic = missRate < maxMissRate && !skipsLocked ? tryOptimistic(batches, rules) : undefined;
    let mode: AppendMode = skipsLocked ? 'skip_locked' : optimistic === undefined ? 'pessimistic' : 'optimistic';
    let lost = false;
    let removals = 0;
    for (let attempt = 1; ; ) {
      try {
        if (mode === 'optimistic' && optimistic !== undefined) {
          const appended = await appendOptimistic(store, batches, optimistic, acceptedAt);
          note(appended === undefined);
          if (appended !== undefined) {
            ended(true);
            return appended;
          }
          watch?.repeated('sender_denied');
          mode = 'pessimistic';
          continue;
        }
        const group = await loadGroup(batches, store);
        const announce = store.announces?.() === true;
        const aim = { mode: mode, acceptedAt, lost, announce, lockTimeoutMs, watch };
        const appended = await appendLocked(db, batches, group, rules, aim);
        note(appended.missed);
        ended(true);
        store.onStored?.(appended.stored);
        return appended.batches;
      } catch (error) {
        if (mode === 'optimistic' && isRepeatedSend(error)) {
          note(true);
          watch?.repeated('duplicate_send');
          mode = 'pessimistic';
          continue;
        }
        if (error instanceof HeadsMissing || error instanceof ChannelAppeared) {
          if (error instanceof HeadsMissing) store.channelKeys.forget(error.channelKeys);
          if (++removals === removedChannelAttempts || isLate()) {
            ended(false);
            throw storeBusy(error);
          }
          watch?.repeated(error instanceof HeadsMissing ? 'channel_removed' : 'channel_created');
          continue;
        }
        if (isLockTimeout(error) && mode !== 'skip_locked') {
          watch?.repeated('lock_timeout');
          mode = 'skip_locked';
          continue;
        }
        const trouble = classifyPgError(error);
        if (trouble === 'defect' || trouble === 'busy' || attempt === attempts || isLate()) {
          ended(false);
          throw trouble === 'defect' ? error : storeBusy(error);
        }
        watch?.repeated(trouble === 'lost' ? 'connection_lost' : 'conflict');
        // A commit whose answer was lost may have been made: what it stored is to be found.
        lost ||= trouble === 'lost';
        if (mode === 'optimistic') mode = 'pessimistic';
        // Full jitter: those that collided once must not come back together.
        await delay(Math.random() * firstPauseMs * 2 ** attempt);
        attempt++;
      }
    }
  };
}

/** The same decision without its effects: nothing is stored, no number is used. */
export function createDryRun({ db, channelKeys, rules }: Store): Append {
  return (batches) =>
    orBusy(async () => {
      const group = await loadGroup(batches, { db, channelKeys, rules }, 'only those that exist');
      const heads = await readHeads(db, [...group.channelKeys.values()]);
      const earlier = await findEarlier(db, lookupKeys(group));
      const denials = deniedPairs(group.pairs, await readPairFacts(db, group.pairs, rules), rules);
      const facts = { heads: headsByChannel(group, heads), earlier, denials, block: 0 };
      return planAppend(batches, facts).outcomes.map(fulfilled);
    });
}

/** A group of which nothing has to be looked up, if it is what it seems. */
interface OptimisticGroup {
  readonly layout: GroupLayout;
  readonly precondition: PermissionPrecondition;
}

function tryOptimistic(batches: readonly Batch[], rules: PermissionRules): OptimisticGroup | undefined {
  const layout = layOutGroup(batches);
  const precondition = layout && preconditionsFor(messagesOf(batches), rules);
  return layout === undefined || precondition === undefined ? undefined : { layout, precondition: precondition };
}

/** All of it as laid out; undefined when the assumption does not hold. */
async function appendOptimistic(
  store: Store,
  batches: readonly Batch[],
  { layout, precondition: assumption }: OptimisticGroup,
  acceptedAt: number,
): Promise<readonly Appended[] | undefined> {
  const { db, channelKeys } = store;
  const wanted = layout.channels.map((each) => each.channel);
  const keys = await channelKeys.find([...wanted, ...assumption.openChannels]);
  if (wanted.some((channel) => !keys.has(channel.key))) {
    for (const [text, key] of await createPermittedChannels(batches, keys, store)) keys.set(text, key);
    if (wanted.some((channel) => !keys.has(channel.key))) return undefined;
  }
  const numbers = await appendNew(db, layout, assumption, keys, acceptedAt, store.announces?.() === true);
  if (numbers === undefined) return undefined;
  store.onStored?.(wanted.flatMap((channel) => keys.get(channel.key) ?? []));
  return outcomesOf(batches, layout, numbers).map(fulfilled);
}

/** A channel had no row because nobody might send to it, and now somebody may: look again. */
class ChannelAppeared extends Error {}

/** One try of a group. */
interface Attempt {
  readonly mode: AppendMode;
  readonly acceptedAt: number;
  readonly lost: boolean;
  /** Webhooks wait for what is stored. */
  readonly announce: boolean;
  readonly lockTimeoutMs: number;
  readonly watch: AppendWatch | undefined;
}

/** Lock, look, decide, write. */
async function appendLocked(
  db: Db,
  batches: readonly Batch[],
  group: Group,
  rules: PermissionRules,
  { mode: manner, acceptedAt, lost, announce, lockTimeoutMs, watch }: Attempt,
): Promise<{ batches: readonly Appended[]; missed: boolean; stored: readonly number[] }> {
  return await inTransaction(
    db,
    (tx) => lockAndRead(tx, group, rules, manner === 'skip_locked' ? { lockTimeoutMs } : undefined, watch),
    (tx, locked) => {
      const isFree = (batch: Batch) =>
        locked.held.size === 0 || !batch.messages.some((message) => locked.held.has(message.channel.key));
      const free = locked.held.size === 0 ? batches : batches.filter(isFree);
      const plan = planAppend(free, locked.facts);
      const told = lost ? ownFirst(plan.outcomes, locked.facts.earlier, acceptedAt) : plan.outcomes;
      const outcomes = told.values();
      return {
        sent: plan.rows.length === 0 ? [] : write(tx, group, plan, acceptedAt, announce),
        result: {
          batches: batches.map((batch) =>
            isFree(batch) ? fulfilled(outcomes.next().value ?? []) : channelsHeld(batch, locked.held),
          ),
          stored: [...plan.heads.keys()].flatMap((text) => group.channelKeys.get(text) ?? []),
          missed: locked.facts.earlier.size > 0 || locked.facts.denials.size > 0,
        },
      };
    },
  );
}

/** What the transaction found. */
interface LockedState {
  readonly facts: AppendState;
  /** The channels that another session holds locked: their surrogate keys by channel key text. */
  readonly held: ReadonlyMap<string, number>;
}

async function lockAndRead(
  tx: Tx,
  group: Group,
  rules: PermissionRules,
  skipLocked: { readonly lockTimeoutMs: number } | undefined,
  watch: AppendWatch | undefined,
): Promise<LockedState> {
  const start = performance.now();
  const keys = [...group.channelKeys.values()];
  const [, heads, earlier, facts, block] = await all([
    skipLocked === undefined ? Promise.resolve() : setLockTimeout(tx, skipLocked.lockTimeoutMs),
    (skipLocked === undefined ? lockHeads(tx, keys) : lockHeadsSkipLocked(tx, keys)).finally(() =>
      watch?.locked(performance.now() - start),
    ),
    findEarlier(tx, lookupKeys(group)),
    readPairFacts(tx, group.pairs, rules),
    drawBlock(tx),
  ]);
  const denials = deniedPairs(group.pairs, facts, rules);
  for (const message of messagesOf(group.batches))
    if (isPersistent(message) && !group.channelKeys.has(message.channel.key) && !denials.has(pairKeyOf(message)))
      throw new ChannelAppeared();
  const held = new Map([...group.channelKeys].filter(([, key]) => !heads.has(key)));
  return { facts: { heads: headsByChannel(group, heads), earlier, denials: denials, block }, held };
}

/** Sends the heads that grow, the rows, what was flagged of them, and what webhooks are to hear of. */
function write(tx: Tx, group: Group, plan: Plan, acceptedAt: number, announce: boolean): Promise<unknown>[] {
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

/** What a plan stores, as a range a channel; channels of commands are not in it. */
function storedRanges({ channelKeys }: Group, { rows }: Plan): Range[] {
  const ranges = new Map<string, Range>();
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
 * When a commit's answer was lost, the next try finds this very group's rows: to the caller the first of them is not a duplicate. They were accepted at the
 * group's own millisecond. (A twin of another instance's at that very millisecond would be told as accepted too: under the same numbers.)
 */
function ownFirst(
  batches: Plan['outcomes'],
  earlier: ReadonlyMap<string, Earlier>,
  acceptedAt: number,
): Plan['outcomes'] {
  const told = new Set<string>();
  const own = (outcome: Outcome): Outcome => {
    const { key } = outcome.message;
    if (outcome.kind !== 'duplicate' || told.has(key)) return outcome;
    if (earlier.get(key)?.acceptedAt !== acceptedAt) return outcome;
    told.add(key);
    return { ...outcome, kind: 'accepted' };
  };
  return batches.map((batch) => batch.map(own));
}

const fulfilled = (value: readonly Outcome[]): Appended => ({ status: 'fulfilled', value });

function channelsHeld({ messages }: Batch, held: ReadonlyMap<string, number>): Appended {
  const channels = new Map<string, number>();
  for (const { channel } of messages) {
    const channelKey = held.get(channel.key);
    if (channelKey !== undefined) channels.set(channel.key, channelKey);
  }
  return { status: 'rejected', reason: new ChannelsHeld(channels) };
}
