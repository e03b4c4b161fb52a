import { limits } from '../limits.ts';
import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import { keyCrcOf } from '../messages/channel.ts';
import type { PreparedMessage } from '../messages/message.ts';
import { payloadBytesOf } from '../messages/plain-message.ts';
import { ServiceError } from '../messages/service-error.ts';
import { storeBusy } from '../messages/store-busy.ts';
import type { Append } from './append-types.ts';
import { type Cost, createGroupCommit, type GroupCommit, type GroupCommitOptions } from './group-commit.ts';
import { type HeldChannels, submitParts } from './held-channels.ts';

/**
 * Appends one batch. `signal`: the caller disconnected; a batch whose group has not started by then
 * is not stored.
 */
export type AppendBatch = (batch: Batch, signal?: Cancellation) => Promise<readonly Outcome[]>;

/**
 * Decides the lane of each message of a batch: an index per message. Messages of different lanes
 * are in different transactions.
 */
export type Route = (batch: Batch) => Promise<readonly number[]>;

/**
 * Appends each batch in a transaction of its own, with `route` one per shard that it has messages
 * for.
 */
export function createDirect(append: Append, { held, route }: Pick<LanesOptions, 'held' | 'route'> = {}): AppendBatch {
  const one = async (batch: Batch) => {
    const [appended] = await append([batch]);
    return settled(appended);
  };
  const submit = (batch: Batch, signal?: Cancellation) =>
    held === undefined ? one(batch) : held.submitAround(batch, one, signal);
  if (route === undefined) return submit;
  return async (batch, signal) =>
    batch.atomic
      ? await submit(batch, signal)
      : await submitByLane((_, part) => submit(part, signal), batch, await route(batch));
}

export interface LanesOptions {
  readonly lanes: number;
  /** Milliseconds that a batch may wait for its group to start. */
  readonly maxWaitMs: number;
  /** Unset: a batch with a held channel is refused at once. */
  readonly held?: HeldChannels;
  /**
   * Unset: by a hash of channels. With several shards a lane belongs to a shard, and the last lane
   * takes ATOMIC batches for several of them.
   */
  readonly route?: Route;
  /** Unset: see `defaultPipelineFrom`. */
  readonly pipelineFrom?: Cost;
  /** Unset: see `defaultSpreadFrom`. */
  readonly spreadFrom?: Cost;
  /** Unset: see `defaultStalledMs`. */
  readonly stalledMs?: number;
  readonly onGroup?: NonNullable<GroupCommitOptions<Batch, unknown>['onGroup']>;
  readonly trace?: GroupCommitOptions<Batch, unknown>['trace'];
}

/**
 * Messages, or their bytes, that are sent behind a running group: PostgreSQL then has work while
 * the results of that group are handed out.
 */
const defaultPipelineFrom: Cost = { items: 500, bytes: 256 * 1024 };

/**
 * Messages, or their bytes, without a result from which on all lanes are used. Below, one lane
 * commits fewer groups, and no batch waits for the slowest of several. Above, commits of several
 * lanes overlap while the disk syncs: with 128 batches of 100 in flight 0.72 of raw instead of 0.56
 * (two cores, synced disk), for 1.1 µs more of PostgreSQL per message.
 */
const defaultSpreadFrom: Cost = { items: 2000, bytes: 1024 * 1024 };
/** Part of that below which one lane is used again. */
const gatherBelow = 1 / 3;
/**
 * All lanes are used while one has not ended a group for this long, such as for a locked head:
 * half of the wait for it.
 */
const defaultStalledMs = 250;

/** Appends batches through group commit. */
export interface Lanes {
  readonly append: AppendBatch;
  readonly waiting: GroupCommit<Batch, unknown>['waiting'];
  /** Refuses new batches and waits for those submitted. */
  close(): Promise<void>;
}

/**
 * Assigns batches to lanes. With several shards `route` does, otherwise:
 *  1. Under little load all batches go to the first lane, which commits them together, unless it
 *     stalls.
 *  2. Otherwise messages go to lanes by a hash of their channels: the batches of a hot channel
 *     share commits in one lane instead of queueing for its row lock. A BEST_EFFORT batch is split.
 *  3. An ATOMIC batch is one transaction, in the lane of its first channel; its locks are taken in
 *     the global order.
 * The lane of a channel decides about speed only: row locks number its messages.
 */
