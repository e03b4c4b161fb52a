// Pure decisions of webhook delivery: the meaning of an answer, retries, the contents of a POST.

import type { ChangeKind } from '../messages/message.ts';
import { hourMs, minuteMs, secondMs } from '../time.ts';

/** The body of a POST: sendbatch's own envelope, or WuKongIM's `msg.notify`. */
export type WebhookFormat = 'standard' | 'legacy';

/** The meaning of an answer: delivered, to be retried, or the receiver wants no more (410). */
export type Verdict = 'done' | 'retry' | 'gone';

/**
 * Classifies a status code. Legacy receivers answer success with 200 only. Redirects are not
 * followed, so they are retried.
 */
export function classifyStatus(format: WebhookFormat, status: number): Verdict {
  if (status === 410) return 'gone';
  const isDone = format === 'legacy' ? status === 200 : status >= 200 && status < 300;
  return isDone ? 'done' : 'retry';
}

/** When failed deliveries are retried, and when a failing webhook is paused (circuit breaker). */
export interface RetrySchedule {
  /**
   * Delay after the first failed attempt, in milliseconds. Each further one is four times as long.
   */
  readonly firstMs: number;
  readonly maxMs: number;
  /** Attempts of a delivery before it is parked. */
  readonly maxAttempts: number;
  /** Consecutive failures of a webhook, over all its deliveries, before it is paused. */
  readonly failuresBeforeBreak: number;
  /** First pause in milliseconds. It doubles with each further failure. */
  readonly breakMs: number;
  readonly maxBreakMs: number;
}

/**
 * Retries after 1 s, 4 s, 16 s, 1 min, 4 min, 17 min, then hourly: 5.4 hours in all, which outlasts
 * a nightly maintenance but not a weekend.
 */
export const retrySchedule: RetrySchedule = {
  firstMs: secondMs,
  maxMs: hourMs,
  maxAttempts: 12,
  failuresBeforeBreak: 5,
  breakMs: secondMs,
  maxBreakMs: minuteMs,
};

/**
 * Milliseconds until the next attempt after `attempts` failed ones. `random` (0 to 1) adds a jitter
 * of ±25 %, so that lanes do not retry in step.
 */
export function retryDelayMs(
  attempts: number,
  retryAfterMs: number,
  random: number,
  schedule: RetrySchedule = retrySchedule,
): number {
  const plannedMs = Math.min(schedule.maxMs, schedule.firstMs * 4 ** Math.max(0, attempts - 1)) * (0.75 + random / 2);
  return Math.ceil(Math.max(plannedMs, Math.min(retryAfterMs, schedule.maxMs)));
}

/** Milliseconds to pause a webhook after consecutive failures; 0: it is not paused. */
export function breakDelayMs(failures: number, schedule: RetrySchedule = retrySchedule): number {
  if (failures < schedule.failuresBeforeBreak) return 0;
  return Math.min(schedule.maxBreakMs, schedule.breakMs * 2 ** (failures - schedule.failuresBeforeBreak));
}

/**
 * Parses a `Retry-After` header (seconds or a date, RFC 9110) to milliseconds; 0 if it is neither.
 */
export function parseRetryAfterMs(header: string | undefined, now: number): number {
  if (header === undefined) return 0;
  const text = header.trim();
  if (/^\d{1,10}$/.test(text)) return Number(text) * secondMs;
  const date = Date.parse(text);
  return Number.isNaN(date) ? 0 : Math.max(0, date - now);
}

