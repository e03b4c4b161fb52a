import { hash } from 'node:crypto';
import type { Earlier, Outcome } from '../messages/append-plan.ts';
import { type Caller, type Scope, scopes } from '../messages/caller.ts';
import { type PreparedMessage, prepareMessage } from '../messages/message.ts';
import { type Refusal, ServiceError } from '../messages/service-error.ts';
import type { Db } from '../postgres/schema.ts';
import type { SendBatch } from '../sending/send-batch.ts';
import type { TemplateText } from '../templates/template.ts';
import {
  type BatchResult,
  countResults,
  draftsOf,
  dueAgainAt,
  holdsBatch,
  isRetryable,
  nextTryIn,
  refusedDrafts,
  resultOf,
} from './batch.ts';
import type { StoredBatch } from './batches.sql.ts';
import {
  beginChunk,
  type ChunkWait,
  type ClaimedBatch,
  callerEnd,
  claimBatch,
  endBatch,
  nextDue,
  postponeBatch,
  restBatch,
  type Settlement,
  type StoredChunk,
  settleChunk,
  stopBatchesOfEndedKeys,
} from './claims.sql.ts';

/** A caller as it stands in its batch. */
export interface CallerSnapshot {
  readonly id: string;
  readonly name: string;
  readonly kind: Caller['kind'];
  readonly scopes: readonly Scope[];
  readonly senders?: readonly string[];
  readonly ratePerSecond?: number;
}

/** What a turn needs. */
export interface ChunkRunnerParts {
  readonly db: Db;
  readonly sendBatch: SendBatch;
  /** Finds messages among these that are stored, by message key. */
  readonly findStored: (messages: readonly PreparedMessage[]) => Promise<ReadonlyMap<string, Earlier>>;
  /** Called when a batch has moved. */
  readonly onMoved: (batchId: string) => void;
  /** Called for a chunk that failed for a reason that is no refusal of a message. */
  readonly onError: (error: unknown) => void;
  /** The database's clock. */
  readonly now: () => number;
}

/** What a turn found. */
export interface ChunkEnd {
  /** Whether there was a batch to send. */
  readonly worked: boolean;
  /** When the caller has something to do next; undefined: nothing is left. */
  readonly dueAt: number | undefined;
}

/** Sends one chunk of a caller's batches. */
export function createChunkRunner(parts: ChunkRunnerParts): (callerId: string) => Promise<ChunkEnd> {
  const { db, onMoved, now } = parts;
  return async (callerId) => {
    const batch = await claimBatch(db, callerId);
    if (batch !== undefined) {
      try {
        await sendNext(parts, batch);
      } catch (error) {
        // The batch is not at fault when the database is away; otherwise another try finds out.
        parts.onError(error);
        const stalledSince = batch.stalledSince ?? now();
        const delayMs = nextTryIn([], { attempts: batch.attempts, stalledSince, now: now() }) ?? 60_000;
        await postponeBatch(db, batch, { delayMs, stalledSince });
      }
      onMoved(batch.batchId);
    }
    return { worked: batch !== undefined, dueAt: await nextDue(db, callerId) };
  };
}

async function sendNext(parts: ChunkRunnerParts, batch: ClaimedBatch): Promise<void> {
  const { db } = parts;
  const end = await callerEnd(db, batch.callerId);
  if (end !== undefined) return await stop(parts, batch, end);
  // Cancelled while a worker that is gone had it: what that one had begun is sent to its end, for some of it may have been stored, and nobody would know.
  const isCancelling = batch.state === 'cancelling';
  const chunk = await beginChunk(db, batch, isCancelling ? 'underWay' : 'ready');
  if (chunk === undefined) return isCancelling ? await endBatch(db, batch) : await restBatch(db, batch);
  const before = chunk.results === null ? [] : (JSON.parse(chunk.results) as BatchResult[]);
  await settleChunk(db, settle(batch, chunk, before, await tryChunk(parts, batch, chunk, before)));
}

/** The credential of the batch's caller has ended: nothing more is sent. What a worker that is gone has stored gets its results. */
async function stop(parts: ChunkRunnerParts, batch: ClaimedBatch, end: 'revoked' | 'expired'): Promise<void> {
  const { db } = parts;
  const chunk = await beginChunk(db, batch, 'underWay');
  if (chunk !== undefined) {
    const before = chunk.results === null ? [] : (JSON.parse(chunk.results) as BatchResult[]);
    const tried = await tryChunk({ ...parts, sendBatch: sendNothing }, batch, chunk, before);
    // None of them is given up: those that are not found have no result.
    await settleChunk(db, settle(batch, { ...chunk, attempts: 0, stalledSince: null }, before, tried));
  }
  await endBatch(db, batch, callerEnded(end));
}

/** Leaves all messages without a result, but for those that are found stored. */
const sendNothing: SendBatch = async () => {
  throw new ServiceError({ reason: 'CREDENTIAL_INVALID', message: 'not sent', metadata: {}, retryAfterMs: 1 });
};

