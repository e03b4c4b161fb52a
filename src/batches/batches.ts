// Background batches: a caller submits up to 100,000 messages, and workers send them.
//
// Entry points: `createBatches` (this file: submit, get, list, results, cancel, retry),
// `createBatchWatch` (watch.ts), `createChunkRunner` (run-chunk.ts: one slot of a worker),
// `openJobs` (job-queue.sql.ts: which caller has a slot when). States: batch.ts for batches,
// claims.sql.ts for chunks. Invariants:
//  1. A batch exists for callers once `queueBatch` commits; an abandoned submission leaves nothing.
//  2. A caller has one slot at a time over all instances, and a slot sends one chunk.
//  3. Other callers get BATCH_NOT_FOUND for a batch, whether it exists or not; admins see all.

import { limits } from '../limits.ts';
import type { Caller } from '../messages/caller.ts';
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
  slotCost,
} from './batch.ts';
import {
  cancelBatch,
  countUnfinished,
  findBatch,
  listBatches,
  readResults,
  readTemplates,
  type StoredBatch,
} from './batches.sql.ts';
import { createSubmission, type Submission, type SubmissionParts, type SubmitCall } from './submission.ts';

export type { StoredBatch };

/** A page of results. `next`: the cursor of the next page, if there is one. */
export interface ResultsPage {
  readonly results: readonly BatchResult[];
  readonly next: ResultsCursor | undefined;
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
  /** Submits the refused messages of an ended batch as a new batch, under the same keys. */
  retry(
    caller: Caller,
    batchId: string,
    signal: AbortSignal,
  ): Promise<{ readonly batch: StoredBatch; readonly duplicate: boolean }>;
}

export interface BatchesParts extends Omit<SubmissionParts, 'now'> {
  /** Called after a batch changed. */
  readonly onBatchChange: (batchId: string) => void;
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

  return {
    open,
    get: find,
    list: (caller, page) =>
      orBusy(() => listBatches(db, { ...page, callerId: caller.scopes.has('admin') ? undefined : caller.id })),
    async listResults(caller, batchId, page) {
      await find(caller, batchId);
      return await orBusy(() => readResultsPage(db, batchId, page));
    },
    async cancel(caller, batchId) {
      const batch = await find(caller, batchId);
      const cancelled = await orBusy(() => cancelBatch(db, batch.batchId));
      onBatchChange(batch.batchId);
      return cancelled ?? (await find(caller, batchId));
    },
    async retry(caller, batchId, signal) {
      const batch = await find(caller, batchId);
      if (batch.endedAt === null) throw notRetryable(batch, 'it has not ended yet');
      if (batch.counts.refused === 0) throw notRetryable(batch, 'none of its messages was refused');
      const templates = JSON.parse(await orBusy(() => readTemplates(db, batch.batchId))) as TemplateText[];
      const { name, priority } = batch;
      // Derived, so that repeated calls return the same retry.
      const requestId = `retry:${batch.batchId}`;
      const submission = await open({
        caller,
        requestId,
        sendAt: undefined,
        priority: priorityOfCost.get(priority) ?? 'normal',
        name,
        templates,
      });
      try {
        let found = 0;
        for await (const drafts of readRefused(db, batch, signal)) {
          found += drafts.length;
          await submission.add(drafts);
        }
        if (found < batch.counts.refused) throw notRetryable(batch, 'its refused messages were not kept');
        return await submission.commit();
      } catch (error) {
        await submission.abort();
        throw error;
      }
    },
  };
}

const priorityOfCost = new Map(Object.entries(slotCost).map(([name, cost]) => [cost as number, name as BatchPriority]));

/** Yields the refused messages of an ended batch per chunk, each with the key it was sent under. */
async function* readRefused(db: Db, batch: StoredBatch, signal: AbortSignal): AsyncGenerator<BatchDraft[]> {
  const prefix = batch.requestId === '' ? batch.batchId : batch.requestId;
  for (let cursor = { dueAt: 0, ordinal: 0 }; ; ) {
    signal.throwIfAborted();
    const [chunk] = await orBusy(() => readResults(db, batch.batchId, cursor, 1, true));
    if (chunk === undefined) return;
    const results = (JSON.parse(chunk.results) as BatchResult[]).filter((each) => !isRetryable(each));
    const drafts = chunk.drafts === '' ? '' : selectRefusedDrafts(chunk.drafts, results);
    if (drafts !== '') yield decodeDrafts(drafts, prefix).map(({ draft }) => draft);
    cursor = { dueAt: chunk.dueAt, ordinal: chunk.ordinal + 1 };
  }
}

function notRetryable({ batchId, state }: StoredBatch, why: string): ServiceError {
  return new ServiceError({
    reason: 'BATCH_NOT_RETRYABLE',
    message: `the batch cannot be retried: ${why}`,
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
): Promise<ResultsPage> {
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

function tooManyBatches(): ServiceError {
  return new ServiceError({
    reason: 'TOO_MANY_BATCHES',
    message: `the caller has ${limits.callerBatches} unfinished batches, the maximum; wait for some to end, or cancel some`,
    metadata: { limit: String(limits.callerBatches) },
  });
}
