import { createHash, randomUUID } from 'node:crypto';
import { limits } from '../limits.ts';
import type { Caller } from '../messages/caller.ts';
import { malformed, ServiceError, type Violation } from '../messages/service-error.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import { isSameRequest } from '../postgres/pg-errors.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { missingVersion, requestedVersion } from '../templates/refusals.ts';
import type { TemplateText } from '../templates/template.ts';
import type { Templates } from '../templates/templates.ts';
import { dayMs } from '../time.ts';
import { type BatchDraft, type BatchPriority, type Chunk, cutChunks, type ScheduledDraft, slotCost } from './batch.ts';
import {
  findByRequestId,
  insertReceiving,
  type NewBatch,
  queueBatch,
  receiveChunks,
  removeBatch,
  type StoredBatch,
} from './batches.sql.ts';
import { snapshotCaller } from './caller-snapshot.ts';

/** A batch as a caller submits it, validated against the rules of the proto. */
export interface SubmitCall {
  readonly caller: Caller;
  readonly requestId: string;
  /** Milliseconds since 1970. */
  readonly sendAt: number | undefined;
  readonly priority: BatchPriority;
  readonly name: string;
  readonly templates: readonly TemplateText[];
}

/** A batch whose messages are arriving. */
export interface Submission {
  add(drafts: readonly BatchDraft[]): Promise<void>;
  /** Queues the batch, or returns the earlier one with its request_id (`duplicate`). */
  commit(): Promise<{ readonly batch: StoredBatch; readonly duplicate: boolean }>;
  /** Deletes all that was stored. */
  abort(): Promise<void>;
}

export interface SubmissionParts {
  readonly db: Db;
  readonly templates: Templates;
  /** Schedules a slot of a caller. */
  readonly scheduleAt: (callerId: string, timeMs: number) => Promise<void>;
  readonly now: () => number;
}

/** Maximum time from a submission to its last send; template versions are kept that long. */
export const maxScheduleMs = limits.scheduleDays * dayMs;
/** Messages held in memory before they are stored. */
const maxHeldMessages = 10 * limits.batchMessages;

/** Receives the messages of one batch, and stores them chunk by chunk as they arrive. */
export function createSubmission({ db, templates, scheduleAt, now }: SubmissionParts, call: SubmitCall): Submission {
  const createdAt = now();
  const batch: NewBatch = {
    batchId: randomUUID(),
    callerId: call.caller.id,
    caller: snapshotCaller(call.caller),
    name: call.name,
    requestId: call.requestId,
    templates: JSON.stringify(call.templates),
    priority: slotCost[call.priority],
    createdAt,
    sendAt: call.sendAt ?? null,
  };
  // Hashes the call before template versions are pinned, so that a repeated call has the same hash.
  const content = createHash('sha256').update(JSON.stringify([batch.templates, batch.sendAt]));
  const pinTemplate = createTemplatePinner(templates, call.templates);
  let held: ScheduledDraft[] = [];
  let heldChars = 0;
  let count = 0;
  let chunks = 0;
  let isInserted = false;
  let isEnded = false;

  /** Stores all held messages. */
  async function flush(): Promise<void> {
    if (!isInserted) await insertReceiving(db, batch);
    isInserted = true;
    const cut = cutChunks(held, createdAt);
    held = [];
    heldChars = 0;
    await storeChunks(db, cut);
    chunks += cut.length;
  }

  async function storeChunks(to: Db | Tx, cut: readonly Chunk[]): Promise<void> {
    if (!(await receiveChunks(to, batch.batchId, chunks, cut))) throw submissionExpired();
  }

  return {
    add: (drafts) =>
      orBusy(async () => {
        assertTimes(drafts, count, { createdAt, sendAt: call.sendAt });
        if (count + drafts.length > limits.submitMessages) throw tooLarge(count + drafts.length);
        for (const draft of drafts) {
          const dueAt = Math.max(draft.sendAt ?? call.sendAt ?? createdAt, createdAt);
          const each = { index: count, dueAt, draft };
          const text = JSON.stringify([draft.sendAt ?? null, contentOf(draft)]);
          content.update(text);
          heldChars += text.length;
          held.push({ ...each, draft: await pinTemplate(draft) });
          count++;
          if (held.length >= maxHeldMessages || heldChars >= limits.chunkChars) await flush();
        }
      }),
    commit: () =>
      orBusy(async () => {
        if (count === 0)
          throw malformed([{ field: 'messages', description: 'must have at least one entry', reason: 'EMPTY_BATCH' }]);
        const contentHash = content.digest();
        const rest = cutChunks(held, createdAt);
        const stored = await db
          .transaction()
          .execute(async (tx) => {
            if (!isInserted) await insertReceiving(tx, batch);
            await storeChunks(tx, rest);
            return await queueBatch(tx, batch, { messageCount: count, contentHash });
          })
          .catch(async (error: unknown) => {
            if (!isSameRequest(error)) throw error;
            if (isInserted) await removeBatch(db, batch.batchId);
            return await findEarlier(db, batch, contentHash);
          });
        isEnded = true;
        const duplicate = stored.batchId !== batch.batchId;
        if (!duplicate && stored.dueAt !== null) await scheduleAt(batch.callerId, stored.dueAt);
        return { batch: stored, duplicate };
      }),
    async abort() {
      if (isInserted && !isEnded) await removeBatch(db, batch.batchId);
      isEnded = true;
    },
  };
}

