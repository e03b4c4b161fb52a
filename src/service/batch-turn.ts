import { type BatchResult, draftsOf, isPassing, nextTry, refusedDrafts, resultOf, tallyOf } from '../domain/batch.ts';
import { type Caller, type Scope, scopes } from '../domain/caller.ts';
import { Failure, type Refusal } from '../domain/failure.ts';
import type { Outcome } from '../domain/plan.ts';
import type { TemplateText } from '../domain/template.ts';
import type { StoredBatch } from '../storage/batch.ts';
import {
  beginChunk,
  type ClaimedBatch,
  claimBatch,
  endBatch,
  nextDue,
  postponeBatch,
  type Settlement,
  type StoredChunk,
  settleChunk,
} from '../storage/batch-turn.ts';
import type { Db } from '../storage/database.ts';
import type { SendBatch } from './send-batch.ts';

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
export interface TurnParts {
  readonly db: Db;
  readonly sendBatch: SendBatch;
  /** Told of a batch that has moved. */
  readonly onMoved: (batchId: string) => void;
  /** Told of a chunk that failed for a reason that is nobody's refusal. */
  readonly onError: (error: unknown) => void;
  readonly now: () => number;
}

/** Sends one chunk of a caller's batches. Returns when the caller has something to do next; undefined: nothing is left. */
export function createTurn(parts: TurnParts): (callerId: string) => Promise<number | undefined> {
  const { db, onMoved, now } = parts;
  return async (callerId) => {
    const batch = await claimBatch(db, callerId, now());
    if (batch !== undefined) {
      try {
        await sendNext(parts, batch);
      } catch (error) {
        // The batch is not at fault when the database is away; whoever is, another try finds out.
        parts.onError(error);
        const stalledSince = batch.stalledSince ?? now();
        const retryAt = nextTry([], { attempts: batch.attempts, stalledSince, now: now() }) ?? now() + 60_000;
        await postponeBatch(db, batch, { dueAt: retryAt, stalledSince });
      }
      onMoved(batch.batchId);
    }
    return await nextDue(db, callerId);
  };
}

async function sendNext(parts: TurnParts, batch: ClaimedBatch): Promise<void> {
  const { db, now } = parts;
  const chunk = await beginChunk(db, batch);
  const isCancelling = batch.state === 'cancelling';
  if (chunk === undefined) return await endBatch(db, batch, isCancelling ? 'cancelled' : 'completed', now());
  // Cancelled while a worker that is gone had it: what that one had begun is sent to its end, for some of it may have been stored, and nobody would know.
  if (isCancelling && !chunk.begun) return await endBatch(db, batch, 'cancelled', now());
  const before = chunk.results === null ? [] : (JSON.parse(chunk.results) as BatchResult[]);
  const results = await tryChunk(parts, batch, chunk, before);
  await settleChunk(db, settle(batch, chunk, { before, results, now: now() }));
}

type Pending = ReturnType<typeof draftsOf>[number];

/** Halves that may fail while the message is sought that fails its chunk by a defect: one among 1,000 is found by 10. When all of them fail, it is no message's fault. */
const failuresOfSearch = 30;

/** Sends what has no lasting result yet; returns the results of the whole chunk, in its order. */
async function tryChunk(
  { sendBatch, onError }: TurnParts,
  batch: ClaimedBatch,
  chunk: StoredChunk,
  before: readonly BatchResult[],
): Promise<BatchResult[]> {
  const settled = new Map(before.filter((each) => !isPassing(each)).map((each) => [each.index, each]));
  const placed = draftsOf(chunk.drafts, batch.requestId === '' ? batch.batchId : batch.requestId);
  const pending = placed.filter(({ index }) => !settled.has(index));
  const templates = JSON.parse(batch.templates) as TemplateText[];
  const caller = toCaller(batch.caller as CallerSnapshot);
  // A defect may be of the moment, and is tried again as it was before it is sought.
  let mayFail = batch.attempts === 0 ? 0 : failuresOfSearch;
  const send = async (some: readonly Pending[]): Promise<readonly (Outcome | Refusal)[]> => {
    try {
      const messages = some.map(({ draft }) => draft);
      const options = { atomic: false, validateOnly: false, requestId: '', expectedLastSeqs: [] };
      return await sendBatch({ messages, templates, caller, ...options });
    } catch (error) {
      if (error instanceof Failure) return some.map(() => error.refusal);
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
  const outcomes = await send(pending);
  for (const [position, each] of pending.entries()) {
    const outcome = outcomes[position];
    if (outcome === undefined) throw new Error(`no outcome for message ${each.index} of batch ${batch.batchId}`);
    settled.set(each.index, resultOf(each, outcome, chunk.begun));
  }
  return placed.map(({ index }) => settled.get(index) as BatchResult);
}

/** A defect may be of the moment, and must not end a batch of which the rest can be sent: it is tried again as what passes is. */
const internal: Refusal = {
  reason: 'INTERNAL',
  message: 'an internal error; its cause is in the log',
  metadata: {},
  retryAfterMs: 1000,
};

/** What a try comes to: what is refused for now is tried again, until there was no progress for too long. */
function settle(
  batch: StoredBatch,
  chunk: StoredChunk,
  { before, results, now }: { before: readonly BatchResult[]; results: readonly BatchResult[]; now: number },
): Settlement {
  const passing = results.filter(isPassing);
  const done = tallyOf(before.filter((each) => !isPassing(each)));
  const progress = results.length - passing.length > done.accepted + done.duplicate + done.refused;
  const attempts = progress ? 0 : batch.attempts;
  const stalledSince = progress ? now : (batch.stalledSince ?? now);
  const others = passing.length < results.length;
  const retryAt = passing.length === 0 ? undefined : nextTry(passing, { attempts, stalledSince, now, others });
  const all = tallyOf(retryAt === undefined ? results : results.filter((each) => !isPassing(each)));
  return {
    batchId: batch.batchId,
    turn: batch.turn,
    ordinal: chunk.ordinal,
    results: JSON.stringify(retryAt === undefined ? results.map(lasting) : results),
    keptDrafts: retryAt === undefined ? refusedDrafts(chunk.drafts, results) : '',
    retryAt,
    counts: {
      accepted: all.accepted - done.accepted,
      duplicate: all.duplicate - done.duplicate,
      refused: all.refused - done.refused,
    },
    attempts: retryAt === undefined ? 0 : attempts + 1,
    stalledSince: retryAt === undefined ? null : stalledSince,
    lastRefusal: retryAt === undefined ? undefined : passing[0]?.refusal,
    now,
  };
}

/** Nobody tries it again. */
function lasting(result: BatchResult): BatchResult {
  if (!isPassing(result) || result.refusal === undefined) return result;
  const { retryAfterMs: _, ...refusal } = result.refusal;
  return { ...result, refusal };
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