/** Why a batch was stopped. */
function callerEnded(end: 'revoked' | 'expired'): Refusal {
  return {
    reason: 'CREDENTIAL_INVALID',
    message: `the API key that submitted the batch ${end === 'revoked' ? 'was revoked' : 'has expired'}; messages without a result were not sent: submit them with another key`,
    metadata: { key: end },
  };
}

/** Stops the batches of keys that were revoked or have expired, or of one of them; returns their ids. */
export async function stopBatches(db: Db, keyId?: string): Promise<string[]> {
  return await stopBatchesOfEndedKeys(db, callerEnded, keyId);
}

type Pending = ReturnType<typeof draftsOf>[number];

/** Halves that may fail while the message is sought that fails its chunk by a defect: one among 1,000 is found by 10. When all of them fail, it is no message's fault. */
const failuresOfSearch = 30;

/** A try of a chunk. */
interface Tried {
  /** Of all messages that were tried, now or before, in the order of the chunk. */
  readonly results: readonly BatchResult[];
  /** How many were tried now, and those of them that are to be tried again. */
  readonly sent: number;
  readonly refusedNow: readonly BatchResult[];
  /** Messages that were not tried, since another one of their sender and channel waits before them. */
  readonly held: number;
  /** The pairs of sender and channel that wait. */
  readonly pairs: readonly string[];
  readonly now: number;
}

/** Sends what has no lasting result yet, and is not behind a message that waits. */
async function tryChunk(
  { sendBatch, findStored, onError, now }: ChunkRunnerParts,
  batch: ClaimedBatch,
  chunk: StoredChunk,
  before: readonly BatchResult[],
): Promise<Tried> {
  const known = new Map(before.map((each) => [each.index, each]));
  const placed = draftsOf(chunk.drafts, batch.requestId === '' ? batch.batchId : batch.requestId);
  const triedAt = now();
  const waiting = new Set<string>();
  const blocked = new Set(chunk.blockers);
  const pending: Pending[] = [];
  let held = 0;
  for (const each of placed) {
    const result = known.get(each.index);
    if (result !== undefined && !isRetryable(result)) continue;
    const pair = blocked.size === 0 && before.length === 0 ? undefined : pairOf(each);
    const isEarly = result !== undefined && dueAgainAt(result) > triedAt;
    if (!isEarly && (pair === undefined || !blocked.has(pair))) {
      pending.push(each);
      continue;
    }
    // Those behind it wait with it: messages of a sender in a channel stay in their order.
    if (pair !== undefined) {
      blocked.add(pair);
      waiting.add(pair);
    }
    if (result === undefined) held++;
  }
  const outcomes = await sendSome({ sendBatch, onError }, batch, chunk, pending);
  const refusedNow: BatchResult[] = [];
  const stored = chunk.begun ? await storedBefore(findStored, chunk, pending, outcomes) : new Map<number, Outcome>();
  for (const [position, each] of pending.entries()) {
    const outcome = stored.get(each.index) ?? outcomes[position];
    if (outcome === undefined) throw new Error(`no outcome for message ${each.index} of batch ${batch.batchId}`);
    const result = resultOf(each, outcome, chunk.begun);
    const isWaiting = isRetryable(result);
    const kept = isWaiting ? { ...result, triedAt } : result;
    known.set(each.index, kept);
    if (!isWaiting) continue;
    refusedNow.push(kept);
    waiting.add(pairOf(each));
  }
  const results = placed.flatMap(({ index }) => known.get(index) ?? []);
  return { results, sent: pending.length, refusedNow, held, pairs: [...waiting], now: now() };
}

/** An outcome or a refusal per message. */
async function sendSome(
  { sendBatch, onError }: Pick<ChunkRunnerParts, 'sendBatch' | 'onError'>,
  batch: ClaimedBatch,
  chunk: StoredChunk,
  pending: readonly Pending[],
): Promise<readonly (Outcome | Refusal)[]> {
  const templates = JSON.parse(batch.templates) as TemplateText[];
  const caller = toCaller(batch.caller as CallerSnapshot);
  // A defect may be of the moment, and is tried again as it was before it is sought.
  let mayFail = chunk.attempts === 0 ? 0 : failuresOfSearch;
  const send = async (some: readonly Pending[]): Promise<readonly (Outcome | Refusal)[]> => {
    if (some.length === 0) return [];
    try {
      const messages = some.map(({ draft }) => draft);
      const options = { atomic: false, validateOnly: false, requestId: '', expectedLastSeqs: [], at: chunk.dueAt };
      return await sendBatch({ messages, templates, caller, ...options });
    } catch (error) {
      if (error instanceof ServiceError) return some.map(() => error.refusal);
      if (some.length === 1 || mayFail === 0) {
        onError(error);
        return some.map(() => internal);
      }
      mayFail--;
      const half = Math.ceil(some.length / 2);
      // One after the other: messages of a channel stay in their order.
      return [...(await send(some.slice(0, half))), ...(await send(some.slice(half)))];
    }
  };
  return await send(pending);
}

