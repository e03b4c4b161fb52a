import { limits } from '../limits.ts';
import type { Caller } from '../messages/caller.ts';
import { bytesOf } from '../messages/page.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Db } from '../postgres/schema.ts';
import type { TemplateText } from '../templates/template.ts';
import {
  type BatchDraft,
  type BatchResult,
  type BatchState,
  draftsOf,
  isRetryable,
  refusedDrafts,
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

/** A page of results, and where the next begins. */
export interface ResultsPage {
  readonly results: readonly BatchResult[];
  readonly next: ResultsCursor | undefined;
}

/** A chunk by its place in the order of sending, and how many of its results were looked at. */
export interface ResultsCursor {
  readonly dueAt: number;
  readonly ordinal: number;
  readonly skip: number;
}

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
  results(
    caller: Caller,
    batchId: string,
    page: {
      readonly from: ResultsCursor;
      readonly refusedOnly: boolean;
      readonly limit: number;
      /** Whoever asks has hung up: a page of the refused may be a long search. */
      readonly signal: AbortSignal;
    },
  ): Promise<ResultsPage>;
  cancel(caller: Caller, batchId: string): Promise<StoredBatch>;
  /** Submits what was refused of a batch that has ended as a new batch, under the same keys. */
  retry(
    caller: Caller,
    batchId: string,
    signal: AbortSignal,
  ): Promise<{ readonly batch: StoredBatch; readonly duplicate: boolean }>;
}

export interface BatchesParts extends Omit<SubmissionParts, 'now'> {
  /** Told of a batch that has moved. */
  readonly onMoved: (batchId: string) => void;
  readonly now?: () => number;
}

/** Chunks of results that are read at once, for a page of those that were refused. */
const chunksAtOnce = 10;

export function createBatches(parts: BatchesParts): Batches {
  const { db, onMoved, now = Date.now } = parts;

  /** For everybody but its caller, and those who may see to everything, it is not there. */
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
    if (unfinished >= limits.callerBatches) throw tooMany();
    // A template that is none is said now, not of each message.
    await parts.templates.render([], call.templates);
    return createSubmission({ ...parts, now }, call);
  }

  return {
    open,
    get: find,
    list: (caller, page) =>
      orBusy(() => listBatches(db, { ...page, callerId: caller.scopes.has('admin') ? undefined : caller.id })),
    async results(caller, batchId, page) {
      await find(caller, batchId);
      return await orBusy(() => readPage(db, batchId, page));
    },
    async cancel(caller, batchId) {
      const batch = await find(caller, batchId);
      const cancelled = await orBusy(() => cancelBatch(db, batch.batchId));
      onMoved(batch.batchId);
      return cancelled ?? (await find(caller, batchId));
    },
    async retry(caller, batchId, signal) {
      const batch = await find(caller, batchId);
      if (batch.endedAt === null) throw notRetryable(batch, 'it has not ended yet');
      if (batch.counts.refused === 0) throw notRetryable(batch, 'none of its messages was refused');
      const templates = JSON.parse(await orBusy(() => readTemplates(db, batch.batchId))) as TemplateText[];
      const { name, priority } = batch;
      // The same for each call: the retry of a batch is one batch, however often it is asked for.
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
        let kept = 0;
        for await (const drafts of refusedOf(db, batch, signal)) {
          kept += drafts.length;
          await submission.add(drafts);
        }
        if (kept < batch.counts.refused) throw notRetryable(batch, 'its refused messages were not kept');
        return await submission.commit();
      } catch (error) {
        await submission.abort();
        throw error;
      }
    },
  };
}

const priorityOfCost = new Map(
  Object.entries(slotCost).map(([name, cost]) => [cost as number, name as keyof typeof slotCost]),
);

/** The refused messages of a batch that has ended, chunk by chunk, each under the key that it was refused with. */
async function* refusedOf(db: Db, batch: StoredBatch, signal: AbortSignal): AsyncGenerator<BatchDraft[]> {
  const prefix = batch.requestId === '' ? batch.batchId : batch.requestId;
  for (let cursor = { dueAt: 0, ordinal: 0 }; ; ) {
    signal.throwIfAborted();
    const [chunk] = await orBusy(() => readResults(db, batch.batchId, cursor, 1, true));
    if (chunk === undefined) return;
    const results = (JSON.parse(chunk.results) as BatchResult[]).filter((each) => !isRetryable(each));
    const drafts = chunk.drafts === '' ? '' : refusedDrafts(chunk.drafts, results);
    if (drafts !== '') yield draftsOf(drafts, prefix).map(({ draft }) => draft);
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

/** Chunks are settled in the order in which they are read: behind the first that is not, there is nothing yet. */
async function readPage(
  db: Db,
  batchId: string,
  { from, refusedOnly, limit, signal }: Parameters<Batches['results']>[2],
): Promise<ResultsPage> {
  const results: BatchResult[] = [];
  let bytes = 0;
  let cursor = from;
  for (;;) {
    signal.throwIfAborted();
    const chunks = await readResults(db, batchId, cursor, refusedOnly ? chunksAtOnce : 2);
    for (const { dueAt, ordinal, results: text } of chunks) {
      const skip = ordinal === cursor.ordinal && dueAt === cursor.dueAt ? cursor.skip : 0;
      // What was to be tried again when the batch was cancelled was not sent.
      const all = (JSON.parse(text) as BatchResult[]).filter((each) => !isRetryable(each));
      for (let place = skip; place < all.length; place++) {
        const each = all[place] as BatchResult;
        if (refusedOnly && each.refusal === undefined) continue;
        bytes += bytesOf(each);
        if (results.length === limit || (results.length > 0 && bytes > limits.pageBytes))
          return { results, next: { dueAt, ordinal, skip: place } };
        results.push(each);
      }
      cursor = { dueAt, ordinal: ordinal + 1, skip: 0 };
    }
    if (chunks.length === 0) return { results, next: undefined };
  }
}

function tooMany(): ServiceError {
  return new ServiceError({
    reason: 'TOO_MANY_BATCHES',
    message: `the caller has ${limits.callerBatches} unfinished batches, the maximum; wait for some to end, or cancel some`,
    metadata: { limit: String(limits.callerBatches) },
  });
}
