import type { Db } from '../postgres/schema.ts';
import { onShard } from '../postgres/shards.ts';
import { all } from '../postgres/sql.ts';
import { inTransaction } from '../postgres/transaction.ts';
import type { Store } from '../sending/group-context.ts';
import { batchRecallOf } from './change-rules.ts';
import { inOrder, lockChanges, lockTargets, type MessageRef, numberChanges, recall } from './changes.sql.ts';
import type { ChangesParts } from './changes.ts';

/** A message that a batch has stored, or found stored. */
export interface StoredRef extends MessageRef {
  /**
   * A message that was accepted earlier was sent by another call; milliseconds since 1970. 0: the
   * batch has sent it.
   */
  readonly sentFrom: number;
}

/** Outcomes of the messages of a batch, by number. */
export interface RecallCounts {
  /** Recalled, now or before. */
  readonly recalled: number;
  readonly tooOld: number;
  /** Sent by the batch, and expired or removed since. */
  readonly missing: number;
}

/**
 * Recalls messages of any channels that a batch has sent. Repeated calls return the same counts, so
 * that an interrupted recall can be repeated.
 */
export type RecallStored = (
  refs: readonly StoredRef[],
  options: {
    readonly by: string;
    /** Messages accepted earlier are too old; milliseconds since 1970. */
    readonly notBefore: number;
  },
) => Promise<RecallCounts>;

const nameOf = ({ channelKey, messageSeq }: MessageRef) => `${channelKey} ${messageSeq}`;

/** Messages per transaction, which holds the heads of their channels for about 30 ms. */
const messagesPerTransaction = 1000;

type RecallStoredParts = Pick<ChangesParts, 'onChanged' | 'keepsCopies' | 'sendCommands' | 'now'>;

export function createRecallStored(
  { db, shards, announces }: Store,
  { onChanged, keepsCopies, sendCommands, now = Date.now }: RecallStoredParts,
): RecallStored {
  const recallGroup = async (
    shardDb: Db,
    refs: readonly StoredRef[],
    { by, notBefore }: Parameters<RecallStored>[1],
  ): Promise<RecallCounts> => {
    const at = now();
    const keys = [...new Set(refs.map((ref) => ref.channelKey))];
    const { counts, recalled, before } = await inTransaction(
      shardDb,
      (tx) => all([lockChanges(tx, keys), lockTargets(tx, refs, at)]),
      (tx, [heads, targets]) => {
        const sentFrom = new Map(refs.map((ref) => [nameOf(ref), ref.sentFrom]));
        const verdicts = targets.map((target) =>
          batchRecallOf(target, { sentFrom: sentFrom.get(nameOf(target)) ?? 0, notBefore }),
        );
        const found = (verdict: (typeof verdicts)[number]) => targets.filter((_, index) => verdicts[index] === verdict);
        const ownFound = targets.filter((target) => sentFrom.get(nameOf(target)) === 0).length;
        const recalled = found('recall');
        const before = found('recalled');
        const numbered = numberChanges(recalled, heads);
        return {
          sent:
            numbered.length === 0
              ? []
              : [recall(tx, numbered, { by, now: at, announces: announces?.() ?? false, keepsCopies })],
          result: {
            recalled,
            before,
            counts: {
              recalled: recalled.length + before.length,
              tooOld: found('tooOld').length,
              missing: refs.filter((ref) => ref.sentFrom === 0).length - ownFound,
            },
          },
        };
      },
    );
    if (recalled.length > 0)
      onChanged([...new Set(recalled.map((target) => target.channelKey))], 'recalled', recalled.length);
    await sendCommands?.([...recalled, ...before]);
    return counts;
  };

  return async (refs, options) => {
    const distinct = new Map<string, StoredRef>();
    for (const ref of refs) {
      const other = distinct.get(nameOf(ref));
      if (other === undefined || ref.sentFrom < other.sentFrom) distinct.set(nameOf(ref), ref);
    }
    const sorted = [...distinct.values()].sort(inOrder);
    const sum = { recalled: 0, tooOld: 0, missing: 0 };
    for (const [shard, group] of shards.group(sorted, (ref) => ref.channelKey))
      for (let start = 0; start < group.length; start += messagesPerTransaction) {
        const part = group.slice(start, start + messagesPerTransaction);
        const counts = await recallGroup(onShard(db, shard), part, options);
        sum.recalled += counts.recalled;
        sum.tooOld += counts.tooOld;
        sum.missing += counts.missing;
      }
    return sum;
  };
}
