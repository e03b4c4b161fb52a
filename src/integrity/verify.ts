// Verifies the invariants of a database: dense sequences, unique ids and once-only keys, heads that
// match; and acknowledged messages of a journal (journal.ts).
//
// Entry points: `verify` and `verifyJournal`, used by `sendbatch verify`. `verify` reads on several
// connections under one snapshot, locks nothing, and may run beside sends.
//  1. A fast pass (scan.sql.ts, scan.ts) reads each message once and finds channels that may
//     violate something. Channels are scanned in pieces of about the same number of messages; a
//     large channel is split by sequence.
//  2. Suspects are examined exactly (verify.sql.ts); violations.ts decides what is a violation.

import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { onShard, type ShardLayout } from '../postgres/shards.ts';
import { all } from '../postgres/sql.ts';
import { changedChannels, changeFactsOf, uncountedChannels, unnumberedChannels } from './changes.sql.ts';
import {
  boundsOf,
  countByHeads,
  headRows,
  inOneSnapshot,
  keysAfter,
  messagesOf,
  messagesOfSegment,
  repeatedKeys,
  scanIds,
} from './scan.sql.ts';
import {
  type CutPiece,
  cutPieces,
  hasRepeats,
  isSound,
  joinHeads,
  joinRuns,
  noHead,
  type Run,
  runOf,
  type ShardIds,
  suspectsOf,
} from './scan.ts';
import { doubleIds, factsOf, lastBlock, misplacedRows, namesOf, readSplitBlock, strayKeys } from './verify.sql.ts';
import { type ChannelViolation, changeViolationsOf, violationsOf } from './violations.ts';

/** Progress of a verification, and what it found since the last report. */
export interface Step {
  /** Progress out of `of`, in messages. */
  readonly done: number;
  readonly of: number;
  readonly channels: number;
  readonly messages: number;
  readonly faults: readonly ChannelViolation[];
}

/** Messages per statement: their columns take 6 MB as text. */
const usualPiece = 50_000;
/**
 * Pieces read at most per statement. Heads that are wrong let a piece have more messages: then its
 * channels are examined exactly.
 */
const mostPieces = 4;
/** Channels that are cut into pieces at once, and at most in a piece: per shard, up to 16 times. */
const cutChannels = 20_000;
const mostCuts = 16;
/** Messages of a channel whose hashes are compared in memory: 128 MB. PostgreSQL compares more. */
const hashedMessages = 8_000_000;
/** Suspect channels examined per statement. */
const examinedChannels = 200;
/** Violations named at most that belong to no single channel. */
const namedStrays = 1000;

/** A channel with fewer messages than one in so many sequences is not split. */
const sparseness = 20;
/** 5 billion sequences: a larger range comes from damaged numbers. */
const mostSegments = 100_000;

/** A unit of work of one connection. */
type Task = (connection: Db) => Promise<void>;

/** The shards of a database, and the tables of one on a connection. */
type Shards = readonly ShardIds[];
const tablesOf = (connection: Db, { shard }: ShardIds): Db => onShard(connection, shard);

/**
 * Verifies the invariants of the store on `connections` connections. Locks nothing; sends may go
 * on: what changes after the start is left out.
 */
export async function* verify(
  { db, shards }: { readonly db: Db; readonly shards: ShardLayout },
  connections = 1,
  pieceMessages = usualPiece,
): AsyncGenerator<Step> {
  const splitBlock = await readSplitBlock(db);
  const run = new Verification(
    shards.all.map((shard) => ({ shard, count: shards.count, splitBlock })),
    pieceMessages,
  );
  let ended = false;
  const end = () => {
    ended = true;
    run.wake();
  };
  const work = inOneSnapshot(db, connections, (connection) => run.workOn(connection)).finally(end);
  work.catch(() => {});
  try {
    for (;;) {
      yield* run.ready.splice(0);
      if (ended) break;
      await new Promise<void>((resolve) => {
        run.wake = resolve;
        if (run.ready.length > 0 || ended) resolve();
      });
    }
    await work;
    yield* run.ready.splice(0);
    yield { ...run.step([]), done: run.of, of: run.of };
  } finally {
    run.stop();
    await work.catch(() => {});
  }
}

