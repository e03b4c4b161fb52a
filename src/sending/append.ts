import { setTimeout as delay } from 'node:timers/promises';
import { type Batch, decide, type Earlier, type Facts, type Outcome, type Plan } from '../messages/append-plan.ts';
import { messageSequence } from '../messages/channel.ts';
import {
  type HeadChange,
  HeadsMissing,
  lockFreeHeads,
  lockHeads,
  readHeads,
  setHeads,
} from '../messages/channel-keys.sql.ts';
import { isPersistent, type Prepared } from '../messages/message.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import { type Assumption, assume, type PermissionRules, pairKeyOf } from '../messages/permission.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import { insertFlags } from '../moderation/rules.sql.ts';
import { isLockTimeout, isRepeatedSend, troubleOf } from '../postgres/pg-errors.ts';
import { all, inTransaction, setLockTimeout } from '../postgres/pool.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { insertOutbox } from '../webhooks/outbox-router.sql.ts';
import type { Range } from '../webhooks/webhook.ts';
import {
  byText,
  denied,
  type Group,
  keyed,
  keyedMessages,
  makePermitted,
  messagesOf,
  type Store,
} from './group-context.ts';
import { type Layout, layOut, numbered } from './group-layout.ts';
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
type Manner = 'optimistic' | 'pessimistic' | 'skip_locked';

/** Groups that were trusted and should not have been, at most, before the next one is not. To have been wrong costs a group once more. */
const doubtfulShare = 0.1;

/** Told of what an appender does. */
export interface AppendWatch {
  ended(end: { mode: Manner; ms: number; stored: boolean }): void;
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
  readonly holdsAny?: (messages: Iterable<Prepared>) => boolean;
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
  let doubts = 0;
  const note = (doubtful: boolean) => {
    doubts += ((doubtful ? 1 : 0) - doubts) / 16;
  };

