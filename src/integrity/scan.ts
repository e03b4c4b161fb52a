/**
 * The fast pass of `verify`, over columns: which channels may violate something. It may suspect a
 * sound channel, and misses none for which `violationsOf` has something to say: a test compares
 * both on random damage.
 */

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

/**
 * Header of an array in PostgreSQL's binary format: dimensions, flags, type, length, lower bound.
 */
const headerBytes = 20;
/** The length of the element, and a bigint. */
const elementBytes = 12;
const high = 2 ** 32;

/** A bigint[] in PostgreSQL's binary format. Values above 2^53 are rounded, and stay above. */
export function int8Values(packed: Buffer | null | undefined): Float64Array {
  const values = new Float64Array(countOf(packed));
  if (packed)
    for (let index = 0, at = headerBytes + 4; index < values.length; index++, at += elementBytes)
      values[index] = packed.readInt32BE(at) * high + packed.readUInt32BE(at + 4);
  return values;
}

/** The lower 53 bits of hashes. */
export function hashValues(packed: Buffer | null | undefined): Float64Array {
  const values = new Float64Array(countOf(packed));
  if (packed)
    for (let index = 0, at = headerBytes + 4; index < values.length; index++, at += elementBytes)
      values[index] = (packed.readUInt32BE(at) & 0x1fffff) * high + packed.readUInt32BE(at + 4);
  return values;
}

function countOf(packed: Buffer | null | undefined): number {
  return packed ? (packed.length - headerBytes) / elementBytes : 0;
}

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

/** Scans the messages from `begin` to before `end`, which belong to one channel. */
export function runOf({ seqs, ids }: MessageColumns, begin: number, end: number): Run {
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
    isRegular,
  };
}

/** Joins the runs of a channel's segments, in their order. */
export function joinRuns(runs: readonly Run[]): Run {
  let joined: Run = runOf({ seqs: none, ids: none, keys: none, indexedHashes: none, sentHashes: none }, 0, 0);
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

const none = new Float64Array(0);

/** Whether a channel with this head is sound, but for its once-only keys. */
export function isSound(run: Run, lastSeq: number, swept: number): boolean {
  if (lastSeq === noHead || run.count + swept !== lastSeq) return false;
  return run.count === 0 || (run.isRegular && run.firstSeq >= 1 && run.lastSeq <= lastSeq);
}

/** The channels of a piece that may violate something, but for their once-only keys. */
export function suspectsOf(
  messages: MessageColumns,
  heads: HeadColumns,
): { readonly suspects: number[]; readonly hasStrays: boolean } {
  const suspects: number[] = [];
  let hasStrays = heads.hasStrayHeads;
  let begin = 0;
  for (const [index, key] of heads.keys.entries()) {
    for (; begin < messages.keys.length && (messages.keys[begin] ?? 0) < key; begin++) hasStrays = true;
    let end = begin;
    while (end < messages.keys.length && messages.keys[end] === key) end++;
    if (!isSound(runOf(messages, begin, end), heads.lastSeqs[index] ?? noHead, heads.swept[index] ?? 0))
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
