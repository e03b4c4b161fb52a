// Runs one slot of a caller: claims its next batch, sends one chunk, settles it. A slot of a batch
// that is recalled erases what some chunks have sent (recall-chunks.ts).
//
// Entry points: `createChunkRunner` (one slot), `stopBatches` (batches of ended keys). A slot of a
// batch that is cancelling only finishes the chunk that a dead worker left under way, since some of
// its messages may be stored. Retryable refusals stay in the chunk until they succeed, or become
// final after a day without progress.

import { hash } from 'node:crypto';
import type { RecallStored } from '../changes/recall-stored.ts';
import type { Outcome } from '../messages/append-plan.ts';
import { type Channel, messageSequence } from '../messages/channel.ts';
import { prepareMessage } from '../messages/message.ts';
import { type Refusal, ServiceError } from '../messages/service-error.ts';
import type { BatchCounts } from '../observability/events/batch-counts.ts';
import type { Db } from '../postgres/schema.ts';
import type { SendBatch } from '../sending/send-batch.ts';
import { minuteMs } from '../time.ts';
import {
  type BatchResult,
  type ChunkDraft,
  countResults,
  decodeDrafts,
  isRetryable,
  mustHoldBatch,
  nextRetryDelayMs,
  retryAt,
  selectRefusedDrafts,
  toResult,
} from './batch.ts';
import {
  beginChunk,
  type ChunkWait,
  type ClaimedBatch,
  cancelClaimedBatch,
  claimBatch,
  findKeyEnd,
  type KeyEnd,
  postponeBatch,
  rescheduleBatch,
  type Settlement,
  type StoredChunk,
  settleChunk,
  stopBatchesOfEndedKeys,
} from './claims.sql.ts';
import { findNextDue } from './due.sql.ts';
import { recallChunks } from './recall-chunks.ts';
import { findStoredEarlier, type SendChunkParts, sendChunk } from './send-chunk.ts';

/** Dependencies of a slot. */
export interface ChunkRunnerParts extends SendChunkParts {
  readonly db: Db;
  /** Called after a batch changed. */
  readonly onBatchChange: (batchId: string) => void;
  readonly recallStored: RecallStored;
  /** The keys of channels, by channel key text. */
  readonly findKeys: (channels: readonly Channel[]) => Promise<ReadonlyMap<string, number>>;
  /** The database's time, in milliseconds since 1970. */
  readonly now: () => number;
}

/** The result of a slot. */
export interface SlotResult {
  /** Whether a batch was due. */
  readonly hadBatch: boolean;
  /** When the caller's next batch is due; undefined: it has none. */
  readonly dueAt: number | undefined;
}

/** Creates a function that runs one slot: it sends one chunk of a caller's batches. */
export function createChunkRunner(parts: ChunkRunnerParts): (callerId: string) => Promise<SlotResult> {
  const { db, onBatchChange, now } = parts;
  return async (callerId) => {
    const batch = await claimBatch(db, callerId);
    if (batch !== undefined) {
      try {
        await runSlot(parts, batch);
      } catch (error) {
        // Mostly the database is unreachable, so the batch is retried without a limit of attempts.
        parts.onError(error);
        const stalledSince = batch.stalledSince ?? now();
        const delayMs = nextRetryDelayMs([], { attempts: batch.attempts, stalledSince, now: now() }) ?? minuteMs;
        await postponeBatch(db, batch, { delayMs, stalledSince });
      }
      onBatchChange(batch.batchId);
    }
    return { hadBatch: batch !== undefined, dueAt: await findNextDue(db, callerId) };
  };
}

async function runSlot(parts: ChunkRunnerParts, batch: ClaimedBatch): Promise<void> {
  const { db } = parts;
  // The right to recall was checked with the request, so a revoked key of the batch does not matter.
  if (batch.endedAt !== null && batch.recall !== null) return await recallChunks(parts, batch, batch.recall);
  const keyEnd = await findKeyEnd(db, batch.callerId);
  if (keyEnd !== undefined) return await stopForEndedKey(parts, batch, keyEnd);
  const isCancelling = batch.state === 'cancelling';
  const chunk = await beginChunk(db, batch, isCancelling ? 'underWay' : 'ready');
  if (chunk === undefined) return isCancelling ? await cancelClaimedBatch(db, batch) : await rescheduleBatch(db, batch);
  const earlierResults = parseResults(chunk);
  const attempt = await attemptChunk(parts, batch, chunk, earlierResults);
  await settleChunk(db, planSettlement(batch, chunk, earlierResults, attempt));
}

/**
 * Cancels a batch whose key has ended. Messages that a dead worker stored still get their results.
 */
