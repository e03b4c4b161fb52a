// Background batches: a caller submits up to 100,000 messages, and workers send them.
//
// Entry points: `createBatches` (this file: submit, get, list, results, cancel, retry, resume),
// `createBatchWatch` (watch.ts), `createChunkRunner` (run-chunk.ts: one slot of a worker),
// `openJobs` (job-queue.sql.ts: which caller has a slot when). States: batch.ts for batches,
// claims.sql.ts for chunks. Invariants:
//  1. A batch exists for callers once `queueBatch` commits; an abandoned submission leaves nothing.
//  2. A caller has one slot at a time over all instances, and a slot sends one chunk.
//  3. Other callers get BATCH_NOT_FOUND for a batch, whether it exists or not; admins see all.

import { limits } from '../limits.ts';
import type { Caller } from '../messages/caller.ts';
import type { Channel } from '../messages/channel.ts';
import { readNames } from '../messages/channel-keys.sql.ts';
import { bytesOf } from '../messages/page.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Db } from '../postgres/schema.ts';
import type { TemplateText } from '../templates/template.ts';
import {
  type BatchDraft,
  type BatchPriority,
  type BatchResult,
  type BatchState,
  decodeDrafts,
  isRetryable,
  selectRefusedDrafts,
  selectUnsentDrafts,
  slotCost,
} from './batch.ts';
import {
  cancelBatch,
  countUnfinished,
  findBatch,
  listBatches,
  readResults,
  readTemplates,
  readUnsentChunk,
  requestRecall,
  type StoredBatch,
} from './batches.sql.ts';
import { createSubmission, type Submission, type SubmissionParts, type SubmitCall } from './submission.ts';

export type { StoredBatch };

/** A page of results. `next`: the cursor of the next page, if there is one. */
export interface ResultsPage {
  readonly results: readonly BatchResult[];
  readonly next: ResultsCursor | undefined;
  /** The channels of stored messages, by the keys in their results. */
  readonly channels: ReadonlyMap<number, Channel>;
}

/** A position in the results: a chunk in sending order, and its results to skip. */
export interface ResultsCursor {
  readonly dueAt: number;
  readonly ordinal: number;
  readonly skip: number;
}

/** Use cases of background batches. */
export interface Batches {
  open(call: SubmitCall): Promise<Submission>;
  get(caller: Caller, batchId: string): Promise<StoredBatch>;
  list(
    caller: Caller,
    page: {
      readonly states: readonly BatchState[];
      readonly before: { readonly createdAt: number; readonly batchId: string } | undefined;
      readonly limit: number;
    },
  ): Promise<StoredBatch[]>;
  listResults(
    caller: Caller,
    batchId: string,
    page: {
      readonly from: ResultsCursor;
      readonly refusedOnly: boolean;
      readonly limit: number;
      /** Aborts when the caller disconnects: a page of refused results may take a long search. */
      readonly signal: AbortSignal;
    },
  ): Promise<ResultsPage>;
  cancel(caller: Caller, batchId: string): Promise<StoredBatch>;
  /**
   * Cancels what is left and recalls what was sent, in the background. A repeated call changes
   * nothing.
   */
  recall(caller: Caller, batchId: string): Promise<StoredBatch>;
  /** Submits the refused messages of an ended batch as a new batch, under the same keys. */
  retry(caller: Caller, batchId: string, signal: AbortSignal): Promise<Resubmitted>;
  /**
   * Submits what a cancelled batch has not sent as a new batch, under the same keys; with `sendAt`
   * all at that time.
   */
  resume(
    caller: Caller,
    batchId: string,
    options: { readonly sendAt: number | undefined; readonly signal: AbortSignal },
  ): Promise<Resubmitted>;
}

type Resubmitted = Awaited<ReturnType<Submission['commit']>>;

export interface BatchesParts extends Omit<SubmissionParts, 'now'> {
  /** Called after a batch changed. */
  readonly onBatchChange: (batchId: string) => void;
  /** Milliseconds in which a batch's caller may recall its messages. */
  readonly recallWindowMs: number;
  readonly now?: () => number;
}

/** Chunks per read for a page of results. Pages of refused results skip most of what they read. */
const chunksPerRead = 2;
const chunksPerRefusedRead = 10;

