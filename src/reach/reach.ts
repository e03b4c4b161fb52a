// Counts how far messages have come: who has received and read them.
//
// Entry points: `createReach` (this file: the reach of a batch, the readers of a message),
// `createDeliveryCursors` (delivery-cursors.ts: how far each channel was handed to each user).
// Invariants:
//  1. Every number is computed when it is asked for, from cursors and members; nothing is counted
//     while messages are sent or read.
//  2. A statement reads either tables of channels or control tables, never both.
//  3. One question about a batch per caller over all instances, and two per instance: reads of
//     others keep their connections.

import type { Batches } from '../batches/batches.ts';
import type { Caller } from '../messages/caller.ts';
import { findByNumbers } from '../messages/messages-find.sql.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Tx } from '../postgres/schema.ts';
import { onShard, type Shard, type ShardLayout } from '../postgres/shards.ts';
import { assertReadable, channelToRead, type Reader, viewerOf } from '../reading/read-access.ts';
import type { Store } from '../sending/group-context.ts';
import { secondMs } from '../time.ts';
import {
  type Counts,
  countMessages,
  countReceivers,
  findMessages,
  findPlaces,
  type GroupPart,
  listReceivers,
  lockCaller,
  type MessageGroup,
  type Places,
  readReceivers,
  selectReaders,
} from './reach.sql.ts';

/** The reach of a batch. */
export interface BatchReach {
  readonly batchId: string;
  /** Milliseconds since 1970. */
  readonly countedAt: number;
  readonly total: ReachCounts;
  /** Ascending by type. */
  readonly channelTypes: readonly (ReachCounts & { readonly channelType: number })[];
  /** Sent messages without a read state. */
  readonly uncounted: number;
}

/** Counts of messages and of their receivers. */
export interface ReachCounts extends Omit<Counts, 'channelType' | 'delivered'> {
  /** Unset: deliveries are not recorded. */
  readonly delivered?: number;
}

/** A message, and who asks for its readers. */
export interface ReadersCall extends Reader {
  readonly channelType: number;
  readonly channelId: string;
  readonly messageSeq: number;
  /** The last uid of the page before; empty: from the start. */
  readonly afterUid: string;
  readonly limit: number;
}

/** A page of uids. `next`: the position of the next page; empty: there is none. */
export interface ReadersPage {
  readonly uids: readonly string[];
  readonly next: string;
}

/** Answers how far messages have come. */
export interface Reach {
  ofBatch(caller: Caller, batchId: string, signal: AbortSignal): Promise<BatchReach>;
  readers(call: ReadersCall): Promise<ReadersPage>;
}

export interface ReachParts {
  readonly batches: Pick<Batches, 'get'>;
  /** Whether delivery cursors are recorded. */
  readonly recordsDeliveries: boolean;
  /** Questions about batches that this process answers at once. */
  readonly concurrency?: number;
  readonly now?: () => number;
}

/** Questions about batches per process: they leave at least half of the default's connections. */
const usualConcurrency = 2;
/** A question about 100,000 messages takes 1.7 s of CPU. */
const retryAfterMs = secondMs;
/** Messages per statement. */
const messagesPerRead = 10_000;
/**
 * Groups per statement that reads receivers, and receivers of each: at most half a million rows.
 */
const groupsPerRead = 50;
const receiversPerRead = 10_000;
/** Receivers per statement of a list of readers, and per call. */
const examinedPerRead = 2000;
const examinedPerCall = 20_000;

/** Creates the use cases of reach. `store.db`: connections that read. */
export function createReach(store: Store, parts: ReachParts): Reach {
  const { db, shards, channelKeys } = store;
  const { batches, recordsDeliveries, concurrency = usualConcurrency, now = Date.now } = parts;
  const asking = new Set<string>();

  return {
    async ofBatch(caller, batchId, signal) {
      const batch = await batches.get(caller, batchId);
      if (asking.has(caller.id) || asking.size >= concurrency) throw inProgress(asking.has(caller.id));
      asking.add(caller.id);
      try {
        return await orBusy(() =>
          db.transaction().execute(async (tx) => {
            if (!(await lockCaller(tx, caller.id))) throw inProgress(true);
            const countedAt = now();
            const slices = { shards: shards.count, limit: messagesPerRead };
            const { places, uncounted } = await findPlaces(tx, batch.batchId, slices);
            const tally = await countPlaces(tx, places, { shards, recordsDeliveries, signal });
            return { batchId: batch.batchId, countedAt, uncounted, ...tally };
          }),
        );
      } finally {
        asking.delete(caller.id);
      }
    },

    readers: (call) =>
      orBusy(async () => {
        const viewerUid = viewerOf(call);
        const named = channelToRead(call.channelType, call.channelId, viewerUid);
        await assertReadable(store, viewerUid, [named]);
        const channelKey = (await channelKeys.find([named])).get(named.key);
        const { messageSeq } = call;
        const range = { seqs: [messageSeq], ids: [], viewerUid };
        if (channelKey === undefined) throw notFound(messageSeq);
        const onItsShard = onShard(db, shards.of(channelKey));
        const [message] = await findByNumbers(onItsShard, channelKey, range, now());
        if (message === undefined) throw notFound(messageSeq);
        if (viewerUid !== undefined && viewerUid !== message.fromUid && !call.caller.scopes.has('admin'))
          throw notTheSender(messageSeq);
        if (message.changes?.recalledAt !== undefined) throw recalled(messageSeq);
        const at = { channelType: named.type, channelKey, messageSeq, sender: message.fromUid };
        const uids: string[] = [];
        let { afterUid } = call;
        for (let examined = 0; examined < examinedPerCall; ) {
          const limit = examinedPerRead;
          const page = { isRestricted: message.subscribers.length > 0, afterUid, limit };
          const some = await listReceivers(onItsShard, at, page);
          for (const uid of await selectReaders(db, at, some)) {
            if (uids.length === call.limit) return { uids, next: uids.at(-1) ?? '' };
            uids.push(uid);
          }
          if (some.length < limit) return { uids, next: '' };
          examined += some.length;
          afterUid = some.at(-1) ?? '';
        }
        return { uids, next: afterUid };
      }),
  };
}

