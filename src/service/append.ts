import { setTimeout as delay } from 'node:timers/promises';
import type { Channel } from '../domain/channel.ts';
import { Failure } from '../domain/failure.ts';
import { type Layout, layOut, numbered } from '../domain/layout.ts';
import { isPersistent } from '../domain/message.ts';
import { type Batch, decide, type Earlier, type Facts, type Outcome, type Plan } from '../domain/plan.ts';
import {
  type ChannelKeys,
  type HeadChange,
  lockFreeHeads,
  lockHeads,
  readHeads,
  setHeads,
} from '../storage/channel.ts';
import { all, type Db, inTransaction, type Tx } from '../storage/database.ts';
import { isLockTimeout, isRepeatedSend, troubleOf } from '../storage/failure.ts';
import { appendNew, drawBlock, findEarlier, insertMessages, type Keyed } from '../storage/message.ts';

/** What a send needs of the store. */
export interface Store {
  readonly db: Db;
  readonly channelKeys: ChannelKeys;
}

/** What became of a batch: an outcome a message, in order, or why it could not be stored now. */
export type Appended = PromiseSettledResult<readonly Outcome[]>;

/** Appends a group of batches in one transaction. Rejects when it failed as a whole. */
export type Append = (batches: readonly Batch[]) => Promise<readonly Appended[]>;

/** Tries of one group. Deadlocks cannot happen between senders (see lockHeads); this is for others in the same database, and restarts. */
const attempts = 6;
const firstPauseMs = 25;
/** What STORE_BUSY advises: long enough for a lock time-out's cause to pass, short enough to hide a restart. */
const retryAfterMs = 1000;

/**
 * How a group meets the store.
 *  - `trusting`: nobody repeats an earlier send. One statement raises the heads and stores all, and PostgreSQL's unique index finds the lie: then nothing
 *    was stored, and the group goes again, `careful`.
 *  - `careful`: lock, look, decide, write.
 *  - `passing`: as careful, but without the channels that somebody else holds locked: their batches are told so, the others go through.
 */
type Manner = 'trusting' | 'careful' | 'passing';

/**
 * The appender of one store. It is trusting as long as few groups meet a repeated send: not to look saves an index probe a message (37 µs instead
 * of 42 in a table of 20 million, on the prototype), to have been wrong costs the group once more, so that it pays below one group in ten.
 */
export function createAppend({ db, channelKeys }: Store, now: () => number = Date.now): Append {
  /** The share of groups with a repeated send, over about the last 16. */
  let repeats = 0;
  const note = (repeated: boolean) => {
    repeats += ((repeated ? 1 : 0) - repeats) / 16;
  };
  const rate = 0.1;

  return async (batches) => {
    const acceptedAt = now();
    const layout = repeats < rate ? layOut(batches) : undefined;
    let manner: Manner = layout === undefined ? 'careful' : 'trusting';
    let lost = false;
    for (let attempt = 1; ; attempt++) {
      try {
        if (manner === 'trusting' && layout !== undefined) {
          const appended = await appendLaidOut(db, channelKeys, batches, layout, acceptedAt);
          note(false);
          return appended;
        }
        const group = await keyed(batches, (channels) => channelKeys.findOrCreate(channels));
        const appended = await appendDecided(db, batches, group, manner, { acceptedAt, lost });
        note(appended.repeated);
        return appended.batches;
      } catch (error) {
        if (manner === 'trusting' && isRepeatedSend(error)) {
          note(true);
          manner = 'careful';
          continue;
        }
        if (isLockTimeout(error) && manner !== 'passing') {
          manner = 'passing';
          continue;
        }
        const trouble = troubleOf(error);
        if (trouble === 'defect') throw error;
        if (trouble === 'busy' || attempt === attempts) throw storeBusy(error);
        // A commit whose answer was lost may have been made: what it stored is to be found.
        lost ||= trouble === 'lost';
        if (manner === 'trusting') manner = 'careful';
        // Full jitter: those that collided once must not come back together.
        await delay(Math.random() * firstPauseMs * 2 ** attempt);
      }
    }
  };
}

/** The same decision without its effects: nothing is stored, no number is used. */
export function createRehearsal({ db, channelKeys }: Store): Append {
  return async (batches) => {
    try {
      const group = await keyed(batches, (channels) => channelKeys.find(channels));
      const heads = await readHeads(db, [...group.channelKeys.values()]);
      const earlier = await findEarlier(db, keyedMessages(group));
      return decide(batches, { heads: byText(group, heads), earlier, block: 0 }).outcomes.map(fulfilled);
    } catch (error) {
      if (troubleOf(error) === 'defect') throw error;
      throw storeBusy(error);
    }
  };
}