/** The state of one verification, which its connections share. */
class Verification {
  readonly #pieceMessages: number;
  /** Steps to report. */
  readonly ready: Step[] = [];
  wake: () => void = () => {};
  of = 1;
  #channels = 0;
  #messages = 0;
  #isStopped = false;
  readonly #shards: Shards;
  /** Taken first to last. The checks of all ids are the longest: they come first. */
  readonly #tasks: Task[];
  /** The next task, after the one before was taken: pieces are cut one after the other. */
  #taking: Promise<Task | undefined> = Promise.resolve(undefined);
  /** Where the next pieces begin; undefined when all are cut. */
  #cutAfter: number | undefined = Number.MIN_SAFE_INTEGER;
  #strays = 0;

  constructor(shards: Shards, pieceMessages: number) {
    this.#shards = shards;
    this.#pieceMessages = pieceMessages;
    this.#tasks = shards.map((shard) => (connection) => this.#checkIds(connection, shard));
    for (const shard of shards) this.#tasks.push((connection) => this.#checkChanges(connection, shard));
    if (shards.length > 1)
      for (const shard of shards) this.#tasks.push((connection) => this.#checkPlaces(connection, shard));
  }

  stop(): void {
    this.#isStopped = true;
  }

  async workOn(connection: Db): Promise<void> {
    try {
      for (;;) {
        const task = await this.#next(connection);
        if (task === undefined) return;
        await task(connection);
      }
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  step(faults: readonly ChannelViolation[]): Step {
    const [channels, messages] = [this.#channels, this.#messages];
    return { done: Math.min(messages, this.of), of: this.of, channels, messages, faults };
  }

  #report(faults: readonly ChannelViolation[]): void {
    this.ready.push(this.step(faults));
    this.wake();
  }

  async #next(connection: Db): Promise<Task | undefined> {
    const take = async () => {
      while (!this.#isStopped) {
        const task = this.#tasks.shift();
        if (task !== undefined) return task;
        if (this.#cutAfter === undefined) return undefined;
        await this.#cut(connection, this.#cutAfter);
      }
      return undefined;
    };
    this.#taking = this.#taking.then(take, take);
    return await this.#taking;
  }

  /** Cuts the next channels of all shards into pieces, each with the heads of its channels. */
  async #cut(connection: Db, afterKey: number): Promise<void> {
    if (afterKey === Number.MIN_SAFE_INTEGER) {
      let messages = 0;
      for (const shard of this.#shards) messages += await countByHeads(tablesOf(connection, shard));
      this.of = Math.max(1, messages);
    }
    const count = this.#shards.length;
    const keys = await keysAfter(connection, afterKey, cutChannels * Math.min(count, mostCuts));
    const lastKey = keys.at(-1);
    // At last the keys above the last channel, which have none.
    const range = { afterKey, lastKey };
    await all(
      this.#shards.map(async (shard) => {
        const own = count === 1 ? keys : keys.filter((key) => key % count === shard.shard.index);
        const heads = joinHeads(own, await headRows(tablesOf(connection, shard), range));
        for (const piece of cutPieces(heads, range, this.#pieceMessages)) {
          if (piece.isLarge) await this.#split(connection, shard, piece);
          else this.#tasks.push((other) => this.#checkPiece(other, shard, piece));
        }
      }),
    );
    this.#cutAfter = lastKey;
  }

  async #checkPiece(connection: Db, shard: ShardIds, piece: CutPiece): Promise<void> {
    const { heads } = piece;
    const mostMessages = mostPieces * this.#pieceMessages;
    const tables = tablesOf(connection, shard);
    const messages = await messagesOf(tables, piece, mostMessages + 1);
    if (messages.keys.length > mostMessages) return await this.#checkExactly(connection, shard, piece);
    const { suspects, hasStrays } = suspectsOf(messages, heads, shard);
    const repeats = hasRepeats(messages.indexedHashes) || hasRepeats(messages.sentHashes);
    const doubtful = repeats ? await repeatedKeys(tables, piece) : [];
    const faults = await this.#examine(connection, shard, [...suspects, ...doubtful]);
    if (hasStrays) faults.push(...(await this.#straysOf(connection, shard, piece)));
    if (messages.changed > 0)
      faults.push(...(await this.#examineChanges(connection, shard, await unnumberedChannels(tables, piece))));
    this.#channels += heads.keys.length;
    this.#messages += messages.keys.length;
    this.#report(faults);
  }

  async #straysOf(connection: Db, ids: ShardIds, piece: CutPiece): Promise<ChannelViolation[]> {
    const limit = Math.max(0, namedStrays - this.#strays);
    const strays = await strayKeys({ connection, ids }, piece, piece.heads.keys, limit);
    this.#strays += strays.length;
    const { shard, count } = ids;
    return strays.map(({ channelKey, messages }) =>
      BigInt(channelKey) % BigInt(count) === BigInt(shard.index)
        ? {
            kind: 'CHANNEL_MISSING',
            what: `channel_key ${channelKey} has a head or ${messages} messages, and no channel`,
          }
        : {
            kind: 'OTHER_SHARD',
            what: `channel_key ${channelKey} has a head or ${messages} messages in ${shard.schema}, which is not its shard`,
          },
    );
  }

  /** Checks that the other rows of a shard belong to its channels. */
  async #checkPlaces(connection: Db, ids: ShardIds): Promise<void> {
    const rows = await misplacedRows({ connection, ids }, namedStrays);
    const faults = rows.map(
      ({ table, channelKey }): ChannelViolation => ({
        kind: 'OTHER_SHARD',
        what: `channel_key ${channelKey} has rows in ${ids.shard.schema}.${table}, which is not its shard`,
      }),
    );
    if (faults.length > 0) this.#report(faults);
  }

  async #examine(connection: Db, ids: ShardIds, keys: readonly number[]): Promise<ChannelViolation[]> {
    const found: ChannelViolation[] = [];
    const each = [...new Set(keys)].sort((a, b) => a - b);
    for (let from = 0; from < each.length && !this.#isStopped; from += examinedChannels) {
      const facts = await factsOf({ connection, ids }, each.slice(from, from + examinedChannels));
      found.push(...facts.flatMap(violationsOf));
    }
    return found;
  }

  /**
   * Splits a large channel into segments of equal ranges of sequences. Their hashes are compared
   * when the last one was read.
   */
  async #split(connection: Db, shard: ShardIds, piece: CutPiece): Promise<void> {
    const channelKey = piece.heads.keys[0] ?? 0;
    const bounds = await boundsOf(tablesOf(connection, shard), channelKey);
    const [lastSeq, swept] = [piece.heads.lastSeqs[0] ?? noHead, piece.heads.swept[0] ?? 0];
    const isSparse =
      bounds === undefined ||
      bounds.last - bounds.first > Math.min(sparseness * (lastSeq - swept), mostSegments * this.#pieceMessages);
    // Without messages, or with damaged numbers, there is nothing to split by.
    if (isSparse) {
      this.#tasks.push((own) => this.#checkExactly(own, shard, piece));
      return;
    }
    const [pieceMessages, mostMessages] = [this.#pieceMessages, mostPieces * this.#pieceMessages];
    const count = Math.ceil((bounds.last - bounds.first + 1) / pieceMessages);
    const isHashed = bounds.last - bounds.first < hashedMessages;
    const runs: Run[] = new Array(count);
    const indexed: Float64Array[] = [];
    const sent: Float64Array[] = [];
    let isRepeated = false;
    let changed = 0;
    let left = count + (isHashed ? 0 : 1);
    const endOne = async (own: Db) => {
      if (--left > 0) return this.#report([]);
      const isOnce = isHashed && !hasRepeats(joinArrays(indexed)) && !hasRepeats(joinArrays(sent));
      const isDoubtful = isHashed ? !isOnce : isRepeated;
      const sound = isSound(joinRuns(runs), lastSeq, swept) && !isDoubtful;
      this.#channels++;
      const faults = sound ? [] : await this.#examine(own, shard, [channelKey]);
      if (changed > 0) {
        const unnumbered = await unnumberedChannels(tablesOf(own, shard), piece);
        faults.push(...(await this.#examineChanges(own, shard, unnumbered)));
      }
      this.#report(faults);
    };
    if (!isHashed)
      this.#tasks.unshift(async (own) => {
        isRepeated = (await repeatedKeys(tablesOf(own, shard), piece)).length > 0;
        await endOne(own);
      });
    for (let index = 0; index < count; index++)
      this.#tasks.push(async (own) => {
        const segment = {
          channelKey,
          firstSeq: index === 0 ? -Infinity : bounds.first + index * pieceMessages,
          lastSeq: index === count - 1 ? Infinity : bounds.first + (index + 1) * pieceMessages - 1,
        };
        const columns = await messagesOfSegment(tablesOf(own, shard), segment, mostMessages + 1);
        const read = columns.seqs.length;
        runs[index] = { ...runOf(columns, 0, read, shard), ...(read > mostMessages && { isRegular: false }) };
        if (isHashed) {
          indexed.push(columns.indexedHashes);
          sent.push(columns.sentHashes);
        }
        changed += columns.changed;
        this.#messages += columns.seqs.length;
        await endOne(own);
      });
  }

  /** Checks channels that the fast pass cannot read: their heads or sequences are far off. */
  async #checkExactly(connection: Db, ids: ShardIds, piece: CutPiece): Promise<void> {
    const { keys } = piece.heads;
    for (let from = 0; from < keys.length && !this.#isStopped; from += examinedChannels) {
      const facts = await factsOf({ connection, ids }, [...keys.slice(from, from + examinedChannels)]);
      this.#channels += facts.length;
      for (const { kept } of facts) this.#messages += kept;
      this.#report(facts.flatMap(violationsOf));
    }
    this.#report(await this.#straysOf(connection, ids, piece));
    const unnumbered = await unnumberedChannels(tablesOf(connection, ids), piece);
    this.#report(await this.#examineChanges(connection, ids, unnumbered));
  }