export function createBatches(parts: BatchesParts): Batches {
  const { db, onBatchChange, now = Date.now } = parts;

  /** Finds a batch of this caller, or any batch for an admin. */
  async function find(caller: Caller, batchId: string): Promise<StoredBatch> {
    const batch = await orBusy(() => findBatch(db, batchId));
    if (batch !== undefined && (batch.callerId === caller.id || caller.scopes.has('admin'))) return batch;
    throw new ServiceError({
      reason: 'BATCH_NOT_FOUND',
      message: `batch ${JSON.stringify(batchId)} does not exist or belongs to another caller`,
      metadata: { batch_id: batchId },
    });
  }

  async function open(call: SubmitCall): Promise<Submission> {
    const unfinished = await orBusy(() => countUnfinished(db, call.caller.id, limits.callerBatches));
    if (unfinished >= limits.callerBatches) throw tooManyBatches();
    // An invalid template fails the submission, not each message.
    await parts.templates.render([], call.templates);
    return createSubmission({ ...parts, now }, call);
  }

  /** Submits messages of an ended batch as a new batch with its templates, name and priority. */
  async function resubmit(
    caller: Caller,
    { batchId, name, priority }: StoredBatch,
    { requestId, sendAt, drafts, assertCount }: Resubmission,
  ): Promise<Resubmitted> {
    const templates = JSON.parse(await orBusy(() => readTemplates(db, batchId))) as TemplateText[];
    const call = { caller, requestId, sendAt, name, templates };
    const submission = await open({ ...call, priority: priorityOfCost.get(priority) ?? 'normal' });
    try {
      let count = 0;
      for await (const chunk of drafts) {
        count += chunk.length;
        await submission.add(chunk);
      }
      assertCount(count);
      return await submission.commit();
    } catch (error) {
      await submission.abort();
      throw error;
    }
  }

  return {
    open,
    get: find,
    list: (caller, page) =>
      orBusy(() => listBatches(db, { ...page, callerId: caller.scopes.has('admin') ? undefined : caller.id })),
    async listResults(caller, batchId, page) {
      await find(caller, batchId);
      const found = await orBusy(() => readResultsPage(db, batchId, page));
      const keys = new Set(found.results.flatMap(({ channelKey }) => channelKey ?? []));
      return { ...found, channels: await orBusy(() => readNames(db, [...keys])) };
    },
    async cancel(caller, batchId) {
      const batch = await find(caller, batchId);
      const cancelled = await orBusy(() => cancelBatch(db, batch.batchId, caller.name));
      onBatchChange(batch.batchId);
      return cancelled ?? (await find(caller, batchId));
    },
    async recall(caller, batchId) {
      const batch = await find(caller, batchId);
      const windowMs = caller.scopes.has('admin') ? undefined : parts.recallWindowMs;
      if (windowMs !== undefined && batch.recall === null && isTooOld(batch, now(), windowMs))
        throw recallWindowOver(batch, windowMs);
      const recalling = await orBusy(() => requestRecall(db, batch.batchId, { by: caller.name, windowMs }));
      if (recalling === undefined) return await find(caller, batchId);
      onBatchChange(batch.batchId);
      await parts.scheduleAt(recalling.callerId, now());
      return recalling;
    },
    async retry(caller, batchId, signal) {
      const batch = await find(caller, batchId);
      if (batch.endedAt === null) throw notRetryable(batch, 'it has not ended yet');
      if (batch.counts.refused === 0) throw notRetryable(batch, 'none of its messages was refused');
      return await resubmit(caller, batch, {
        // Derived, so that repeated calls return the same retry.
        requestId: `retry:${batch.batchId}`,
        sendAt: undefined,
        drafts: readRefused(db, batch, signal),
        assertCount(count) {
          if (count < batch.counts.refused) throw notRetryable(batch, 'its refused messages were not kept');
        },
      });
    },
    async resume(caller, batchId, { sendAt, signal }) {
      const batch = await find(caller, batchId);
      if (batch.state !== 'cancelled')
        throw notRetryable(batch, batch.endedAt === null ? 'cancel it first' : 'it was not cancelled', 'resumed');
      return await resubmit(caller, batch, {
        requestId: `resume:${batch.batchId}`,
        sendAt,
        drafts: readUnsent(db, batch, { keepsTimes: sendAt === undefined, signal }),
        assertCount(count) {
          if (count === 0) throw notRetryable(batch, 'it has no unsent messages', 'resumed');
        },
      });
    },
  };
}

/** What of an ended batch is submitted again. */
interface Resubmission {
  readonly requestId: string;
  readonly sendAt: number | undefined;
  readonly drafts: AsyncIterable<readonly BatchDraft[]>;
  /** Throws if this number of messages must not be submitted. */
  readonly assertCount: (count: number) => void;
}

const priorityOfCost = new Map(Object.entries(slotCost).map(([name, cost]) => [cost as number, name as BatchPriority]));