/** All of it as laid out. */
async function appendLaidOut(
  db: Db,
  channelKeys: ChannelKeys,
  batches: readonly Batch[],
  layout: Layout,
  acceptedAt: number,
): Promise<readonly Appended[]> {
  const keys = await channelKeys.findOrCreate(layout.channels.map((each) => each.channel));
  return numbered(batches, layout, await appendNew(db, layout, keys, acceptedAt)).map(fulfilled);
}

/** Lock, look, decide, write. */
async function appendDecided(
  db: Db,
  batches: readonly Batch[],
  group: Group,
  manner: Manner,
  { acceptedAt, lost }: { acceptedAt: number; lost: boolean },
): Promise<{ batches: readonly Appended[]; repeated: boolean }> {
  return await inTransaction(
    db,
    (tx) => lockAndLook(tx, group, manner === 'passing'),
    (tx, seen) => {
      const isFree = (batch: Batch) =>
        seen.held.size === 0 || !batch.messages.some((message) => seen.held.has(message.channel.key));
      const free = seen.held.size === 0 ? batches : batches.filter(isFree);
      const plan = decide(free, seen.facts);
      const told = lost ? ownFirst(plan.outcomes, seen.facts.earlier, acceptedAt) : plan.outcomes;
      const outcomes = told.values();
      return {
        sent: plan.rows.length === 0 ? [] : write(tx, group, plan, acceptedAt),
        result: {
          batches: batches.map((batch) => (isFree(batch) ? fulfilled(outcomes.next().value ?? []) : held)),
          repeated: seen.facts.earlier.size > 0,
        },
      };
    },
  );
}

/** What the transaction found. */
interface Seen {
  readonly facts: Facts;
  /** The texts of the channels that somebody else holds locked. */
  readonly held: ReadonlySet<string>;
}

async function lockAndLook(tx: Tx, group: Group, pass: boolean): Promise<Seen> {
  const keys = [...group.channelKeys.values()];
  const [heads, earlier, block] = await all([
    pass ? lockFreeHeads(tx, keys) : lockHeads(tx, keys),
    findEarlier(tx, keyedMessages(group)),
    drawBlock(tx),
  ]);
  const held = new Set([...group.channelKeys].filter(([, key]) => !heads.has(key)).map(([text]) => text));
  return { facts: { heads: byText(group, heads), earlier, block }, held };
}

/** Sends the heads that grow, and the rows. */
function write(tx: Tx, group: Group, plan: Plan, acceptedAt: number): Promise<unknown>[] {
  const heads: HeadChange[] = [];
  for (const [text, value] of plan.heads) {
    const channelKey = group.channelKeys.get(text);
    if (channelKey !== undefined) heads.push({ channelKey, value });
  }
  return [setHeads(tx, heads), insertMessages(tx, plan.rows, group.channelKeys, acceptedAt)];
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

interface Group {
  /** By channel key text: the surrogate keys of all channels that get a numbered message. */
  readonly channelKeys: ReadonlyMap<string, number>;
  readonly batches: readonly Batch[];
}

async function keyed(
  batches: readonly Batch[],
  find: (channels: readonly Channel[]) => Promise<Map<string, number>>,
): Promise<Group> {
  const channels = new Map<string, Channel>();
  for (const batch of batches)
    for (const message of batch.messages) if (isPersistent(message)) channels.set(message.channel.key, message.channel);
  return { channelKeys: await find([...channels.values()]), batches };
}

/** The messages that an earlier send may be found of. */
function keyedMessages({ batches, channelKeys }: Group): Keyed[] {
  return batches.flatMap((batch) =>
    batch.messages.flatMap((message) => {
      const channelKey = isPersistent(message) ? channelKeys.get(message.channel.key) : undefined;
      return channelKey === undefined ? [] : [{ channelKey, message }];
    }),
  );
}

function byText(group: Group, heads: ReadonlyMap<number, number>): Map<string, number> {
  const texts = new Map<string, number>();
  for (const [text, channelKey] of group.channelKeys) {
    const head = heads.get(channelKey);
    if (head !== undefined) texts.set(text, head);
  }
  return texts;
}

const fulfilled = (value: readonly Outcome[]): Appended => ({ status: 'fulfilled', value });

/** The store cannot do it now. Nothing was stored, or the same keys will find it. */
export function storeBusy(cause: unknown): Failure {
  return new Failure(
    {
      reason: 'STORE_BUSY',
      message: 'the store cannot take this now; send it again with the same keys (client_msg_no or request_id)',
      metadata: {},
      retryAfterMs,
    },
    { cause },
  );
}

const held: Appended = {
  status: 'rejected',
  reason: storeBusy(new Error('somebody else holds a channel of the batch locked for longer than the lock time-out')),
};
