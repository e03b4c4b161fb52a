/** How long work waits, by the last two looks. */
export interface Waits {
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
export function nextShare(share: number, waits: Waits, targetMs: number): number {
  if (waits.now < targetMs / 2 && waits.before < targetMs / 2) return 0;
  const excess = (waits.now - targetMs) / targetMs;
  const grown = (waits.now - waits.before) / targetMs;
  return Math.min(1, Math.max(0, share + level * excess + growth * grown));
}