async function stopForEndedKey(parts: ChunkRunnerParts, batch: ClaimedBatch, keyEnd: KeyEnd): Promise<void> {
  const { db } = parts;
  const chunk = await beginChunk(db, batch, 'underWay');
  if (chunk !== undefined) {
    const earlierResults = parseResults(chunk);
    const attempt = await attemptChunk({ ...parts, sendBatch: sendNothing }, batch, chunk, earlierResults);
    // As a first attempt: messages that are not stored must end without a result, not as refused.
    const restarted = { ...chunk, attempts: 0, stalledSince: null };
    await settleChunk(db, planSettlement(batch, restarted, earlierResults, attempt));
  }
  await cancelClaimedBatch(db, batch, keyEndedRefusal(keyEnd));
}

/** Refuses all messages with a retryable reason; those found stored get their results. */
const sendNothing: SendBatch = async () => {
  throw new ServiceError({ reason: 'CREDENTIAL_INVALID', message: 'not sent', metadata: {}, retryAfterMs: 1 });
};

/** The reason of a batch that was stopped because its key ended. */
function keyEndedRefusal(keyEnd: KeyEnd): Refusal {
  return {
    reason: 'CREDENTIAL_INVALID',
    message: `the API key that submitted the batch ${keyEnd === 'revoked' ? 'was revoked' : 'has expired'}; messages without a result were not sent: submit them with another key`,
    metadata: { key: keyEnd },
  };
}

/** Stops the batches of all revoked and expired keys, or of one key; returns their ids. */
export async function stopBatches(db: Db, keyId?: string): Promise<string[]> {
  return await stopBatchesOfEndedKeys(db, keyEndedRefusal, keyId);
}

function parseResults({ results }: StoredChunk): readonly BatchResult[] {
  return results === null ? [] : (JSON.parse(results) as BatchResult[]);
}

/** The result of one attempt of a chunk. */
interface ChunkAttempt {
  /** Results of all messages attempted now or before, in the order of the chunk. */
  readonly results: readonly BatchResult[];
  /** Number of messages sent now. */
  readonly sent: number;
  /** Results of this attempt with a retryable refusal. */
  readonly refusedNow: readonly BatchResult[];
  /** Number of messages without a result, because an earlier one of their pair waits. */
  readonly heldBack: number;
  /** Pairs of sender and channel that wait. */
  readonly waitingPairs: readonly string[];
  readonly now: number;
}

/** Sends the messages of a chunk that have no final result and are not behind a waiting message. */
async function attemptChunk(
  { sendBatch, findStored, findKeys, onError, now }: ChunkRunnerParts,
  batch: ClaimedBatch,
  chunk: StoredChunk,
  earlierResults: readonly BatchResult[],
): Promise<ChunkAttempt> {
  const resultByIndex = new Map(earlierResults.map((each) => [each.index, each]));
  const drafts = decodeDrafts(chunk.drafts, batch.requestId === '' ? batch.batchId : batch.requestId);
  const triedAt = now();
  const { pending, heldBack, waitingPairs } = selectPending(drafts, resultByIndex, chunk, triedAt);
  const outcomes = await sendChunk({ sendBatch, onError }, batch, chunk, pending);
  const stored = chunk.isBegun
    ? await findStoredEarlier(findStored, chunk, pending, outcomes)
    : new Map<number, Outcome>();
  const finalOutcomes = pending.map((each, position) => stored.get(each.index) ?? outcomes[position]);
  const channels = finalOutcomes.map(channelOf);
  const keys = await findKeys(channels.filter((each) => each !== undefined));
  const refusedNow: BatchResult[] = [];
  for (const [position, each] of pending.entries()) {
    const outcome = finalOutcomes[position];
    if (outcome === undefined) throw new Error(`no outcome for message ${each.index} of batch ${batch.batchId}`);
    const result = toResult(each, outcome, chunk.isBegun, keys.get(channels[position]?.key ?? ''));
    if (isRetryable(result)) {
      const timed = { ...result, triedAt };
      resultByIndex.set(each.index, timed);
      refusedNow.push(timed);
      waitingPairs.add(hashPair(each));
    } else resultByIndex.set(each.index, result);
  }
  const results = drafts.flatMap(({ index }) => resultByIndex.get(index) ?? []);
  return { results, sent: pending.length, refusedNow, heldBack, waitingPairs: [...waitingPairs], now: now() };
}

/** The channel whose history has the message of an outcome; undefined: it is in none. */
function channelOf(outcome: Outcome | Refusal | undefined): Channel | undefined {
  if (outcome === undefined || 'reason' in outcome || outcome.kind === 'refused') return undefined;
  const { message, messageSeq } = outcome;
  return messageSeq > 0 && message.channel.sequence === messageSequence ? message.channel : undefined;
}

/**
 * Selects the messages to send now. A message behind a waiting one of its pair waits too, so that a
 * sender's messages in a channel stay in order.
 */
