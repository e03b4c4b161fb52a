import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Failure } from '../domain/failure.ts';
import { nextShare } from '../domain/shedding.ts';

/** Calls are refused while they cost nothing yet, when more comes than can be done. */
export interface Overload {
  /** Told of each call; whether calls are refused now, which is nearly always false. */
  arrives(): boolean;
  /** Whether a call that comes now is to be refused. What sends waits for the store, what reads does not. */
  refuses(kind: 'send' | 'read'): boolean;
  stop(): void;
}

export interface OverloadOptions {
  /** Milliseconds that work may wait. */
  readonly targetMs: number;
  /** How long what is to be stored waits for its turn now. */
  readonly waitMs: () => number;
  /** Told once a look, while calls are refused and once when that ends. */
  readonly onShed: (shed: { refused: number; share: number; waitMs: number }) => void;
}

/** Between two looks. */
const lookMs = 100;
/** How often the event loop is asked for a turn, by a timer below JavaScript. */
const turnMs = 20;
/** Between two reports. */
const reportMs = 5000;

/**
 * Looks ten times a second how long work waits. It waits in two places: before the event loop, which shows in how long its turns take, and in the lanes. The
 * shorter of two looks counts, so that one long pause (a garbage collection, another process) refuses nobody. A turn reads megabytes from each connection, and no look
 * comes in the middle of it: what the calls of one turn may take is half of the target, and the rest of them is refused.
 */
export function startOverload({ targetMs, waitMs, onShed }: OverloadOptions): Overload {
  const shares = { read: 0, send: 0 };
  /** The last look, and the shorter one of it and the one before. */
  const seen = { read: [0, 0], send: [0, 0] };
  let late = 0;
  /** When the first call came of this turn of the event loop. */
  let turnSince: number | undefined;
  let isTurnFull = false;
  let refused = 0;
  let reported = 0;
  const turns = monitorEventLoopDelay({ resolution: turnMs });
  turns.enable();

  const look = () => {
    const now = performance.now();
    // Where turns are longer than looks, a look may come before the next one was counted.
    if (turns.count > 0) late = Math.max(0, turns.percentile(50) / 1e6 - turnMs);
    turns.reset();
    const wait = waitMs();
    for (const [kind, ms] of [
      ['read', late],
      ['send', late + wait],
    ] as const) {
      const [last = 0, before = 0] = seen[kind];
      const shorter = Math.min(ms, last);
      seen[kind] = [ms, shorter];
      shares[kind] = nextShare(shares[kind], { now: shorter, before }, targetMs);
    }
    const calm = shares.send === 0 && shares.read === 0;
    if (refused === 0 || (now - reported < reportMs && !calm)) return;
    onShed({ refused, share: Math.max(shares.send, shares.read), waitMs: Math.round(late + wait) });
    refused = 0;
    reported = now;
  };
  const timer = setInterval(look, lookMs).unref();

  return {
    arrives() {
      if (turnSince === undefined) {
        turnSince = performance.now();
        setImmediate(() => {
          turnSince = undefined;
        });
        isTurnFull = false;
      } else isTurnFull = performance.now() - turnSince > targetMs / 2;
      return isTurnFull || shares.send > 0 || shares.read > 0;
    },
    refuses(kind) {
      const share = isTurnFull ? 1 : shares[kind];
      if (share === 0 || Math.random() >= share) return false;
      refused++;
      return true;
    },
    stop() {
      clearInterval(timer);
      turns.disable();
    },
  };
}

/** What OVERLOADED advises. */
const retryAfterMs = 1000;

/** More comes than can be done; nothing of the call was looked at. */
export function overloaded(): Failure {
  return new Failure({
    reason: 'OVERLOADED',
    message:
      'this instance has more waiting than it does in good time; nothing was stored: send it again after the time in RetryInfo, or to another instance',
    metadata: {},
    retryAfterMs,
  });
}
