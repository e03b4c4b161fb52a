import { crc32 } from 'node:zlib';
import { Failure } from '../domain/failure.ts';
import type { Prepared } from '../domain/message.ts';
import type { Batch, Outcome } from '../domain/plan.ts';
import { limits } from '../limits.ts';
import type { Append } from './append.ts';
import { createGroupCommit, type GroupCommit, type GroupCommitOptions, type Weight } from './group-commit.ts';
import { storeBusy } from './store-busy.ts';

/** Appends one batch. `signal`: the caller has gone away; a batch that is not begun by then is not stored. */
export type AppendBatch = (batch: Batch, signal?: AbortSignal) => Promise<readonly Outcome[]>;

/** One transaction a batch, as they come. */
export function createDirect(append: Append): AppendBatch {
  return async (batch) => {
    const [appended] = await append([batch]);
    return settled(appended);
  };
}

export interface LanesOptions {
  readonly lanes: number;
  /** Milliseconds that a batch may wait for its turn. */
  readonly maxWaitMs: number;
  readonly onGroup?: NonNullable<GroupCommitOptions<Batch, unknown>['onGroup']>;
  readonly trace?: GroupCommitOptions<Batch, unknown>['trace'];
}

/** Group commit for batches. */
export interface Lanes {
  readonly append: AppendBatch;
  readonly waiting: GroupCommit<Batch, unknown>['waiting'];
  /** Refuses what comes from now on, and waits for what is here. */
  close(): Promise<void>;
}

/**
 * Puts batches into lanes by a hash of their channels, which is the same in every instance, so that a hot channel is locked by one connection of this one:
 * its batches share commits instead of queueing for its lock. A BEST_EFFORT batch that finds work under way is parted by lane; an ATOMIC one is one
 * transaction, in the lane of its first channel, whose locks are taken in the order of all. With nothing under way a batch goes whole:
 * one commit then costs less than one in each lane.
 */
export function createLanes(append: Append, { lanes, maxWaitMs, onGroup, trace }: LanesOptions): Lanes {
  const groups = createGroupCommit<Batch, readonly Outcome[]>({
    lanes,
    groupBounds: { items: limits.groupMessages, bytes: limits.groupBytes },
    queueBounds: { items: limits.laneMessages, bytes: limits.laneBytes },
    maxWaitMs,
    weigh,
    commit: append,
    // A refusal (STORE_BUSY) would meet every part alike; anything else may be one batch's fault.
    isSpoilt: (error) => !(error instanceof Failure),
    refuse: (why) => storeBusy(new Error(why)),
    ...(onGroup === undefined ? {} : { onGroup }),
    trace,
  });
  return {
    append: async (batch, signal) => {
      const whole = laneOf(batch.messages[0], lanes);
      if (lanes === 1 || batch.atomic || batch.messages.length === 1 || groups.isIdle)
        return await groups.submit(whole, batch, signal);
      return await submitInParts(groups, batch, lanes, signal);
    },
    waiting: () => groups.waiting(),
    close: () => groups.close(),
  };
}

/** One part a lane, each with the batch's messages of that lane in their order. */
async function submitInParts(
  groups: GroupCommit<Batch, readonly Outcome[]>,
  batch: Batch,
  lanes: number,
  signal: AbortSignal | undefined,
): Promise<readonly Outcome[]> {
  const parts = new Map<number, { messages: Prepared[]; places: number[] }>();
  for (const [place, message] of batch.messages.entries()) {
    const lane = laneOf(message, lanes);
    const part = parts.get(lane) ?? { messages: [], places: [] };
    parts.set(lane, part);
    part.messages.push(message);
    part.places.push(place);
  }
  const outcomes: Outcome[] = new Array(batch.messages.length);
  const ends = await Promise.allSettled(
    [...parts].map(async ([lane, { messages, places }]) => {
      const part = await groups.submit(lane, { ...batch, messages }, signal);
      for (const [index, place] of places.entries()) outcomes[place] = part[index] as Outcome;
    }),
  );
  const failed = ends.filter((end) => end.status === 'rejected').map((end): unknown => end.reason);
  const other = failed.find((reason) => !(reason instanceof Failure));
  if (failed.length > 0 && (failed.length === ends.length || other !== undefined)) throw other ?? failed[0];
  // Some parts are stored: those that are not say so for each of their messages.
  for (const [index, { messages, places }] of [...parts.values()].entries()) {
    const end = ends[index];
    if (end?.status !== 'rejected') continue;
    const { refusal } = end.reason as Failure;
    for (const [at, place] of places.entries())
      outcomes[place] = { kind: 'refused', message: messages[at] as Prepared, refusal };
  }
  return outcomes;
}

function laneOf(message: Prepared | undefined, lanes: number): number {
  return message === undefined ? 0 : crc32(message.channel.key) % lanes;
}

/** Bytes of a message beside its payload, about. */
const overheadBytes = 256;

function weigh({ messages }: Batch): Weight {
  let bytes = messages.length * overheadBytes;
  for (const message of messages) bytes += message.payload.length;
  return { items: messages.length, bytes };
}

function settled(appended: PromiseSettledResult<readonly Outcome[]> | undefined): readonly Outcome[] {
  if (appended === undefined) throw new Error('no outcome for the batch');
  if (appended.status === 'rejected') throw appended.reason;
  return appended.value;
}
