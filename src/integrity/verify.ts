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
import { all } from '../postgres/sql.ts';
import {
  boundsOf,
  countByHeads,
  cutPieces,
  headsOf,
  inOneSnapshot,
  messagesOf,
  messagesOfSegment,
  type Piece,
  repeatedKeys,
  scanIds,
} from './scan.sql.ts';
import { type HeadColumns, hasRepeats, isSound, joinRuns, noHead, type Run, runOf, suspectsOf } from './scan.ts';
import { doubleIds, factsOf, lastBlock, strayKeys } from './verify.sql.ts';
import { type ChannelViolation, violationsOf } from './violations.ts';

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
/** Channels that are cut into pieces at once, and at most in a piece. */
const cutChannels = 20_000;
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

/**
 * Verifies the invariants of the store on `connections` connections. Locks nothing; sends may go
 * on: what changes after the start is left out.
 */
export async function* verify(db: Db, connections = 1, pieceMessages = usualPiece): AsyncGenerator<Step> {
  const run = new Verification(pieceMessages);
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
  /** Taken first to last. The check of all ids is the longest: it comes first. */
  readonly #tasks: Task[] = [(connection) => this.#checkIds(connection)];
  /** The next task, after the one before was taken: pieces are cut one after the other. */
  #taking: Promise<Task | undefined> = Promise.resolve(undefined);
  /** Where the next pieces begin; undefined when all are cut. */
  #cutAfter: number | undefined = Number.MIN_SAFE_INTEGER;
  #strays = 0;

  constructor(pieceMessages: number) {
    this.#pieceMessages = pieceMessages;
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

  async #cut(connection: Db, afterKey: number): Promise<void> {
    if (afterKey === Number.MIN_SAFE_INTEGER) this.of = Math.max(1, await countByHeads(connection));
    const pieces = await cutPieces(connection, afterKey, {
      channels: cutChannels,
      pieceMessages: this.#pieceMessages,
    });
    for (const piece of pieces) {
      const { lastKey } = piece;
      if (!piece.isLarge || lastKey === undefined) {
        this.#tasks.push((own) => this.#checkPiece(own, piece));
        continue;
      }
      await this.#split(connection, lastKey);
      // Keys without a channel, between this channel and the one before.
      if (lastKey - 1 > piece.afterKey)
        this.#tasks.push((own) => this.#checkPiece(own, { ...piece, lastKey: lastKey - 1 }));
    }
    this.#cutAfter = pieces.at(-1)?.lastKey;
    // Keys without a channel, above the last channel.
    if (this.#cutAfter === undefined)
      this.#tasks.push((own) => this.#checkPiece(own, { afterKey, lastKey: undefined, isLarge: false }));
  }

  async #checkPiece(connection: Db, piece: Piece): Promise<void> {
    const mostMessages = mostPieces * this.#pieceMessages;
    const [messages, heads] = await all([messagesOf(connection, piece, mostMessages + 1), headsOf(connection, piece)]);
    if (messages.keys.length > mostMessages) return await this.#checkExactly(connection, piece, heads);
    const { suspects, hasStrays } = suspectsOf(messages, heads);
    const repeats = hasRepeats(messages.indexedHashes) || hasRepeats(messages.sentHashes);
    const doubtful = repeats ? await repeatedKeys(connection, piece) : [];
    const faults = await this.#examine(connection, [...suspects, ...doubtful]);
    if (hasStrays) faults.push(...(await this.#straysOf(connection, piece)));
    this.#channels += heads.keys.length;
    this.#messages += messages.keys.length;
    this.#report(faults);
  }

  async #straysOf(connection: Db, piece: Piece): Promise<ChannelViolation[]> {
    const strays = await strayKeys(connection, piece, Math.max(0, namedStrays - this.#strays));
    this.#strays += strays.length;
    return strays.map(({ channelKey, messages }) => ({
      kind: 'CHANNEL_MISSING',
      what: `channel_key ${channelKey} has a head or ${messages} messages, and no channel`,
    }));
  }

  async #examine(connection: Db, keys: readonly number[]): Promise<ChannelViolation[]> {
    const found: ChannelViolation[] = [];
    const each = [...new Set(keys)].sort((a, b) => a - b);
    for (let from = 0; from < each.length && !this.#isStopped; from += examinedChannels) {
      const facts = await factsOf(connection, each.slice(from, from + examinedChannels));
      found.push(...facts.flatMap(violationsOf));
    }
    return found;
  }

  /**
   * Splits a large channel into segments of equal ranges of sequences. Their hashes are compared
   * when the last one was read.
   */
  async #split(connection: Db, channelKey: number): Promise<void> {
    const bounds = await boundsOf(connection, channelKey);
    const piece = { afterKey: channelKey - 1, lastKey: channelKey, isLarge: false };
    const heads = await headsOf(connection, piece);
    const [lastSeq, swept] = [heads.lastSeqs[0] ?? noHead, heads.swept[0] ?? 0];
    const isSparse =
      bounds === undefined ||
      bounds.last - bounds.first > Math.min(sparseness * (lastSeq - swept), mostSegments * this.#pieceMessages);
    // Without messages, or with damaged numbers, there is nothing to split by.
    if (isSparse) {
      this.#tasks.push((own) => this.#checkExactly(own, piece, heads));
      return;
    }
    const [pieceMessages, mostMessages] = [this.#pieceMessages, mostPieces * this.#pieceMessages];
    const count = Math.ceil((bounds.last - bounds.first + 1) / pieceMessages);
    const isHashed = bounds.last - bounds.first < hashedMessages;
    const runs: Run[] = new Array(count);
    const indexed: Float64Array[] = [];
    const sent: Float64Array[] = [];
    let isRepeated = false;
    let left = count + (isHashed ? 0 : 1);
    const endOne = async (own: Db) => {
      if (--left > 0) return this.#report([]);
      const isOnce = isHashed && !hasRepeats(joinArrays(indexed)) && !hasRepeats(joinArrays(sent));
      const isDoubtful = isHashed ? !isOnce : isRepeated;
      const sound = isSound(joinRuns(runs), lastSeq, swept) && !isDoubtful;
      this.#channels++;
      this.#report(sound ? [] : await this.#examine(own, [channelKey]));
    };
    if (!isHashed)
      this.#tasks.unshift(async (own) => {
        isRepeated = (await repeatedKeys(own, piece)).length > 0;
        await endOne(own);
      });
    for (let index = 0; index < count; index++)
      this.#tasks.push(async (own) => {
        const segment = {
          channelKey,
          firstSeq: index === 0 ? -Infinity : bounds.first + index * pieceMessages,
          lastSeq: index === count - 1 ? Infinity : bounds.first + (index + 1) * pieceMessages - 1,
        };
        const columns = await messagesOfSegment(own, segment, mostMessages + 1);
        const read = columns.seqs.length;
        runs[index] = { ...runOf(columns, 0, read), ...(read > mostMessages && { isRegular: false }) };
        if (isHashed) {
          indexed.push(columns.indexedHashes);
          sent.push(columns.sentHashes);
        }
        this.#messages += columns.seqs.length;
        await endOne(own);
      });
  }

  /** Checks channels that the fast pass cannot read: their heads or sequences are far off. */
  async #checkExactly(connection: Db, piece: Piece, { keys }: HeadColumns): Promise<void> {
    for (let from = 0; from < keys.length && !this.#isStopped; from += examinedChannels) {
      const facts = await factsOf(connection, [...keys.slice(from, from + examinedChannels)]);
      this.#channels += facts.length;
      for (const { kept } of facts) this.#messages += kept;
      this.#report(facts.flatMap(violationsOf));
    }
    this.#report(await this.#straysOf(connection, piece));
  }

  async #checkIds(connection: Db): Promise<void> {
    const { hasRepeated, largest } = await scanIds(connection);
    const doubles = hasRepeated ? await doubleIds(connection, namedStrays) : [];
    const faults: ChannelViolation[] = doubles.map(({ id, places }) => ({
      kind: 'DOUBLE_ID',
      what: `message_id ${id} is used again: ${places.join(', ')}`,
    }));
    // Drawn later than what the snapshot shows: a sequence has no snapshot.
    const given = await lastBlock(connection);
    const block = Math.floor(largest / limits.idsPerBlock);
    if (block > given)
      faults.push({
        kind: 'IDS_AHEAD_OF_BLOCKS',
        what: `ids are of block ${block}, and sendbatch.message_block has given out ${given}: it will give ids out again`,
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
