/**
 * The fast pass of `verify`, over columns: which channels may violate something. It may suspect a
 * sound channel, and misses none for which `violationsOf` has something to say: a test compares
 * both on random damage.
 */

import { limits } from '../limits.ts';
import type { Shard } from '../postgres/shards.ts';

/** Messages in the order of channel and sequence. */
export interface MessageColumns {
  readonly keys: Float64Array;
  readonly seqs: Float64Array;
  readonly ids: Float64Array;
  /** Of once-only keys as indexed; 53 bits, seeded with the channel's key. */
  readonly indexedHashes: Float64Array;
  /** Of sender and client_msg_no; 53 bits, seeded with the channel's key. */
  readonly sentHashes: Float64Array;
}

/** Messages that were read, and how many of them were edited or recalled. */
export interface ScannedMessages extends MessageColumns {
  readonly changed: number;
}

/** Channels in the order of their keys. */
export interface HeadColumns {
  readonly keys: Float64Array;
  /** `noHead` where the head is missing. */
  readonly lastSeqs: Float64Array;
  readonly swept: Float64Array;
  /** Whether there are heads without a channel. */
  readonly hasStrayHeads: boolean;
}

export const noHead = -1;

/** What a scan found about the messages of one channel, or of a part of it. */
export interface Run {
  readonly count: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly firstId: number;
  readonly lastId: number;
  /** Whether sequences and ids rise, and ids are valid. */
  readonly isRegular: boolean;
}

/** The ids that messages of a shard may have. */
export interface ShardIds {
  readonly shard: Shard;
  /** The number of shards. */
  readonly count: number;
  /** Blocks up to this one were drawn before the database was split, for any shard. */
  readonly splitBlock: number;
}

/** Whether some of the ids from `begin` to before `end` are none of the shard. */
function hasForeignIds(ids: Float64Array, begin: number, end: number, of: ShardIds): boolean {
  const { shard, count, splitBlock } = of;
  if (count === 1) return false;
  for (let index = begin; index < end; index++) {
    const block = Math.floor((ids[index] ?? 0) / limits.idsPerBlock);
    if (block > splitBlock && block % count !== shard.index) return true;
  }
  return false;
}

/** Scans the messages from `begin` to before `end`, which belong to one channel. */
export function runOf({ seqs, ids }: MessageColumns, begin: number, end: number, of: ShardIds): Run {
  let isRegular = true;
  let [beforeSeq, beforeId] = [-Infinity, 0];
  for (let index = begin; index < end; index++) {
    const seq = seqs[index] ?? 0;
    const id = ids[index] ?? 0;
    if (seq <= beforeSeq || id <= beforeId || id > Number.MAX_SAFE_INTEGER) isRegular = false;
    beforeSeq = seq;
    beforeId = id;
  }
  return {
    count: end - begin,
    firstSeq: seqs[begin] ?? Infinity,
    lastSeq: seqs[end - 1] ?? -Infinity,
    firstId: ids[begin] ?? Infinity,
    lastId: ids[end - 1] ?? -Infinity,
    isRegular: isRegular && !hasForeignIds(ids, begin, end, of),
  };
}

/** Joins the runs of a channel's segments, in their order. */
export function joinRuns(runs: readonly Run[]): Run {
  let joined: Run = {
    count: 0,
    firstSeq: Infinity,
    lastSeq: -Infinity,
    firstId: Infinity,
    lastId: -Infinity,
    isRegular: true,
  };
  for (const run of runs) {
    if (run.count === 0) continue;
    joined = {
      count: joined.count + run.count,
      firstSeq: Math.min(joined.firstSeq, run.firstSeq),
      lastSeq: run.lastSeq,
      firstId: Math.min(joined.firstId, run.firstId),
      lastId: run.lastId,
      isRegular: joined.isRegular && run.isRegular && run.firstSeq > joined.lastSeq && run.firstId > joined.lastId,
    };
  }
  return joined;
}

/** Whether a channel with this head is sound, but for its once-only keys. */
export function isSound(run: Run, lastSeq: number, swept: number): boolean {
  if (lastSeq === noHead || run.count + swept !== lastSeq) return false;
  return run.count === 0 || (run.isRegular && run.firstSeq >= 1 && run.lastSeq <= lastSeq);
}