/**
 * Creates a function that pins a stored template to its current version, or to missing: a batch
 * renders what existed at its submission.
 */
function createTemplatePinner(
  templates: Templates,
  own: readonly TemplateText[],
): (draft: BatchDraft) => Promise<BatchDraft> {
  const ownTemplates = new Set(own.map((each) => each.name));
  const versions = new Map<string, number>();
  return async (draft) => {
    const { template } = draft;
    if (template === undefined || (ownTemplates.has(template.name) && requestedVersion(template.version) === 0))
      return draft;
    const requested = requestedVersion(template.version);
    const key = `${template.name} ${requested}`;
    const version =
      versions.get(key) ?? (await templates.findVersion(template.name, requested)) ?? missingVersion(requested);
    versions.set(key, version);
    return { ...draft, template: { ...template, version } };
  };
}

/** Finds the earlier batch with the same request_id and content; throws if the content differs. */
async function findEarlier(db: Db, { callerId, requestId }: NewBatch, contentHash: Buffer): Promise<StoredBatch> {
  const earlier = await findByRequestId(db, callerId, requestId);
  // Swept since the conflict: whether it was the same is unknown, and a retry no longer meets it.
  if (earlier === undefined) throw storeBusy(new Error('the earlier batch of this request_id was removed meanwhile'));
  if (earlier.contentHash.equals(contentHash)) return earlier;
  throw new ServiceError({
    reason: 'REQUEST_ID_REUSED',
    message: `request_id ${JSON.stringify(requestId)} was already used for another batch; use a new request_id for a new batch`,
    metadata: { request_id: requestId, batch_id: earlier.batchId },
  });
}

/** The fields of a message that its batch's content hash covers. */
function contentOf(draft: BatchDraft): unknown[] {
  const { header, template, payload } = draft;
  return [
    draft.clientMsgNo,
    draft.fromUid,
    draft.channelId,
    draft.channelType,
    header === undefined ? 0 : [header.noPersist, header.redDot, header.syncOnce],
    draft.expire,
    Buffer.from(payload).toString('base64'),
    draft.subscribers,
    draft.streamNo,
    draft.tagKey,
    template === undefined ? 0 : [template.name, template.version, template.variables],
  ];
}

/** Throws for messages scheduled more than `limits.scheduleDays` ahead. */
function assertTimes(
  drafts: readonly BatchDraft[],
  first: number,
  { createdAt, sendAt }: { createdAt: number; sendAt: number | undefined },
): void {
  const last = createdAt + maxScheduleMs;
  const description = `must be at most ${limits.scheduleDays} days ahead`;
  const violations: Violation[] = [];
  if (sendAt !== undefined && !(sendAt <= last))
    violations.push({ field: 'send_at', description, reason: 'INVALID_FIELD' });
  for (const [index, each] of drafts.entries())
    if (each.sendAt !== undefined && !(each.sendAt <= last))
      violations.push({ field: `messages[${first + index}].send_at`, description, reason: 'INVALID_FIELD' });
  if (violations.length > 0) throw malformed(violations, { limit: String(limits.scheduleDays) });
}

/** The submission was swept as abandoned, with all its messages. */
function submissionExpired(): ServiceError {
  return storeBusy(new Error('the submission was silent for too long and was taken for given up'));
}

function tooLarge(actual: number): ServiceError {
  return malformed(
    [
      {
        field: 'messages',
        description: `must have at most ${limits.submitMessages} entries; submit several batches`,
        reason: 'BATCH_TOO_LARGE',
      },
    ],
    { limit: String(limits.submitMessages), actual: String(actual) },
  );
}
