/** Event loop delay in milliseconds, by the last two samples. */
export interface QueueDelay {
  readonly now: number;
  readonly before: number;
}

/** Proportional gain: added to the share per sample at twice the target delay. */
const level = 0.05;
/**
 * Differential gain: added to the share per target length by which the delay grew since the last
 * sample.
 */
const growth = 0.5;

/**
 * The next share of calls to refuse: the controller of PIE (RFC 8033) with its constants, in units
 * of the target delay.
 *
 * At twice the capacity the delay grows by one second per second: a share of one half is reached
 * within the target delay. Below half of the target nothing is refused, so that bursts pass.
 */
export function nextShare(share: number, waits: QueueDelay, targetMs: number): number {
  if (waits.now < targetMs / 2 && waits.before < targetMs / 2) return 0;
  const excess = (waits.now - targetMs) / targetMs;
  const grown = (waits.now - waits.before) / targetMs;
  return Math.min(1, Math.max(0, share + level * excess + growth * grown));
}

/** Up to this many calls are never refused: if they are slow, refusing them does not help. */
export const fewCalls = 16;

/** Measurements of calls that send and ended lately. */
export interface ServiceRate {
  /** Duration of the quickest stored call: one that waited for no other, in milliseconds. */
  readonly quickestMs: number;
  /** Median duration of calls stored in the last samples, in milliseconds. */
  readonly usualMs: number;
  /** Calls that end per second. */
  readonly perSecond: number;
}

/**
 * Limit of calls in flight: as many as end within the time that a call may take (Little's law).
 * That time is twice the quickest call, since a call waits for the group in flight, plus `waitMs`.
 * No limit while the median is below half of it: a single call stuck behind a lock says nothing
 * about the others.
 */
export function concurrencyLimit({ quickestMs, usualMs, perSecond }: ServiceRate, waitMs: number): number {
  const longestMs = 2 * quickestMs + waitMs;
  if (usualMs < longestMs / 2) return Number.POSITIVE_INFINITY;
  return Math.max(fewCalls, Math.ceil((perSecond * longestMs) / 1000));
}
