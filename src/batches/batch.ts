import { limits } from '../limits.ts';
import type { Outcome } from '../messages/append-plan.ts';
import type { Draft } from '../messages/message.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { Variables } from '../templates/template.ts';

/** Where a batch stands. `receiving`: it is not one yet, its messages are still coming. */
export type BatchState = 'receiving' | 'queued' | 'running' | 'cancelling' | 'completed' | 'cancelled';

/** Turns are shared by these: of two batches of a caller the one that has paid less goes next, and a turn costs this much. */
export const slotCost = { high: 1, normal: 4, low: 16 } as const;
export type BatchPriority = keyof typeof slotCost;

/** A draft in a batch. */
export interface BatchDraft extends Draft {
  readonly template?:
    | { readonly name: string; readonly version: number; readonly variables?: Variables | undefined }
    | undefined;
  /** Milliseconds since 1970; unset: as the batch. */
  readonly sendAt?: number | undefined;
  /** The caller's own number of it, such as its line in a file. */
  readonly line?: number | undefined;
}

/** A draft, its place in the batch, and when it is due. */
export interface Placed {
  readonly index: number;
  readonly dueAt: number;
  readonly draft: BatchDraft;
}

/** Messages that are sent together. */
export interface Chunk {
  /** When all of them are due. */
  readonly dueAt: number;
  /** As stored. */
  readonly drafts: string;
}

/** Messages that are due within this many milliseconds go together, when the last of them is due: a batch that is spread over an hour has 3,600 chunks, not 100,000. */
const togetherMs = 1000;

/** Cuts drafts into chunks, by the time at which they are due and then in their order. What is due at `now` or before waits for nothing that is due later. */
export function cutChunks(placed: readonly Placed[], now: number): Chunk[] {
  const sorted = placed.every((each) => each.dueAt === placed[0]?.dueAt)
    ? placed
    : [...placed].sort((a, b) => a.dueAt - b.dueAt);
  const chunks: Chunk[] = [];
  let texts: string[] = [];
  let chars = 0;
  let first = 0;
  let last = 0;
  const close = () => {
    if (texts.length > 0) chunks.push({ dueAt: last, drafts: `[${texts.join(',')}]` });
    texts = [];
    chars = 0;
  };
  for (const each of sorted) {
    const text = JSON.stringify(toStored(each));
    const isFull = texts.length === limits.batchMessages || chars + text.length > limits.chunkChars;
    const isLater = first <= now && each.dueAt > now;
    if (isFull || isLater || each.dueAt - first >= togetherMs) close();
    if (texts.length === 0) first = each.dueAt;
    last = each.dueAt;
    texts.push(text);
    chars += text.length;
  }
  close();
  return chunks;
}

/** As kept between being taken and being sent: nothing that is empty, bytes as base64. */
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

