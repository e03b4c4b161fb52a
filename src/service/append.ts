import { setTimeout as delay } from 'node:timers/promises';
import type { Channel } from '../domain/channel.ts';
import { Failure } from '../domain/failure.ts';
import { isPersistent } from '../domain/message.ts';
import { type Batch, decide, type Facts, type Outcome, type Plan } from '../domain/plan.ts';
import { limits } from '../limits.ts';
import {
  type ChannelKeys,
  followTheList,
  type HeadChange,
  lockFreeHeads,
  lockHeads,
  raiseHeads,
  readHeads,
  setHeads,
} from '../storage/channel.ts';
import { all, type Db, inTransaction, type Tx } from '../storage/database.ts';
import { isLockTimeout, isRepeatedSend, troubleOf } from '../storage/failure.ts';
import { drawBlock, findEarlier, insertMessages, type Keyed } from '../storage/message.ts';

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
 *  - `trusting`: nobody repeats an earlier send. Heads are raised and locked in one statement, nothing is looked up, and PostgreSQL's unique index
 *    finds the lie: then nothing was stored, and the group goes again, `careful`.
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
    const ownBlocks = new Set<number>();
    let manner: Manner = repeats < rate ? 'trusting' : 'careful';
    for (let attempt = 1; ; attempt++) {
      try {
        const group = await keyed(batches, (channels) => channelKeys.findOrCreate(channels));
        const appended = await appendIn(db, batches, group, manner, ownBlocks, now());
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
      const heads = await readHeads(db, [...group.counts.keys()]);
      const earlier = await findEarlier(db, keyedMessages(group));
      return decide(batches, { heads: byText(group, heads), earlier, block: 0 }).outcomes.map(fulfilled);
    } catch (error) {
      if (troubleOf(error) === 'defect') throw error;
      throw storeBusy(error);
    }
  };
}

/** Lock, look, decide, write. */
async function appendIn(
  db: Db,
  batches: readonly Batch[],
  group: Group,
  manner: Manner,
  ownBlocks: Set<number>,
  acceptedAt: number,
): Promise<{ batches: readonly Appended[]; repeated: boolean }> {
  return await inTransaction(
    db,
    (tx) => (manner === 'trusting' ? raise(tx, group) : lockAndLook(tx, group, manner === 'passing')),
    (tx, seen) => {
      const isFree = (batch: Batch) =>
        seen.held.size === 0 || !batch.messages.some((message) => seen.held.has(message.channel.key));
      const free = seen.held.size === 0 ? batches : batches.filter(isFree);
      const plan = decide(free, seen.facts);
      const outcomes = ownFirst(plan.outcomes, ownBlocks).values();
      ownBlocks.add(seen.facts.block);
      return {
        sent: plan.rows.length === 0 ? [] : write(tx, group, plan, seen, acceptedAt),
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
  /** The heads as they stand in the transaction, by channel key: raised already, or as they were. */
  readonly heads: ReadonlyMap<number, number>;
  /** The texts of the channels that somebody else holds locked. */
  readonly held: ReadonlySet<string>;
}

async function raise(tx: Tx, group: Group): Promise<Seen> {
  const counts = [...group.counts].map(([channelKey, value]) => ({ channelKey, value }));
  const [, { heads, block }] = await all([followTheList(tx), raiseHeads(tx, counts)]);
  const before = new Map([...heads].map(([key, head]) => [key, head - (group.counts.get(key) ?? 0)]));
  return { facts: { heads: byText(group, before), earlier: new Map(), block }, heads, held: new Set() };
}

async function lockAndLook(tx: Tx, group: Group, pass: boolean): Promise<Seen> {
  const keys = [...group.counts.keys()];
  const [heads, earlier, block] = await all([
    pass ? lockFreeHeads(tx, keys) : lockHeads(tx, keys),
    findEarlier(tx, keyedMessages(group)),
    drawBlock(tx),
  ]);
  const held = new Set([...group.channelKeys].filter(([, key]) => !heads.has(key)).map(([text]) => text));
  return { facts: { heads: byText(group, heads), earlier, block }, heads, held };
}

/** Sends the rows, and the heads that do not stand where the plan wants them. */
function write(tx: Tx, group: Group, plan: Plan, seen: Seen, acceptedAt: number): Promise<unknown>[] {
  const wrong: HeadChange[] = [];
  for (const [text, channelKey] of group.channelKeys) {
    const stands = seen.heads.get(channelKey);
    const value = plan.heads.get(text) ?? seen.facts.heads.get(text);
    if (stands !== undefined && value !== undefined && value !== stands) wrong.push({ channelKey, value });
  }
  return [
    ...(wrong.length > 0 ? [setHeads(tx, wrong)] : []),
    insertMessages(tx, plan.rows, group.channelKeys, acceptedAt),
  ];
}

/**
 * When a commit's answer was lost, the next try finds this very group's rows: to the caller the first of them is not a duplicate. Their ids come from a
 * block that the group drew.
 */
function ownFirst(batches: Plan['outcomes'], ownBlocks: ReadonlySet<number>): Plan['outcomes'] {
  if (ownBlocks.size === 0) return batches;
  const told = new Set<number>();
  const own = (outcome: Outcome): Outcome => {
    if (outcome.kind !== 'duplicate' || told.has(outcome.messageId)) return outcome;
    if (!ownBlocks.has(Math.floor(outcome.messageId / limits.idsPerBlock))) return outcome;
    told.add(outcome.messageId);
    return { ...outcome, kind: 'accepted' };
  };
  return batches.map((batch) => batch.map(own));
}

interface Group {
  /** By channel key text: the surrogate keys of all channels that get a numbered message. */
  readonly channelKeys: ReadonlyMap<string, number>;
  /** By surrogate key: how many numbered messages the channel gets when nobody repeats one. */
  readonly counts: ReadonlyMap<number, number>;
  readonly batches: readonly Batch[];
}

async function keyed(
  batches: readonly Batch[],
  find: (channels: readonly Channel[]) => Promise<Map<string, number>>,
): Promise<Group> {
  const channels = new Map<string, Channel>();
  for (const batch of batches)
    for (const message of batch.messages) if (isPersistent(message)) channels.set(message.channel.key, message.channel);
  const channelKeys = await find([...channels.values()]);
  const counts = new Map<number, number>();
  for (const batch of batches) {
    for (const message of batch.messages) {
      const channelKey = isPersistent(message) ? channelKeys.get(message.channel.key) : undefined;
      if (channelKey !== undefined) counts.set(channelKey, (counts.get(channelKey) ?? 0) + 1);
    }
  }
  return { channelKeys, counts, batches };
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