  return async (batches) => {
    const acceptedAt = now();
    const start = performance.now();
    const ended = (stored: boolean) => watch?.ended({ mode: manner, ms: performance.now() - start, stored });
    const isLate = () => performance.now() - start > retryForMs;
    const skipsLocked = holdsAny?.(messagesOf(batches)) === true;
    const trusted = doubts < doubtfulShare && !skipsLocked ? trust(batches, rules) : undefined;
    let manner: Manner = skipsLocked ? 'skip_locked' : trusted === undefined ? 'pessimistic' : 'optimistic';
    let lost = false;
    let removals = 0;
    for (let attempt = 1; ; ) {
      try {
        if (manner === 'optimistic' && trusted !== undefined) {
          const appended = await appendTrusted(store, batches, trusted, acceptedAt);
          note(appended === undefined);
          if (appended !== undefined) {
            ended(true);
            return appended;
          }
          watch?.repeated('sender_denied');
          manner = 'pessimistic';
          continue;
        }
        const group = await keyed(batches, store);
        const announce = store.announces?.() === true;
        const aim = { manner, acceptedAt, lost, announce, lockTimeoutMs, watch };
        const appended = await appendDecided(db, batches, group, rules, aim);
        note(appended.doubtful);
        ended(true);
        store.onStored?.(appended.stored);
        return appended.batches;
      } catch (error) {
        if (manner === 'optimistic' && isRepeatedSend(error)) {
          note(true);
          watch?.repeated('duplicate_send');
          manner = 'pessimistic';
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
        if (isLockTimeout(error) && manner !== 'skip_locked') {
          watch?.repeated('lock_timeout');
          manner = 'skip_locked';
          continue;
        }
        const trouble = troubleOf(error);
        if (trouble === 'defect' || trouble === 'busy' || attempt === attempts || isLate()) {
          ended(false);
          throw trouble === 'defect' ? error : storeBusy(error);
        }
        watch?.repeated(trouble === 'lost' ? 'connection_lost' : 'conflict');
        // A commit whose answer was lost may have been made: what it stored is to be found.
        lost ||= trouble === 'lost';
        if (manner === 'optimistic') manner = 'pessimistic';
        // Full jitter: those that collided once must not come back together.
        await delay(Math.random() * firstPauseMs * 2 ** attempt);
        attempt++;
      }
    }
  };
}

/** The same decision without its effects: nothing is stored, no number is used. */
export function createRehearsal({ db, channelKeys, rules }: Store): Append {
  return (batches) =>
    orBusy(async () => {
      const group = await keyed(batches, { db, channelKeys, rules }, 'only those that exist');
      const heads = await readHeads(db, [...group.channelKeys.values()]);
      const earlier = await findEarlier(db, keyedMessages(group));
      const denials = denied(group.pairs, await readPairFacts(db, group.pairs, rules), rules);
      const facts = { heads: byText(group, heads), earlier, forbidden: denials, block: 0 };
      return decide(batches, facts).outcomes.map(fulfilled);
    });
}

/** A group of which nothing has to be looked up, if it is what it seems. */
interface Trusted {
  readonly layout: Layout;
  readonly assumption: Assumption;
}

function trust(batches: readonly Batch[], rules: PermissionRules): Trusted | undefined {
  const layout = layOut(batches);
  const assumption = layout && assume(messagesOf(batches), rules);
  return layout === undefined || assumption === undefined ? undefined : { layout, assumption };
}

/** All of it as laid out; undefined when the assumption does not hold. */
async function appendTrusted(
  store: Store,
  batches: readonly Batch[],
  { layout, assumption }: Trusted,
  acceptedAt: number,
): Promise<readonly Appended[] | undefined> {
  const { db, channelKeys } = store;
  const wanted = layout.channels.map((each) => each.channel);
  const keys = await channelKeys.find([...wanted, ...assumption.openChannels]);
  if (wanted.some((channel) => !keys.has(channel.key))) {
    for (const [text, key] of await makePermitted(batches, keys, store)) keys.set(text, key);
    if (wanted.some((channel) => !keys.has(channel.key))) return undefined;
  }
  const numbers = await appendNew(db, layout, assumption, keys, acceptedAt, store.announces?.() === true);
  if (numbers === undefined) return undefined;
  store.onStored?.(wanted.flatMap((channel) => keys.get(channel.key) ?? []));
  return numbered(batches, layout, numbers).map(fulfilled);
}

/** A channel had no row because nobody might send to it, and now somebody may: look again. */
class ChannelAppeared extends Error {}

/** One try of a group. */
interface Try {
  readonly manner: Manner;
  readonly acceptedAt: number;
  readonly lost: boolean;
  /** Webhooks wait for what is stored. */
  readonly announce: boolean;
  readonly lockTimeoutMs: number;
  readonly watch: AppendWatch | undefined;
}

/** Lock, look, decide, write. */
async function appendDecided(
  db: Db,
  batches: readonly Batch[],
  group: Group,
  rules: PermissionRules,
  { manner, acceptedAt, lost, announce, lockTimeoutMs, watch }: Try,
): Promise<{ batches: readonly Appended[]; doubtful: boolean; stored: readonly number[] }> {
  return await inTransaction(
    db,
    (tx) => lockAndLook(tx, group, rules, manner === 'skip_locked' ? { lockTimeoutMs } : undefined, watch),
    (tx, seen) => {
      const isFree = (batch: Batch) =>
        seen.held.size === 0 || !batch.messages.some((message) => seen.held.has(message.channel.key));
      const free = seen.held.size === 0 ? batches : batches.filter(isFree);
      const plan = decide(free, seen.facts);
      const told = lost ? ownFirst(plan.outcomes, seen.facts.earlier, acceptedAt) : plan.outcomes;
      const outcomes = told.values();
      return {
        sent: plan.rows.length === 0 ? [] : write(tx, group, plan, acceptedAt, announce),
        result: {
          batches: batches.map((batch) =>
            isFree(batch) ? fulfilled(outcomes.next().value ?? []) : channelsHeld(batch, seen.held),
          ),
          stored: [...plan.heads.keys()].flatMap((text) => group.channelKeys.get(text) ?? []),
          doubtful: seen.facts.earlier.size > 0 || seen.facts.forbidden.size > 0,
        },
      };
    },
  );
}

/** What the transaction found. */
interface Seen {
  readonly facts: Facts;
  /** The channels that another session holds locked: their surrogate keys by channel key text. */
  readonly held: ReadonlyMap<string, number>;
}

async function lockAndLook(
  tx: Tx,
  group: Group,
  rules: PermissionRules,
  skipLocked: { readonly lockTimeoutMs: number } | undefined,
  watch: AppendWatch | undefined,
): Promise<Seen> {
  const start = performance.now();
  const keys = [...group.channelKeys.values()];
  const [, heads, earlier, facts, block] = await all([
    skipLocked === undefined ? Promise.resolve() : setLockTimeout(tx, skipLocked.lockTimeoutMs),
    (skipLocked === undefined ? lockHeads(tx, keys) : lockFreeHeads(tx, keys)).finally(() =>
      watch?.locked(performance.now() - start),
    ),
    findEarlier(tx, keyedMessages(group)),
    readPairFacts(tx, group.pairs, rules),
    drawBlock(tx),
  ]);
  const denials = denied(group.pairs, facts, rules);
  for (const message of messagesOf(group.batches))
    if (isPersistent(message) && !group.channelKeys.has(message.channel.key) && !denials.has(pairKeyOf(message)))
      throw new ChannelAppeared();
  const held = new Map([...group.channelKeys].filter(([, key]) => !heads.has(key)));
  return { facts: { heads: byText(group, heads), earlier, forbidden: denials, block }, held };
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
