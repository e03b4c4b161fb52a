// The rules of background batches: chunks, results, retries and back-off. No clock, no I/O.
//
// Entry points: `cutChunks` and `decodeDrafts` (the stored form), `toResult`, `nextRetryDelayMs`,
// `mustHoldBatch`. Use cases are in batches.ts, the worker in run-chunk.ts. States of a batch:
//
//   receiving ──commit──> queued ──first slot──> running ──last chunk settled──> completed
//       │                   │                      │
//       │ silent for 1 h    │ cancel, key ended    ├── the same, in flight ──> cancelling
//       v                   v                      v                              │
//   (deleted)           cancelled <────────────────┴──────── chunk settled ───────┘
//
// Invariants:
//  1. Messages of one sender in one channel are stored in the order of the batch, per due time.
//  2. A message keeps its key over all attempts, so that a repeated attempt stores nothing twice.
//  3. A chunk is settled by the worker whose fencing token is current; others change nothing.

import { limits } from '../limits.ts';
import type { Outcome } from '../messages/append-plan.ts';
import type { Draft } from '../messages/message.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { BatchCounts } from '../observability/events/batch-counts.ts';
import type { Variables } from '../templates/variables.ts';
import { dayMs, minuteMs, secondMs } from '../time.ts';

/**
 * The state of a batch. `receiving`: its messages are still arriving, and callers cannot see it.
 */
export type BatchState = 'receiving' | 'queued' | 'running' | 'cancelling' | 'completed' | 'cancelled';

/** Cost of a slot per priority. A caller's next slot goes to its batch that has paid least. */
export const slotCost = { high: 1, normal: 4, low: 16 } as const;
export type BatchPriority = keyof typeof slotCost;

/** A draft in a batch. */
export interface BatchDraft extends Draft {
  readonly template?:
    | { readonly name: string; readonly version: number; readonly variables?: Variables | undefined }
    | undefined;
  /** Milliseconds since 1970; unset: the time of the batch. */
  readonly sendAt?: number | undefined;
  /** The caller's own number of the message, such as its line in a file. */
  readonly line?: number | undefined;
}

/** A draft with its index in the batch and its due time. */
export interface ScheduledDraft {
  readonly index: number;
  readonly dueAt: number;
  readonly draft: BatchDraft;
}

/** Messages of a batch that are sent together. */
export interface Chunk {
  /** When the last of them is due, in milliseconds since 1970. */
  readonly dueAt: number;
  /** The drafts in their stored form. */
  readonly drafts: string;
}

/**
 * Messages due within this time share a chunk, sent when the last is due. A batch spread over an
 * hour has 3,600 chunks, not 100,000.
 */
const chunkWindowMs = secondMs;

/**
 * Cuts drafts into chunks, by due time and then in batch order. Messages due at `now` or before
 * never wait for later ones.
 */
export function cutChunks(drafts: readonly ScheduledDraft[], now: number): Chunk[] {
  const sorted = drafts.every((each) => each.dueAt === drafts[0]?.dueAt)
    ? drafts
    : [...drafts].sort((a, b) => a.dueAt - b.dueAt);
  const chunks: Chunk[] = [];
  let texts: string[] = [];
  let chars = 0;
  let firstDueAt = 0;
  let lastDueAt = 0;
  const close = () => {
    if (texts.length > 0) chunks.push({ dueAt: lastDueAt, drafts: `[${texts.join(',')}]` });
    texts = [];
    chars = 0;
  };
  for (const each of sorted) {
    const text = JSON.stringify(encodeDraft(each));
    const isFull = texts.length === limits.batchMessages || chars + text.length > limits.chunkChars;
    const isLater = firstDueAt <= now && each.dueAt > now;
    if (isFull || isLater || each.dueAt - firstDueAt >= chunkWindowMs) close();
    if (texts.length === 0) firstDueAt = each.dueAt;
    lastDueAt = each.dueAt;
    texts.push(text);
    chars += text.length;
  }
  close();
  return chunks;
}

/** The stored form of a draft: empty fields are omitted, bytes are base64. */
interface StoredDraft {
  readonly i: number;
  readonly line?: number;
  readonly key?: string;
  readonly from: string;
  readonly id?: string;
  readonly type?: number;
  readonly header?: readonly [number, number, number];
  readonly expire?: number;
  readonly payload?: string;
  readonly subscribers?: readonly string[];
  readonly stream?: string;
  readonly tag?: string;
  readonly template?: BatchDraft['template'];
}