/** Clocks follow the database's within a round trip. */
const clockErrorMs = 1000;

/**
 * Of a chunk that is sent again: what an earlier try has stored of what is refused now. A template, a right or a rule may have changed since; the message is there all the same, and that is its
 * result. What was accepted before the chunk began is another call's.
 */
async function storedBefore(
  findStored: ChunkRunnerParts['findStored'],
  chunk: StoredChunk,
  pending: readonly Pending[],
  outcomes: readonly (Outcome | Refusal)[],
): Promise<Map<number, Outcome>> {
  const doubtful = pending.flatMap((each, position) => {
    const outcome = outcomes[position];
    if (outcome === undefined || (!('reason' in outcome) && outcome.kind !== 'refused')) return [];
    return [{ index: each.index, message: prepareMessage(each.draft, each.draft.clientMsgNo) }];
  });
  if (doubtful.length === 0) return new Map();
  const found = await findStored(doubtful.map(({ message }) => message));
  return new Map(
    doubtful.flatMap(({ index, message }) => {
      const earlier = found.get(message.key);
      if (earlier === undefined || earlier.acceptedAt < chunk.begunAt - clockErrorMs) return [];
      const { messageId, messageSeq } = earlier;
      return [[index, { kind: 'duplicate', message, messageId, messageSeq }] as const];
    }),
  );
}

/** A message's sender and channel, as a short text. */
function pairOf({ draft }: Pending): string {
  const { channel, fromUid } = prepareMessage(draft, draft.clientMsgNo);
  return hash('sha256', JSON.stringify([channel.key, fromUid]), 'base64url').slice(0, 12);
}

/** A defect may be of the moment, and must not end a batch of which the rest can be sent: it is tried again as what passes is. */
const internal: Refusal = {
  reason: 'INTERNAL',
  message: 'internal error; the cause is in the log',
  metadata: {},
  retryAfterMs: 1000,
};

/** What a try comes to: what is refused for now is tried again, until there was no progress for too long. */
function settle(batch: StoredBatch, chunk: StoredChunk, before: readonly BatchResult[], tried: Tried): Settlement {
  const { results, sent, refusedNow, held, pairs, now } = tried;
  const passing = results.filter(isRetryable);
  const done = countResults(before.filter((each) => !isRetryable(each)));
  // What waits for others alone is not at fault.
  const isFresh =
    passing.length === 0 || results.length - passing.length > done.accepted + done.duplicate + done.refused;
  const attempts = isFresh ? 0 : chunk.attempts;
  const stalledSince = isFresh ? now : (chunk.stalledSince ?? now);
  const others = passing.length < results.length;
  const tryIn = passing.length === 0 ? undefined : nextTryIn(passing, { attempts, stalledSince, now, others });
  const givesUp = passing.length > 0 && tryIn === undefined;
  const lastly = givesUp ? results.map(lasting) : results;
  const all = countResults(lastly.filter((each) => !isRetryable(each)));
  const isFinal = held === 0 && tryIn === undefined;
  const waits = new Set(isFinal ? [] : pairs);
  const wait: ChunkWait | undefined = isFinal
    ? undefined
    : {
        pairs: [...waits],
        // Behind what is given up now they go at once; behind another chunk's messages, when those do.
        delayMs: givesUp ? 0 : tryIn,
        holdsBatch: tryIn !== undefined && holdsBatch(refusedNow, sent),
        attempts: tryIn === undefined ? 0 : attempts + 1,
        stalledSince: tryIn === undefined ? now : stalledSince,
        lastRefusal: tryIn === undefined ? undefined : (refusedNow[0] ?? passing[0])?.refusal,
      };
  return {
    batchId: batch.batchId,
    turn: batch.turn,
    ordinal: chunk.ordinal,
    results: JSON.stringify(lastly),
    keptDrafts: isFinal ? refusedDrafts(chunk.drafts, lastly) : '',
    counts: {
      accepted: all.accepted - done.accepted,
      duplicate: all.duplicate - done.duplicate,
      refused: all.refused - done.refused,
    },
    wait,
    frees: chunk.waiting.some((pair) => !waits.has(pair)),
  };
}

/** Nobody tries it again. */
function lasting(result: BatchResult): BatchResult {
  if (!isRetryable(result) || result.refusal === undefined) return result;
  const { retryAfterMs: _, ...refusal } = result.refusal;
  const { triedAt: __, ...rest } = result;
  return { ...rest, refusal };
}

export function snapshotOf({ id, name, kind, scopes: granted, senders, ratePerSecond }: Caller): CallerSnapshot {
  return {
    id,
    name,
    kind,
    scopes: scopes.filter((each) => granted.has(each)),
    ...(senders === undefined ? {} : { senders: [...senders] }),
    ...(ratePerSecond === undefined ? {} : { ratePerSecond }),
  };
}

function toCaller({ scopes: granted, senders, ...rest }: CallerSnapshot): Caller {
  return { ...rest, scopes: new Set(granted), ...(senders === undefined ? {} : { senders: new Set(senders) }) };
}