/** Yields the refused messages of an ended batch per chunk, each with the key it was sent under. */
async function* readRefused(db: Db, batch: StoredBatch, signal: AbortSignal): AsyncGenerator<BatchDraft[]> {
  for (let cursor = { dueAt: 0, ordinal: 0 }; ; ) {
    signal.throwIfAborted();
    const [chunk] = await orBusy(() => readResults(db, batch.batchId, cursor, 1, true));
    if (chunk === undefined) return;
    const results = (JSON.parse(chunk.results) as BatchResult[]).filter((each) => !isRetryable(each));
    const drafts = chunk.drafts === '' ? '' : selectRefusedDrafts(chunk.drafts, results);
    if (drafts !== '') yield decodeDrafts(drafts, keyPrefixOf(batch)).map(({ draft }) => draft);
    cursor = { dueAt: chunk.dueAt, ordinal: chunk.ordinal + 1 };
  }
}

/** Yields what a cancelled batch has not sent per chunk, each with the key it would have had. */
async function* readUnsent(
  db: Db,
  batch: StoredBatch,
  { keepsTimes, signal }: { readonly keepsTimes: boolean; readonly signal: AbortSignal },
): AsyncGenerator<BatchDraft[]> {
  for (let cursor = { dueAt: 0, ordinal: 0 }; ; ) {
    signal.throwIfAborted();
    const chunk = await orBusy(() => readUnsentChunk(db, batch.batchId, cursor));
    if (chunk === undefined) return;
    const { dueAt, ordinal } = chunk;
    const drafts = selectUnsentDrafts(chunk.drafts, JSON.parse(chunk.results) as BatchResult[]);
    const time = keepsTimes ? { sendAt: dueAt } : {};
    if (drafts !== '') yield decodeDrafts(drafts, keyPrefixOf(batch)).map(({ draft }) => ({ ...draft, ...time }));
    cursor = { dueAt, ordinal: ordinal + 1 };
  }
}

/** What the keys of a batch's messages begin with, unless they have their own. */
function keyPrefixOf({ requestId, batchId }: StoredBatch): string {
  return requestId === '' ? batchId : requestId;
}

function notRetryable({ batchId, state }: StoredBatch, why: string, verb = 'retried'): ServiceError {
  return new ServiceError({
    reason: 'BATCH_NOT_RETRYABLE',
    message: `the batch cannot be ${verb}: ${why}`,
    metadata: { batch_id: batchId, state },
  });
}

/**
 * Reads a page of results. Chunks settle in sending order, so the first unsettled one ends the
 * results.
 */
async function readResultsPage(
  db: Db,
  batchId: string,
  { from, refusedOnly, limit, signal }: Parameters<Batches['listResults']>[2],
): Promise<Omit<ResultsPage, 'channels'>> {
  const results: BatchResult[] = [];
  let bytes = 0;
  let cursor = from;
  for (;;) {
    signal.throwIfAborted();
    const chunks = await readResults(db, batchId, cursor, refusedOnly ? chunksPerRefusedRead : chunksPerRead);
    for (const { dueAt, ordinal, results: text } of chunks) {
      const skip = ordinal === cursor.ordinal && dueAt === cursor.dueAt ? cursor.skip : 0;
      // A retryable result of a cancelled batch means that the message was not sent.
      const finals = (JSON.parse(text) as BatchResult[]).filter((each) => !isRetryable(each));
      for (let position = skip; position < finals.length; position++) {
        const each = finals[position] as BatchResult;
        if (refusedOnly && each.refusal === undefined) continue;
        bytes += bytesOf(each);
        if (results.length === limit || (results.length > 0 && bytes > limits.pageBytes))
          return { results, next: { dueAt, ordinal, skip: position } };
        results.push(each);
      }
      cursor = { dueAt, ordinal: ordinal + 1, skip: 0 };
    }
    if (chunks.length === 0) return { results, next: undefined };
  }
}

/** Whether all messages of a batch are too old to be recalled. */
function isTooOld({ endedAt }: StoredBatch, now: number, windowMs: number): boolean {
  return windowMs === 0 || (endedAt !== null && now - endedAt > windowMs);
}

function recallWindowOver({ batchId }: StoredBatch, windowMs: number): ServiceError {
  const seconds = Math.floor(windowMs / 1000);
  return new ServiceError({
    reason: 'RECALL_WINDOW_OVER',
    message: `the batch ended more than ${seconds} s ago (RECALL_WINDOW); only a credential with the scope admin may still recall it`,
    metadata: { batch_id: batchId, window_seconds: String(seconds) },
  });
}

function tooManyBatches(): ServiceError {
  return new ServiceError({
    reason: 'TOO_MANY_BATCHES',
    message: `the caller has ${limits.callerBatches} unfinished batches, the maximum; wait for some to end, or cancel some`,
    metadata: { limit: String(limits.callerBatches) },
  });
}