function encodeDraft({ index, draft }: ScheduledDraft): StoredDraft {
  const { header, clientMsgNo, channelId, channelType, expire, payload, subscribers, streamNo, tagKey, template } =
    draft;
  return {
    i: index,
    ...(draft.line ? { line: draft.line } : {}),
    from: draft.fromUid,
    ...(clientMsgNo === '' ? {} : { key: clientMsgNo }),
    ...(channelId === '' ? {} : { id: channelId }),
    ...(channelType === 0 ? {} : { type: channelType }),
    ...(header === undefined ? {} : { header: [header.noPersist, header.redDot, header.syncOnce] }),
    ...(expire === 0 ? {} : { expire }),
    ...(payload.length === 0 ? {} : { payload: Buffer.from(payload).toString('base64') }),
    ...(subscribers.length === 0 ? {} : { subscribers }),
    ...(streamNo === '' ? {} : { stream: streamNo }),
    ...(tagKey === '' ? {} : { tag: tagKey }),
    ...(template === undefined
      ? {}
      : { template: { name: template.name, version: template.version, variables: template.variables } }),
  };
}

/** A draft of a stored chunk. */
export interface ChunkDraft {
  readonly index: number;
  /** Whether its key is the caller's; otherwise the batch derived it. */
  readonly hasOwnKey: boolean;
  readonly draft: BatchDraft;
}

/**
 * Decodes the drafts of a chunk. A draft without a key gets `<prefix>:<index>`, the same for every
 * attempt.
 */
export function decodeDrafts(text: string, prefix: string): ChunkDraft[] {
  return (JSON.parse(text) as StoredDraft[]).map((each) => ({
    index: each.i,
    hasOwnKey: each.key !== undefined,
    draft: {
      ...(each.header === undefined
        ? {}
        : { header: { noPersist: each.header[0], redDot: each.header[1], syncOnce: each.header[2] } }),
      clientMsgNo: each.key ?? `${prefix}:${each.i}`,
      fromUid: each.from,
      channelId: each.id ?? '',
      channelType: each.type ?? 0,
      expire: each.expire ?? 0,
      payload: each.payload === undefined ? new Uint8Array() : Buffer.from(each.payload, 'base64'),
      subscribers: each.subscribers ?? [],
      streamNo: each.stream ?? '',
      tagKey: each.tag ?? '',
      template: each.template,
      line: each.line,
    },
  }));
}

/** The refused drafts of a chunk in their stored form, for a retry; '' if there are none. */
export function selectRefusedDrafts(text: string, results: readonly BatchResult[]): string {
  const refused = new Set(results.filter((each) => each.refusal !== undefined).map((each) => each.index));
  if (refused.size === 0) return '';
  return JSON.stringify((JSON.parse(text) as StoredDraft[]).filter((each) => refused.has(each.i)));
}

/**
 * The drafts of an unsettled chunk that have no final result, in their stored form; '' if there are
 * none.
 */
export function selectUnsentDrafts(text: string, results: readonly BatchResult[]): string {
  const done = new Set(results.filter((each) => !isRetryable(each)).map((each) => each.index));
  const unsent = (JSON.parse(text) as StoredDraft[]).filter((each) => !done.has(each.i));
  return unsent.length === 0 ? '' : JSON.stringify(unsent);
}

/** The result of one message of a batch. */
export interface BatchResult {
  readonly index: number;
  readonly clientMsgNo: string;
  /** 0 if the message was refused. */
  readonly messageId: number;
  readonly messageSeq: number;
  /**
   * The key of the channel that has the message. Unset for refused messages, commands, messages
   * that are not numbered, and results that earlier versions stored.
   */
  readonly channelKey?: number;
  readonly duplicate: boolean;
  /** A duplicate that an interrupted attempt of the batch may have stored. */
  readonly mayBeOwn?: boolean;
  readonly refusal?: Refusal;
  /** The caller's own number of the message, if it has one. */
  readonly line?: number;
  /** Sender and channel of a refused message. */
  readonly recipient?: Recipient;
  /** Time of the attempt that was refused with a retryable reason, in milliseconds since 1970. */
  readonly triedAt?: number;
}

