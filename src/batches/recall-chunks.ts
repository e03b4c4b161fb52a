import type { RecallStored, StoredRef } from '../changes/recall-stored.ts';
import type { Db } from '../postgres/schema.ts';
import type { BatchResult } from './batch.ts';
import type { BatchRecall } from './batches.sql.ts';
import { type ClaimedBatch, readSentChunks, type SentChunk, settleRecall } from './claims.sql.ts';
import { clockErrorMs } from './send-chunk.ts';

/** Chunks per slot: about 0.3 s, so that progress is seen and other callers have their turns. */
const chunksPerSlot = 5;

/**
 * Recalls the messages of the next chunks of an ended batch. If the process is killed before the
 * chunks are marked, the next slot repeats them and finds their messages recalled.
 */
export async function recallChunks(
  { db, recallStored }: { readonly db: Db; readonly recallStored: RecallStored },
  batch: ClaimedBatch,
  { by, notBefore }: BatchRecall,
): Promise<void> {
  const chunks = await readSentChunks(db, batch.batchId, chunksPerSlot);
  const sent = chunks.map(sentBy);
  const counts = await recallStored(
    sent.flatMap(({ refs }) => refs),
    { by, notBefore },
  );
  const unnamed = sent.reduce((sum, each) => sum + each.unnamed, 0);
  await settleRecall(db, batch, {
    ordinals: chunks.map(({ ordinal }) => ordinal),
    counts: { ...counts, missing: counts.missing + unnamed },
  });
}

/**
 * The messages that a chunk has sent. A duplicate that an interrupted attempt may have stored is
 * one of them if it was accepted since the chunk's first attempt. `unnamed`: accepted messages that
 * no history has (commands, no_persist), or whose result an earlier version stored.
 */
function sentBy({ results, begunAt }: SentChunk): { readonly refs: readonly StoredRef[]; readonly unnamed: number } {
  const refs: StoredRef[] = [];
  let unnamed = 0;
  for (const result of JSON.parse(results) as BatchResult[]) {
    const { channelKey, messageSeq, duplicate, mayBeOwn, refusal } = result;
    if (refusal !== undefined || (duplicate && mayBeOwn !== true)) continue;
    if (channelKey !== undefined)
      refs.push({ channelKey, messageSeq, sentFrom: duplicate ? begunAt - clockErrorMs : 0 });
    else if (!duplicate) unnamed++;
  }
  return { refs, unnamed };
}