function selectPending(
  drafts: readonly ChunkDraft[],
  resultByIndex: ReadonlyMap<number, BatchResult>,
  { blockingPairs }: StoredChunk,
  now: number,
): { pending: ChunkDraft[]; heldBack: number; waitingPairs: Set<string> } {
  const waitingPairs = new Set<string>();
  const blockedPairs = new Set(blockingPairs);
  const pending: ChunkDraft[] = [];
  // A first attempt without blockers needs no pairs: hashing them costs more than the rest.
  const needsPairs = blockedPairs.size > 0 || resultByIndex.size > 0;
  let heldBack = 0;
  for (const each of drafts) {
    const result = resultByIndex.get(each.index);
    if (result !== undefined && !isRetryable(result)) continue;
    const pair = needsPairs ? hashPair(each) : undefined;
    const isEarly = result !== undefined && retryAt(result) > now;
    if (!isEarly && (pair === undefined || !blockedPairs.has(pair))) {
      pending.push(each);
      continue;
    }
    if (pair !== undefined) {
      blockedPairs.add(pair);
      waitingPairs.add(pair);
    }
    if (result === undefined) heldBack++;
  }
  return { pending, heldBack, waitingPairs };
}

/** A short hash of a message's sender and channel. */
function hashPair({ draft }: ChunkDraft): string {
  const { channel, fromUid } = prepareMessage(draft, draft.clientMsgNo);
  return hash('sha256', JSON.stringify([channel.key, fromUid]), 'base64url').slice(0, 12);
}

/**
 * Decides the effects of an attempt: final results, counts, and whether and how long the chunk
 * waits.
 */
function planSettlement(
  batch: ClaimedBatch,
  chunk: StoredChunk,
  earlierResults: readonly BatchResult[],
  attempt: ChunkAttempt,
): Settlement {
  const { results, sent, refusedNow, heldBack, waitingPairs, now } = attempt;
  const retryable = results.filter(isRetryable);
  const countsBefore = countResults(earlierResults.filter((each) => !isRetryable(each)));
  const finalBefore = countsBefore.accepted + countsBefore.duplicates + countsBefore.refused;
  // Messages that only wait for others make no failed attempt.
  const hasProgress = retryable.length === 0 || results.length - retryable.length > finalBefore;
  const attempts = hasProgress ? 0 : chunk.attempts;
  const stalledSince = hasProgress ? now : (chunk.stalledSince ?? now);
  const hasOtherResults = retryable.length < results.length;
  const retryDelayMs =
    retryable.length === 0 ? undefined : nextRetryDelayMs(retryable, { attempts, stalledSince, now, hasOtherResults });
  const givesUp = retryable.length > 0 && retryDelayMs === undefined;
  const newResults = givesUp ? results.map(withoutRetry) : results;
  const counts = countResults(newResults.filter((each) => !isRetryable(each)));
  const isFinal = heldBack === 0 && retryDelayMs === undefined;
  const stillWaiting = new Set(isFinal ? [] : waitingPairs);
  const wait: ChunkWait | undefined = isFinal
    ? undefined
    : {
        pairs: [...stillWaiting],
        // Messages behind refusals that became final are sent at once; behind an earlier chunk,
        // when that unblocks them.
        delayMs: givesUp ? 0 : retryDelayMs,
        holdsBatch: retryDelayMs !== undefined && mustHoldBatch(refusedNow, sent),
        attempts: retryDelayMs === undefined ? 0 : attempts + 1,
        stalledSince: retryDelayMs === undefined ? now : stalledSince,
        lastRefusal: retryDelayMs === undefined ? undefined : (refusedNow[0] ?? retryable[0])?.refusal,
      };
  return {
    batchId: batch.batchId,
    fencingToken: batch.fencingToken,
    ordinal: chunk.ordinal,
    results: JSON.stringify(newResults),
    keptDrafts: isFinal ? selectRefusedDrafts(chunk.drafts, newResults) : '',
    counts: subtract(counts, countsBefore),
    wait,
    unblocksOthers: chunk.waitingPairs.some((pair) => !stillWaiting.has(pair)),
  };
}

function subtract(counts: BatchCounts, before: BatchCounts): BatchCounts {
  return {
    accepted: counts.accepted - before.accepted,
    duplicates: counts.duplicates - before.duplicates,
    refused: counts.refused - before.refused,
  };
}

/** Makes a retryable refusal final. */
function withoutRetry(result: BatchResult): BatchResult {
  if (!isRetryable(result) || result.refusal === undefined) return result;
  const { retryAfterMs: _retryAfterMs, ...refusal } = result.refusal;
  const { triedAt: _triedAt, ...rest } = result;
  return { ...rest, refusal };
}
