import { setTimeout as delay } from 'node:timers/promises';
import type { Channel } from '../domain/channel.ts';
import { Failure } from '../domain/failure.ts';
import { isPersistent, type Prepared } from '../domain/message.ts';
import { type Batch, decide, type Facts, type Outcome } from '../domain/plan.ts';
import { limits } from '../limits.ts';
import { type ChannelKeys, lockHeads, readHeads } from '../storage/channel.ts';
import { type Db, inTransaction, type Tx } from '../storage/database.ts';
import { troubleOf } from '../storage/failure.ts';
import { drawBlock, findEarlier, type Keyed, write } from '../storage/message.ts';

/** What a send needs of the store. */
export interface Store {
  readonly db: Db;
  readonly channelKeys: ChannelKeys;
}

/** Appends a group of batches and returns the outcomes per batch, per message. */
export type Append = (batches: readonly Batch[]) => Promise<readonly (readonly Outcome[])[]>;

/** Tries of one group. Deadlocks cannot happen between senders (see lockHeads); this is for others in the same database, and restarts. */
const attempts = 6;
const firstPauseMs = 25;
/** What STORE_BUSY advises: long enough for a lock time-out's cause to pass, short enough to hide a restart. */
const retryAfterMs = 1000;

/** The appender of one store: one transaction a group, tried again when the database undid it for a passing reason. */
export function createAppend({ db, channelKeys }: Store): Append {
  return async (batches) => {
    const ownBlocks = new Set<number>();
    return await persist(async () => {
      const group = await key(batches, (channels) => channelKeys.findOrCreate(channels));
      return await inTransaction(db, (tx) => appendIn(tx, batches, group, ownBlocks));
    });
  };
}

/** The same decision without its effects: nothing is stored, no number is used. */
export function createRehearsal({ db, channelKeys }: Store): Append {
  return async (batches) =>
    await persist(async () => {
      const group = await key(batches, (channels) => channelKeys.find(channels));
      const heads = await readHeads(db, [...group.channelKeys.values()]);
      const earlier = await findEarlier(db, group.messages);
      return decide(batches, { heads: byText(group, heads), earlier, block: 0 }).outcomes;
    });
}

/** Lock, look, decide, write. */
async function appendIn(tx: Tx, batches: readonly Batch[], group: Group, ownBlocks: Set<number>) {
  const heads = await lockHeads(tx, [...group.channelKeys.values()]);
  const earlier = await findEarlier(tx, group.messages);
  const block = await drawBlock(tx);
  const facts: Facts = { heads: byText(group, heads), earlier, block };
  const plan = decide(batches, facts);
  if (plan.rows.length > 0) {
    const keyOf = (channel: Channel) => required(group.channelKeys, channel.key);
    await write(
      tx,
      [...plan.heads].map(([text, lastSeq]) => ({ channelKey: required(group.channelKeys, text), lastSeq })),
      plan.rows.map((row) => ({ ...row, channelKey: keyOf(row.message.channel) })),
      Date.now(),
    );
  }
  const outcomes = plan.outcomes.map((batch) => batch.map((outcome) => own(outcome, ownBlocks)));
  ownBlocks.add(block);
  return outcomes;
}

/**
 * When a commit's answer was lost, the next try finds this very call's rows: they are not duplicates to the caller. Their ids come from a block
 * that the call drew.
 */
function own(outcome: Outcome, ownBlocks: ReadonlySet<number>): Outcome {
  if (outcome.kind !== 'duplicate' || !ownBlocks.has(Math.floor(outcome.messageId / limits.idsPerBlock)))
    return outcome;
  return { ...outcome, kind: 'accepted' };
}

interface Group {
  /** By channel key text: the surrogate keys of all channels that get a numbered message. */
  readonly channelKeys: ReadonlyMap<string, number>;
  readonly messages: readonly Keyed[];
}

async function key(
  batches: readonly Batch[],
  find: (channels: readonly Channel[]) => Promise<Map<string, number>>,
): Promise<Group> {
  const persistent: Prepared[] = batches.flatMap((batch) => batch.messages.filter(isPersistent));
  const channels = new Map(persistent.map((message) => [message.channel.key, message.channel]));
  const channelKeys = await find([...channels.values()]);
  const messages = persistent.flatMap((message) => {
    const channelKey = channelKeys.get(message.channel.key);
    return channelKey === undefined ? [] : [{ channelKey, message }];
  });
  return { channelKeys, messages };
}

function byText(group: Group, heads: ReadonlyMap<number, number>): Map<string, number> {
  return new Map([...group.channelKeys].map(([text, channelKey]) => [text, required(heads, channelKey)]));
}

function required<K, V>(map: ReadonlyMap<K, V>, wanted: K): V {
  const value = map.get(wanted);
  if (value === undefined) throw new Error(`no entry for ${String(wanted)}`);
  return value;
}

async function persist<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      const trouble = troubleOf(error);
      if (trouble === 'defect') throw error;
      if (trouble === 'busy' || attempt === attempts) throw storeBusy(error);
      // Full jitter: those that collided once must not come back together.
      await delay(Math.random() * firstPauseMs * 2 ** attempt);
    }
  }
}

/** The store cannot do it now. Nothing was stored, or the same keys will find it. */
export function storeBusy(cause: unknown): Failure {
  return new Failure(
    {
      reason: 'STORE_BUSY',
      message: 'the store cannot take this now; send it again with the same keys (client_msg_no or request_id)',
      metadata: {},
    },
    { retryAfterMs, cause },
  );
}