function toStored({ index, draft }: Placed): StoredDraft {
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

/** The drafts of a chunk. What has no key of its own gets `<prefix>:<index>`, the same whenever it is tried. */
export function draftsOf(text: string, prefix: string): { index: number; ownKey: boolean; draft: BatchDraft }[] {
  return (JSON.parse(text) as StoredDraft[]).map((each) => ({
    index: each.i,
    ownKey: each.key !== undefined,
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

/** The drafts of a chunk that were refused, as stored: what a retry sends. The others are not kept; '' when there are none. */
export function refusedDrafts(text: string, results: readonly BatchResult[]): string {
  const refused = new Set(results.filter((each) => each.refusal !== undefined).map((each) => each.index));
  if (refused.size === 0) return '';
  return JSON.stringify((JSON.parse(text) as StoredDraft[]).filter((each) => refused.has(each.i)));
}

/** What became of one message of a batch. */
export interface BatchResult {
  readonly index: number;
  readonly clientMsgNo: string;
  /** 0 when it was refused. */
  readonly messageId: number;
  readonly messageSeq: number;
  readonly duplicate: boolean;
  readonly refusal?: Refusal;
  /** The caller's own number of it, where it gave one. */
  readonly line?: number;
  /** Whose message was refused, and where it was to go. */
  readonly recipient?: Recipient;
  /** When it was refused for now, in milliseconds since 1970. */
  readonly triedAt?: number;
}

/** A message's sender and channel, as they were submitted. */
export type Recipient = Pick<Draft, 'fromUid' | 'channelType' | 'channelId'>;

/**
 * The result of an outcome. `again`: an earlier try may have stored it, so that what looks like a repeated send under a key that nobody but the batch uses is the
 * batch's own.
 */
export function resultOf(
  { index, ownKey, draft }: { index: number; ownKey: boolean; draft: BatchDraft },
  outcome: Outcome | Refusal,
  again: boolean,
): BatchResult {
  const { clientMsgNo, fromUid, channelType, channelId } = draft;
  const line = draft.line ? { line: draft.line } : {};
  if ('reason' in outcome || outcome.kind === 'refused') {
    const refusal = 'reason' in outcome ? outcome : outcome.refusal;
    const recipient: Recipient = { fromUid, channelType, channelId };
    return { index, ...line, clientMsgNo, messageId: 0, messageSeq: 0, duplicate: false, refusal, recipient };
  }
  const { messageId, messageSeq } = outcome;
  const duplicate = outcome.kind === 'duplicate' && (ownKey || !again);
  return { index, ...line, clientMsgNo, messageId, messageSeq, duplicate };
}

/** Whether another try may answer something else. */
export function isRetryable({ refusal }: BatchResult): boolean {
  return refusal?.retryAfterMs !== undefined;
}

/** How many of each. */
export interface Tally {
  readonly accepted: number;
  readonly duplicate: number;
  readonly refused: number;
}

export function countResults(results: readonly BatchResult[]): Tally {
  const refused = results.filter((each) => each.refusal !== undefined).length;
  const duplicate = results.filter((each) => each.duplicate).length;
  return { accepted: results.length - refused - duplicate, duplicate, refused };
}

const firstPauseMs = 500;
const longestPauseMs = 60_000;
/** Without any progress for so long, what cannot be sent is refused for good. */
const patienceMs = 24 * 3600_000;

/** Tries without progress of messages that fail by a defect while the others of their chunk went: some three minutes. */
const triesOfDefect = 9;

/** When a message that was refused for now may be tried again. */
export function dueAgainAt({ refusal, triedAt = 0 }: BatchResult): number {
  return triedAt + Math.min(refusal?.retryAfterMs ?? 0, longestPauseMs);
}

/**
 * Milliseconds until messages that were refused for now are tried again; undefined: not any more. `attempts` without progress so far; `others`: the rest of the chunk has its results. A defect that
 * is theirs alone will not pass, and does not hold up what waits behind it for a day.
 */
export function nextTryIn(
  passing: readonly BatchResult[],
  {
    attempts,
    stalledSince,
    now,
    others = false,
  }: { attempts: number; stalledSince: number; now: number; others?: boolean },
): number | undefined {
  if (now - stalledSince >= patienceMs) return undefined;
  if (others && attempts >= triesOfDefect && passing.every(({ refusal }) => refusal?.reason === 'INTERNAL'))
    return undefined;
  const asked = passing.length === 0 ? 0 : Math.min(...passing.map(dueAgainAt)) - now;
  const pause = Math.min(firstPauseMs * 2 ** Math.min(attempts, 16), longestPauseMs);
  return Math.max(asked, pause);
}

/**
 * Whether what was refused says that the whole batch has to wait: its caller is over its rate, or nothing of the chunk could be stored. Otherwise only the refused messages wait, and those behind them of
 * the same sender and channel.
 */
export function holdsBatch(passing: readonly BatchResult[], sent: number): boolean {
  if (passing.some(({ refusal }) => refusal?.reason === 'RATE_LIMITED' && refusal.metadata.by === 'caller'))
    return true;
  return (
    passing.length > 0 && passing.length === sent && passing.every(({ refusal }) => refusal?.reason !== 'RATE_LIMITED')
  );
}