interface CountOptions extends Pick<ReachParts, 'recordsDeliveries'> {
  readonly shards: ShardLayout;
  readonly signal: AbortSignal;
}

/** Counts messages and their receivers, shard by shard and slice by slice. */
async function countPlaces(
  tx: Tx,
  places: readonly Places[],
  { shards, recordsDeliveries, signal }: CountOptions,
): Promise<Pick<BatchReach, 'total' | 'channelTypes'>> {
  const byType = new Map<number, Counts>();
  const add = ({ channelType, ...more }: Partial<Counts> & Pick<Counts, 'channelType'>) =>
    byType.set(channelType, sum(byType.get(channelType) ?? { ...none, channelType }, more));
  const groups: MessageGroup[] = [];
  for (const slice of places) {
    signal.throwIfAborted();
    const found = await findMessages(onShard(tx, shards.of(slice.shard)), slice);
    const counted = await countMessages(tx, found, recordsDeliveries);
    for (const each of counted.counts) add(each);
    for (const each of counted.groups) groups.push(each);
  }
  for (const { shard, slice } of slicesOf(shards, groups)) {
    let parts: GroupPart[] = slice.map((group) => ({ group, afterUid: '' }));
    while (parts.length > 0) {
      signal.throwIfAborted();
      const { receivers, next } = await readReceivers(onShard(tx, shard), parts, receiversPerRead);
      if (receivers !== undefined)
        for (const each of await countReceivers(tx, parts, receivers, recordsDeliveries)) add(each);
      parts = next;
    }
  }
  const shown = ({ delivered, ...counts }: Omit<Counts, 'channelType'>): ReachCounts =>
    recordsDeliveries ? { ...counts, delivered } : counts;
  const sorted = [...byType.values()].sort((a, b) => a.channelType - b.channelType);
  return {
    total: shown(sorted.reduce((all, { channelType: _, ...each }) => sum(all, each), none)),
    channelTypes: sorted.map(({ channelType, ...counts }) => ({ channelType, ...shown(counts) })),
  };
}

/** Cuts groups into slices of one shard. */
function* slicesOf(
  shards: ShardLayout,
  groups: readonly MessageGroup[],
): Generator<{ readonly shard: Shard; readonly slice: readonly MessageGroup[] }> {
  for (const [shard, some] of shards.group(groups, (each) => each.channelKey))
    for (let start = 0; start < some.length; start += groupsPerRead)
      yield { shard, slice: some.slice(start, start + groupsPerRead) };
}

const none: Omit<Counts, 'channelType'> = { messages: 0, recalled: 0, removed: 0, receivers: 0, read: 0, delivered: 0 };

function sum<T extends typeof none>(all: T, more: Partial<typeof none>): T {
  const { messages = 0, recalled = 0, removed = 0, receivers = 0, read = 0, delivered = 0 } = more;
  return {
    ...all,
    messages: all.messages + messages,
    recalled: all.recalled + recalled,
    removed: all.removed + removed,
    receivers: all.receivers + receivers,
    read: all.read + read,
    delivered: all.delivered + delivered,
  };
}

function inProgress(isOwn: boolean): ServiceError {
  return new ServiceError({
    reason: 'REACH_IN_PROGRESS',
    message: isOwn
      ? 'the previous question of this caller about a reach is not answered yet; ask again when it is'
      : 'this instance answers as many questions about reaches as it may; ask again shortly',
    metadata: {},
    retryAfterMs,
  });
}

function notFound(messageSeq: number): ServiceError {
  return new ServiceError({
    reason: 'MESSAGE_NOT_FOUND',
    message: `the channel has no message with message_seq ${messageSeq} that this caller may know; it may have expired`,
    metadata: { message_seq: String(messageSeq) },
  });
}

function notTheSender(messageSeq: number): ServiceError {
  return new ServiceError({
    reason: 'NOT_THE_SENDER',
    message: `only the sender of message ${messageSeq} may list who has read it; a service with the scope read may list it without a uid`,
    metadata: { message_seq: String(messageSeq) },
  });
}

function recalled(messageSeq: number): ServiceError {
  return new ServiceError({
    reason: 'MESSAGE_RECALLED',
    message: `message ${messageSeq} was recalled, and has no list of readers`,
    metadata: { message_seq: String(messageSeq) },
  });
}