/** Consecutive messages of a channel. */
export interface SeqRange {
  readonly channelKey: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** The first `count` messages of these ranges. */
export function takeFirst<T extends SeqRange>(ranges: readonly T[], count: number): T[] {
  const taken: T[] = [];
  let remaining = count;
  for (const range of ranges) {
    if (remaining === 0) break;
    const lastSeq = Math.min(range.lastSeq, range.firstSeq + remaining - 1);
    taken.push({ ...range, lastSeq });
    remaining -= lastSeq - range.firstSeq + 1;
  }
  return taken;
}

/** The number of messages in these ranges, including expired ones. */
export function countMessages(ranges: readonly SeqRange[]): number {
  return ranges.reduce((sum, { firstSeq, lastSeq }) => sum + lastSeq - firstSeq + 1, 0);
}

/**
 * Cuts ranges and their messages, in order, to at most `bytes` of payloads, but at least one
 * message.
 */
export function cutToBytes<
  M extends { readonly channelKey: number; readonly messageSeq: number; readonly bytes: number },
>(
  ranges: readonly SeqRange[],
  messages: readonly M[],
  bytes: number,
): { readonly ranges: readonly SeqRange[]; readonly messages: readonly M[] } {
  let sum = 0;
  const end = messages.findIndex((message, index) => {
    sum += message.bytes;
    return index > 0 && sum > bytes;
  });
  if (end === -1) return { ranges, messages };
  const last = messages[end - 1] as M;
  const lastRange = ranges.findIndex((range) => range.channelKey === last.channelKey);
  const cut = ranges
    .slice(0, lastRange + 1)
    .map((range, index) => (index === lastRange ? { ...range, lastSeq: last.messageSeq } : range));
  return { ranges: cut, messages: messages.slice(0, end) };
}

/** What a POST tells: messages that were stored, or how some of them were changed. */
export type EventKind = 'stored' | ChangeKind;

/** A queued change. It comes after the messages up to `afterSeq` and before later ones. */
export interface QueuedChange {
  readonly changeNo: number;
  readonly kind: ChangeKind;
  readonly afterSeq: number;
}

/** What a lane has to deliver of one channel. */
export interface ChannelQueue {
  readonly channelKey: number;
  readonly messages: { readonly firstSeq: number; readonly lastSeq: number } | undefined;
  readonly changes:
    | {
        readonly firstChange: number;
        readonly lastChange: number;
        /** The first of them that are kept, in order: at most as many as a POST has. */
        readonly kept: readonly QueuedChange[];
      }
    | undefined;
}

/** The events of one POST. Ranges of changes have their numbers as sequences. */
export interface PlannedDelivery {
  readonly kind: EventKind;
  readonly ranges: readonly SeqRange[];
}

/**
 * Plans the next POST of a lane, of at most `count` events: what comes next in the first channel,
 * and what is of the same kind next in the others. Undefined: there is nothing.
 */
export function planDelivery(queues: readonly ChannelQueue[], count: number): PlannedDelivery | undefined {
  let kind: EventKind | undefined;
  const ranges: SeqRange[] = [];
  for (const queue of queues) {
    const next = nextOf(queue, count);
    if (next === undefined) continue;
    kind ??= next.kind;
    if (next.kind === kind) ranges.push(next.range);
  }
  return kind === undefined ? undefined : { kind, ranges: takeFirst(ranges, count) };
}

/** The next events of a channel that are of one kind, in the order of the channel. */
function nextOf(
  { channelKey, messages, changes }: ChannelQueue,
  limit: number,
): { readonly kind: EventKind; readonly range: SeqRange } | undefined {
  const first = changes?.kept[0];
  if (messages !== undefined && (first === undefined || messages.firstSeq <= first.afterSeq)) {
    const lastSeq = Math.min(messages.lastSeq, first?.afterSeq ?? messages.lastSeq);
    return { kind: 'stored', range: { channelKey, firstSeq: messages.firstSeq, lastSeq } };
  }
  if (changes === undefined) return undefined;
  const { firstChange, lastChange, kept } = changes;
  const kind = first?.kind ?? 'recalled';
  const end = kept.findIndex(
    (change) => change.kind !== kind || (messages !== undefined && change.afterSeq >= messages.firstSeq),
  );
  // Numbers of changes that are not kept any more belong to the range before them.
  const last =
    end !== -1 ? (kept[end]?.changeNo ?? 0) - 1 : kept.length < limit ? lastChange : (kept.at(-1)?.changeNo ?? 0);
  return { kind, range: { channelKey, firstSeq: firstChange, lastSeq: last } };
}

/**
 * An ended attempt, as logged and counted: without the URL, which may contain secrets, and without
 * the body.
 */
export interface DeliveryAttempt {
  readonly webhook: string;
  /** The `webhook-id`. */
  readonly delivery: string;
  readonly messages: number;
  /** The number of the attempt, from 1. */
  readonly attempt: number;
  /** 0: no answer. */
  readonly status: number;
  readonly ms: number;
  readonly error?: string;
}