/** The channels of a piece that may violate something, but for their once-only keys. */
export function suspectsOf(
  messages: MessageColumns,
  heads: HeadColumns,
  of: ShardIds,
): { readonly suspects: number[]; readonly hasStrays: boolean } {
  const suspects: number[] = [];
  let hasStrays = heads.hasStrayHeads;
  let begin = 0;
  for (const [index, key] of heads.keys.entries()) {
    for (; begin < messages.keys.length && (messages.keys[begin] ?? 0) < key; begin++) hasStrays = true;
    let end = begin;
    while (end < messages.keys.length && messages.keys[end] === key) end++;
    if (!isSound(runOf(messages, begin, end, of), heads.lastSeqs[index] ?? noHead, heads.swept[index] ?? 0))
      suspects.push(key);
    begin = end;
  }
  return { suspects, hasStrays: hasStrays || begin < messages.keys.length };
}

/**
 * Whether a value occurs twice. Sorts the values: an open hash table took half as long for a piece,
 * and twice as long for 2 million values of a large channel.
 */
export function hasRepeats(values: Float64Array): boolean {
  values.sort();
  for (let index = 1; index < values.length; index++) if (values[index] === values[index - 1]) return true;
  return false;
}

/** Heads of a shard as its tables have them: with or without a channel. */
export interface HeadRows {
  readonly keys: Float64Array;
  /** `noHead` where only swept messages are recorded. */
  readonly lastSeqs: Float64Array;
  readonly swept: Float64Array;
}

/** Joins the keys of channels, in their order, with the heads of their shard. */
export function joinHeads(keys: Float64Array, rows: HeadRows): HeadColumns {
  const lastSeqs = new Float64Array(keys.length).fill(noHead);
  const swept = new Float64Array(keys.length);
  let hasStrayHeads = false;
  let at = 0;
  for (const [index, key] of rows.keys.entries()) {
    while (at < keys.length && (keys[at] ?? 0) < key) at++;
    const lastSeq = rows.lastSeqs[index] ?? noHead;
    if (keys[at] !== key) hasStrayHeads ||= lastSeq !== noHead;
    else {
      lastSeqs[at] = lastSeq;
      swept[at] = rows.swept[index] ?? 0;
    }
  }
  return { keys, lastSeqs, swept, hasStrayHeads };
}

/** Keys of channels between two bounds. */
export interface KeyRange {
  /** Exclusive. */
  readonly afterKey: number;
  /** Inclusive; undefined: no end. */
  readonly lastKey: number | undefined;
}

/** Channels of a shard that are scanned by one statement, or one channel that is split. */
export interface CutPiece extends KeyRange {
  readonly heads: HeadColumns;
  readonly isLarge: boolean;
}

/**
 * Cuts channels of a shard into pieces of about `pieceMessages` messages by their heads. A channel
 * with more than that is a piece of its own. The pieces cover the whole range, so that keys without
 * a channel are found.
 */
export function cutPieces(heads: HeadColumns, range: KeyRange, pieceMessages: number): CutPiece[] {
  const pieces: CutPiece[] = [];
  let { afterKey } = range;
  let [begin, messages] = [0, 0];
  const close = (end: number, lastKey: number | undefined) => {
    pieces.push({ afterKey, lastKey, heads: sliceOf(heads, begin, end), isLarge: false });
    afterKey = lastKey ?? afterKey;
    [begin, messages] = [end, 0];
  };
  for (const [index, key] of heads.keys.entries()) {
    const kept = Math.max(0, (heads.lastSeqs[index] ?? 0) - (heads.swept[index] ?? 0));
    if (kept > pieceMessages) {
      if (index > begin || key - 1 > afterKey) close(index, key - 1);
      pieces.push({ afterKey, lastKey: key, heads: sliceOf(heads, index, index + 1), isLarge: true });
      [afterKey, begin] = [key, index + 1];
    } else {
      if (messages > 0 && messages + kept > pieceMessages) close(index, heads.keys[index - 1]);
      messages += kept;
    }
  }
  if (range.lastKey === undefined || range.lastKey > afterKey) close(heads.keys.length, range.lastKey);
  return pieces;
}

function sliceOf({ keys, lastSeqs, swept, hasStrayHeads }: HeadColumns, begin: number, end: number): HeadColumns {
  return {
    keys: keys.subarray(begin, end),
    lastSeqs: lastSeqs.subarray(begin, end),
    swept: swept.subarray(begin, end),
    hasStrayHeads,
  };
}