/** A message's sender and channel, as submitted. */
export type Recipient = Pick<Draft, 'fromUid' | 'channelType' | 'channelId'>;

/**
 * Converts an outcome to a result. `isRetry`: an earlier attempt may have stored the message, so a
 * duplicate under a derived key is the batch's own message. `channelKey`: of the stored message.
 */
export function toResult(
  { index, hasOwnKey, draft }: ChunkDraft,
  outcome: Outcome | Refusal,
  isRetry: boolean,
  channelKey?: number,
): BatchResult {
  const { clientMsgNo, fromUid, channelType, channelId } = draft;
  const line = draft.line ? { line: draft.line } : {};
  if ('reason' in outcome || outcome.kind === 'refused') {
    const refusal = 'reason' in outcome ? outcome : outcome.refusal;
    const recipient: Recipient = { fromUid, channelType, channelId };
    return { index, ...line, clientMsgNo, messageId: 0, messageSeq: 0, duplicate: false, refusal, recipient };
  }
  const { messageId, messageSeq } = outcome;
  const duplicate = outcome.kind === 'duplicate' && (hasOwnKey || !isRetry);
  const mayBeOwn = duplicate && isRetry ? { mayBeOwn: true } : {};
  return {
    index,
    ...line,
    clientMsgNo,
    messageId,
    messageSeq,
    ...(channelKey && { channelKey }),
    duplicate,
    ...mayBeOwn,
  };
}

/** Whether another attempt may succeed. */
export function isRetryable({ refusal }: BatchResult): boolean {
  return refusal?.retryAfterMs !== undefined;
}

export function countResults(results: readonly BatchResult[]): BatchCounts {
  const refused = results.filter((each) => each.refusal !== undefined).length;
  const duplicates = results.filter((each) => each.duplicate).length;
  return { accepted: results.length - refused - duplicates, duplicates, refused };
}

const minBackoffMs = 500;
const maxBackoffMs = minuteMs;
/** Bounds the doubling of the back-off, which reaches its maximum after 7 steps. */
const maxBackoffDoublings = 16;
/** After this long without progress, retryable refusals become final. */
const maxStallMs = dayMs;

/**
 * Attempts without progress for messages that fail with INTERNAL while the rest of their chunk has
 * results: about three minutes.
 */
const maxDefectAttempts = 9;

/** The earliest time of the next attempt of a message, in milliseconds since 1970. */
export function retryAt({ refusal, triedAt = 0 }: BatchResult): number {
  return triedAt + Math.min(refusal?.retryAfterMs ?? 0, maxBackoffMs);
}

/**
 * Milliseconds until the next attempt of messages with a retryable refusal; undefined: give up.
 * `attempts`: without progress so far. `hasOtherResults`: the rest of the chunk has results; then
 * an INTERNAL error is these messages' own and permanent, and must not block later messages for a
 * day.
 */
export function nextRetryDelayMs(
  retryable: readonly BatchResult[],
  {
    attempts,
    stalledSince,
    now,
    hasOtherResults = false,
  }: { attempts: number; stalledSince: number; now: number; hasOtherResults?: boolean },
): number | undefined {
  if (now - stalledSince >= maxStallMs) return undefined;
  if (
    hasOtherResults &&
    attempts >= maxDefectAttempts &&
    retryable.every(({ refusal }) => refusal?.reason === 'INTERNAL')
  )
    return undefined;
  const requestedMs = retryable.length === 0 ? 0 : Math.min(...retryable.map(retryAt)) - now;
  const backoffMs = Math.min(minBackoffMs * 2 ** Math.min(attempts, maxBackoffDoublings), maxBackoffMs);
  return Math.max(requestedMs, backoffMs);
}

/**
 * Whether the refusals pause the whole batch: its caller is over its rate, or no message of the
 * chunk could be stored. Otherwise only the refused messages wait, with later ones of the same
 * sender and channel.
 */
export function mustHoldBatch(retryable: readonly BatchResult[], sent: number): boolean {
  if (retryable.some(({ refusal }) => refusal?.reason === 'RATE_LIMITED' && refusal.metadata.by === 'caller'))
    return true;
  return (
    retryable.length > 0 &&
    retryable.length === sent &&
    retryable.every(({ refusal }) => refusal?.reason !== 'RATE_LIMITED')
  );
}
