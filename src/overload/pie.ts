/** How long work waits for the event loop, by the last two looks. */
export interface QueueDelay {
  readonly now: number;
  readonly before: number;
}

/** Of the whole share, for each look at which work waits twice as long as it should. */
const level = 0.05;
/** Of the whole share, for each target's length by which the wait has grown since the last look. */
const growth = 0.5;

/**
 * The share of calls to refuse, from the last one and from how long work waits: the proportional and integral controller of PIE (RFC 8033) with its numbers, in
 * units of the target. What arrives at twice the capacity makes the wait grow by a second a second: a share of a half is reached within the target's
 * time, and held by the level. Below half of the target nobody is refused: bursts pass.
 */
export function nextShare(share: number, waits: QueueDelay, targetMs: number): number {
  if (waits.now < targetMs / 2 && waits.before < targetMs / 2) return 0;
  const excess = (waits.now - targetMs) / targetMs;
  const grown = (waits.now - waits.before) / targetMs;
  return Math.min(1, Math.max(0, share + level * excess + growth * grown));
}

/** So few calls are never too many: whatever is slow then, refusing them mends nothing. */
export const fewCalls = 16;

/** What is known of calls that send, by those that have ended. */
export interface ServiceRate {
  /** Milliseconds that the quickest took of late that was stored: what one takes that waits for no other. */
  readonly quickestMs: number;
  /** Milliseconds that the middle one took of those that were stored a moment ago. */
  readonly usualMs: number;
  /** How many calls end in a second. */
  readonly perSecond: number;
}

/**
 * How many calls may be here at once: as many as end in the time that a call may take (Little's law), which is what it takes alone, twice, since it finds
 * a group under way, and the wait that it may have. No bound while calls take half of that: one that is stuck, as behind a lock, says nothing of the others.
 */
export function concurrencyLimit({ quickestMs, usualMs, perSecond }: ServiceRate, waitMs: number): number {
  const longestMs = 2 * quickestMs + waitMs;
  if (usualMs < longestMs / 2) return Number.POSITIVE_INFINITY;
  return Math.max(fewCalls, Math.ceil((perSecond * longestMs) / 1000));
}