export function createLanes(
  append: Append,
  {
    lanes,
    maxWaitMs,
    held,
    route,
    pipelineFrom = defaultPipelineFrom,
    spreadFrom = defaultSpreadFrom,
    stalledMs = defaultStalledMs,
    onGroup,
    trace,
  }: LanesOptions,
): Lanes {
  const groups = createGroupCommit<Batch, readonly Outcome[]>({
    lanes,
    pipelineFrom,
    groupBounds: { items: limits.groupMessages, bytes: limits.groupBytes },
    queueBounds: { items: limits.laneMessages, bytes: limits.lanesBytes },
    maxWaitMs,
    weigh,
    commit: append,
    // STORE_BUSY would hit every half alike; any other error may be caused by a single batch.
    shouldBisect: (error) => !(error instanceof ServiceError),
    refuse: (why) => storeBusy(new Error(why)),
    ...(onGroup === undefined ? {} : { onGroup }),
    trace,
  });
  let isSpread = false;
  const updateSpread = () => {
    const { items, bytes, committingMs } = groups.load();
    const load = Math.max(items / spreadFrom.items, bytes / spreadFrom.bytes);
    isSpread = load >= (isSpread ? gatherBelow : 1) || committingMs > stalledMs;
  };
  return {
    append(batch, signal) {
      const submit = (lane: number, part: Batch) =>
        held === undefined
          ? groups.submit(lane, part, signal)
          : held.submitAround(part, (each) => groups.submit(lane, each, signal), signal);
      if (route !== undefined) return submitRouted(submit, batch, route, lanes - 1);
      updateSpread();
      if (lanes === 1 || !isSpread) return submit(0, batch);
      if (batch.atomic || batch.messages.length === 1) return submit(laneOf(batch.messages[0], lanes), batch);
      return submitByLane(
        submit,
        batch,
        batch.messages.map((message) => laneOf(message, lanes)),
      );
    },
    waiting: () => groups.waiting(),
    close: () => groups.close(),
  };
}

async function submitRouted(submit: SubmitTo, batch: Batch, route: Route, last: number): Promise<readonly Outcome[]> {
  const lanes = await route(batch);
  const [first = last] = lanes;
  if (lanes.every((lane) => lane === first)) return await submit(first, batch);
  return batch.atomic ? await submit(last, batch) : await submitByLane(submit, batch, lanes);
}

type SubmitTo = (lane: number, batch: Batch) => Promise<readonly Outcome[]>;

/** One part per lane, each with the batch's messages of that lane in their order. */
async function submitByLane(submit: SubmitTo, batch: Batch, lanes: readonly number[]): Promise<readonly Outcome[]> {
  const byLane: { messages: PreparedMessage[]; positions: number[] }[] = [];
  let position = 0;
  for (const message of batch.messages) {
    const lane = lanes[position] ?? 0;
    const part = byLane[lane] ?? { messages: [], positions: [] };
    byLane[lane] = part;
    part.messages.push(message);
    part.positions.push(position++);
  }
  // Unlike `map`, this skips lanes without a message.
  const parts = byLane.flatMap((part, lane) => ({
    ...part,
    submit: () => submit(lane, { ...batch, messages: part.messages }),
  }));
  return await submitParts(batch, parts);
}

function laneOf(message: PreparedMessage | undefined, lanes: number): number {
  return message === undefined ? 0 : keyCrcOf(message.channel) % lanes;
}

function weigh({ messages }: Batch): Cost {
  let bytes = messages.length * limits.messageOverheadBytes;
  for (const message of messages) bytes += payloadBytesOf(message);
  return { items: messages.length, bytes };
}

function settled(appended: PromiseSettledResult<readonly Outcome[]> | undefined): readonly Outcome[] {
  if (appended === undefined) throw new Error('no outcome for the batch');
  if (appended.status === 'rejected') throw appended.reason;
  return appended.value;
}
