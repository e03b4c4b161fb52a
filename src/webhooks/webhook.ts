/** What a webhook posts: an envelope of our own, or WuKongIM's `msg.notify`. */
export type WebhookFormat = 'standard' | 'legacy';

/** What an answer means for a delivery: it is done, it is tried again, or the receiver wants no more. */
export type Verdict = 'done' | 'retry' | 'gone';

/** Legacy receivers say 200 and nothing else; a redirect is no answer, since it is not followed. */
export function verdictOf(format: WebhookFormat, status: number): Verdict {
  if (status === 410) return 'gone';
  const isDone = format === 'legacy' ? status === 200 : status >= 200 && status < 300;
  return isDone ? 'done' : 'retry';
}

/** How a webhook that fails is tried again. */
export interface RetrySchedule {
  /** Milliseconds after the first try that failed; four times as many after each that follows. */
  readonly firstMs: number;
  readonly longestMs: number;
  /** Tries of a delivery before it is parked. */
  readonly attempts: number;
  /** Failures one after the other, of whichever delivery, after which the webhook is left alone, */
  readonly failuresBeforeBreak: number;
  /** and for how many milliseconds, twice as many after each failure more, */
  readonly breakMs: number;
  /** up to these. */
  readonly longestBreakMs: number;
}

/** 1 s, 4 s, 16 s, 1 min, 4 min, 17 min, and then each hour: 5.4 hours, which outlast a night's restart and not a weekend. */
export const retrySchedule: RetrySchedule = {
  firstMs: 1000,
  longestMs: 3600_000,
  attempts: 12,
  failuresBeforeBreak: 5,
  breakMs: 1000,
  longestBreakMs: 60_000,
};

/** Milliseconds until the next try, after `attempts` that failed; `chance` is from 0 to 1, and moves it by a quarter, so that lanes do not come in step. */
export function retryDelay(
  attempts: number,
  retryAfterMs: number,
  chance: number,
  at: RetrySchedule = retrySchedule,
): number {
  const planned = Math.min(at.longestMs, at.firstMs * 4 ** Math.max(0, attempts - 1)) * (0.75 + chance / 2);
  return Math.ceil(Math.max(planned, Math.min(retryAfterMs, at.longestMs)));
}

/** Milliseconds that a webhook is left alone after so many failures one after the other. */
export function breakDelay(failures: number, at: RetrySchedule = retrySchedule): number {
  if (failures < at.failuresBeforeBreak) return 0;
  return Math.min(at.longestBreakMs, at.breakMs * 2 ** (failures - at.failuresBeforeBreak));
}

/** Milliseconds that a `Retry-After` asks for: seconds, or a date; 0 when it says neither. */
export function retryAfterMs(header: string | undefined, now: number): number {
  if (header === undefined) return 0;
  const text = header.trim();
  if (/^\d{1,10}$/.test(text)) return Number(text) * 1000;
  const date = Date.parse(text);
  return Number.isNaN(date) ? 0 : Math.max(0, date - now);
}

/** Consecutive messages of a channel. */
export interface Range {
  readonly channelKey: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** The first messages of these ranges, at most so many. */
export function firstOf<T extends Range>(ranges: readonly T[], count: number): T[] {
  const taken: T[] = [];
  let left = count;
  for (const range of ranges) {
    if (left === 0) break;
    const lastSeq = Math.min(range.lastSeq, range.firstSeq + left - 1);
    taken.push({ ...range, lastSeq });
    left -= lastSeq - range.firstSeq + 1;
  }
  return taken;
}

/** How many messages these are, if all are there. */
export function countOf(ranges: readonly Range[]): number {
  return ranges.reduce((sum, { firstSeq, lastSeq }) => sum + lastSeq - firstSeq + 1, 0);
}

/** Messages as they stand in ranges, up to so many bytes of payloads but at least one, and the ranges that then are left of these. */
export function withinBytes<
  M extends { readonly channelKey: number; readonly messageSeq: number; readonly bytes: number },
>(
  ranges: readonly Range[],
  messages: readonly M[],
  bytes: number,
): { readonly ranges: readonly Range[]; readonly messages: readonly M[] } {
  let sum = 0;
  const tooMuch = messages.findIndex((message, index) => {
    sum += message.bytes;
    return index > 0 && sum > bytes;
  });
  if (tooMuch === -1) return { ranges, messages };
  const last = messages[tooMuch - 1] as M;
  const at = ranges.findIndex((range) => range.channelKey === last.channelKey);
  const cut = ranges
    .slice(0, at + 1)
    .map((range, index) => (index === at ? { ...range, lastSeq: last.messageSeq } : range));
  return { ranges: cut, messages: messages.slice(0, tooMuch) };
}

/** A try to deliver that ended, as it is told and counted: without the URL, which may hold secrets, and without what was sent. */
export interface DeliveryAttempt {
  readonly webhook: string;
  /** The `webhook-id`. */
  readonly delivery: string;
  readonly messages: number;
  /** Which try it was, from 1. */
  readonly attempt: number;
  /** 0: there was no answer. */
  readonly status: number;
  readonly ms: number;
  readonly error?: string;
}
