import { createHash, randomUUID } from 'node:crypto';
import { limits } from '../limits.ts';
import type { Caller } from '../messages/caller.ts';
import { malformed, ServiceError, type Violation } from '../messages/service-error.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import { isSameRequest } from '../postgres/pg-errors.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { missingVersion, type TemplateText, wishedVersion } from '../templates/template.ts';
import type { Templates } from '../templates/templates.ts';
import { dayMs } from '../time.ts';
import { type BatchDraft, type BatchPriority, type Chunk, cutChunks, type Placed, slotCost } from './batch.ts';
import {
  findByRequestId,
  insertReceiving,
  type NewBatch,
  queueBatch,
  receiveChunks,
  removeBatch,
  type StoredBatch,
} from './batches.sql.ts';
import { snapshotOf } from './run-chunk.ts';

/** A batch as a caller submits it, already checked against the rules of the proto. */
export interface SubmitCall {
  readonly caller: Caller;
  readonly requestId: string;
  /** Milliseconds since 1970. */
  readonly sendAt: number | undefined;
  readonly priority: BatchPriority;
  readonly name: string;
  readonly templates: readonly TemplateText[];
}

/** A batch whose messages are coming. */
export interface Submission {
  add(drafts: readonly BatchDraft[]): Promise<void>;
  /** Makes it a batch; or finds that it is one already, under its request_id. */
  commit(): Promise<{ readonly batch: StoredBatch; readonly duplicate: boolean }>;
  /** Leaves no trace. */
  abort(): Promise<void>;
}

export interface SubmissionParts {
  readonly db: Db;
  readonly templates: Templates;
  /** Sees to it that a caller has its turn at a time. */
  readonly wake: (callerId: string, timeMs: number) => Promise<void>;
  readonly now: () => number;
}

/** How long after its submission a batch may be sent, and ask for a version of a template. */
export const longestScheduleMs = limits.scheduleDays * dayMs;
/** Messages that are held before they are written. */
const heldMessages = 10 * limits.batchMessages;

/** Takes the messages of one batch as they come. */
export function createSubmission({ db, templates, wake, now }: SubmissionParts, call: SubmitCall): Submission {
  const createdAt = now();
  const batch: NewBatch = {
    batchId: randomUUID(),
    callerId: call.caller.id,
    caller: snapshotOf(call.caller),
    name: call.name,
    requestId: call.requestId,
    templates: JSON.stringify(call.templates),
    priority: slotCost[call.priority],
    createdAt,
    sendAt: call.sendAt ?? null,
  };
  // Over what the caller has said, before versions of templates are filled in: a retry says the same.
  const content = createHash('sha256').update(JSON.stringify([batch.templates, batch.sendAt]));
  const own = new Set(call.templates.map((each) => each.name));
  const versions = new Map<string, number>();
  let held: Placed[] = [];
  let heldChars = 0;
  let count = 0;
  let chunks = 0;
  let noted = false;
  let ended = false;

  /** Keeps what is held, whole. */
  async function flush(): Promise<void> {
    if (!noted) await insertReceiving(db, batch);
    noted = true;
    const cut = cutChunks(held, createdAt);
    held = [];
    heldChars = 0;
    await keep(db, cut);
    chunks += cut.length;
  }

  async function keep(to: Db | Tx, cut: readonly Chunk[]): Promise<void> {
    if (!(await receiveChunks(to, batch.batchId, chunks, cut))) throw givenUp();
  }

  /** A stored template stays the one that it is now, or missing if it is: what a batch renders is fixed when it is submitted. */
  async function pinned(draft: BatchDraft): Promise<BatchDraft> {
    const { template } = draft;
    if (template === undefined || (own.has(template.name) && wishedVersion(template.version) === 0)) return draft;
    const wished = wishedVersion(template.version);
    const key = `${template.name} ${wished}`;
    const version = versions.get(key) ?? (await templates.versionOf(template.name, wished)) ?? missingVersion(wished);
    versions.set(key, version);
    return { ...draft, template: { ...template, version } };
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
          held.push({ ...each, draft: await pinned(draft) });
          count++;
          if (held.length >= heldMessages || heldChars >= limits.chunkChars) await flush();
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
            if (!noted) await insertReceiving(tx, batch);
            await keep(tx, rest);
            return await queueBatch(tx, batch, { messageCount: count, contentHash });
          })
          .catch(async (error: unknown) => {
            if (!isSameRequest(error)) throw error;
            if (noted) await removeBatch(db, batch.batchId);
            return await earlierOf(db, batch, contentHash);
          });
        ended = true;
        const duplicate = stored.batchId !== batch.batchId;
        if (!duplicate && stored.dueAt !== null) await wake(batch.callerId, stored.dueAt);
        return { batch: stored, duplicate };
      }),
    async abort() {
      if (noted && !ended) await removeBatch(db, batch.batchId);
      ended = true;
    },
  };
}

/** The batch that was submitted before under the same request_id, if it is the same. */
async function earlierOf(db: Db, { callerId, requestId }: NewBatch, contentHash: Buffer): Promise<StoredBatch> {
  const earlier = await findByRequestId(db, callerId, requestId);
  // Swept since it was in the way: whether it was the same is not known, and the next attempt meets it no more.
  if (earlier === undefined) throw storeBusy(new Error('the earlier batch of this request_id was removed meanwhile'));
  if (earlier.contentHash.equals(contentHash)) return earlier;
  throw new ServiceError({
    reason: 'REQUEST_ID_REUSED',
    message: `request_id ${JSON.stringify(requestId)} was already used for another batch; use a new request_id for a new batch`,
    metadata: { request_id: requestId, batch_id: earlier.batchId },
  });
}

/** All that makes a message what it is, in one order. */
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

/** Names the messages that are scheduled further ahead than is taken. */
function assertTimes(
  drafts: readonly BatchDraft[],
  first: number,
  { createdAt, sendAt }: { createdAt: number; sendAt: number | undefined },
): void {
  const last = createdAt + longestScheduleMs;
  const description = `must be at most ${limits.scheduleDays} days ahead`;
  const violations: Violation[] = [];
  if (sendAt !== undefined && !(sendAt <= last))
    violations.push({ field: 'send_at', description, reason: 'INVALID_FIELD' });
  for (const [index, each] of drafts.entries())
    if (each.sendAt !== undefined && !(each.sendAt <= last))
      violations.push({ field: `messages[${first + index}].send_at`, description, reason: 'INVALID_FIELD' });
  if (violations.length > 0) throw malformed(violations, { limit: String(limits.scheduleDays) });
}

/** Swept as one of which nothing came any more: nothing of it is kept. */
function givenUp(): ServiceError {
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