  /** Compares the numbered changes of a shard with its heads and messages. */
  async #checkChanges(connection: Db, ids: ShardIds): Promise<void> {
    const tables = tablesOf(connection, ids);
    for (let after = Number.MIN_SAFE_INTEGER; !this.#isStopped; ) {
      const keys = await changedChannels(tables, after, examinedChannels);
      const last = keys.at(-1);
      if (last === undefined) break;
      this.#report(await this.#examineChanges(connection, ids, keys));
      after = last;
    }
    const uncounted = await uncountedChannels(tables, namedStrays);
    this.#report(await this.#examineChanges(connection, ids, uncounted));
  }

  async #examineChanges(connection: Db, ids: ShardIds, keys: readonly number[]): Promise<ChannelViolation[]> {
    if (keys.length === 0) return [];
    const facts = await changeFactsOf(tablesOf(connection, ids), keys);
    const names = await namesOf(connection, keys);
    return facts.flatMap((each) => {
      const name = names.get(each.channelKey);
      // A channel that is missing is a violation of its own.
      if (name === undefined) return [];
      const { channel_type: channelType, channel_id: channelId, sequence } = name;
      return changeViolationsOf({ channelType, channelId, sequence }, each);
    });
  }

  /**
   * Checks the ids of a shard. Ids of two shards differ by their blocks; those that were drawn
   * before a split are compared within their shards.
   */
  async #checkIds(connection: Db, ids: ShardIds): Promise<void> {
    const { hasRepeated, largest } = await scanIds(tablesOf(connection, ids));
    const doubles = hasRepeated ? await doubleIds({ connection, ids }, namedStrays) : [];
    const faults: ChannelViolation[] = doubles.map(({ id, places }) => ({
      kind: 'DOUBLE_ID',
      what: `message_id ${id} is used again: ${places.join(', ')}`,
    }));
    // Drawn later than what the snapshot shows: a sequence has no snapshot.
    const given = await lastBlock({ connection, ids });
    const block = Math.floor(largest / limits.idsPerBlock);
    if (block > given)
      faults.push({
        kind: 'IDS_AHEAD_OF_BLOCKS',
        what: `ids are of block ${block}, and ${ids.shard.schema}.${ids.count === 1 ? 'message_block' : 'id_block'} has given out ${given}: it will give ids out again`,
      });
    if (faults.length > 0) this.#report(faults);
  }
}

function joinArrays(parts: readonly Float64Array[]): Float64Array {
  const joined = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
