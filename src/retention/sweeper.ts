// Removes what is over: expired messages, messages past RETENTION, copies past RECALL_KEEP_DAYS,
// temporary channels, inbox entries of removed commands.
//
// Entry point: `startSweeper`; the statements are in *.sql.ts. Every instance sweeps. Statements
// skip rows that others have locked and take locks in key order, so that sweepers never deadlock
// and senders never wait for them. Ages are compared with database time. What is removed is counted
// per channel, so that `verify` distinguishes it from a lost message.

import { type Loop, startLoop } from '../observability/loop.ts';
import { dayMs } from '../time.ts';

/** How long messages of a channel type are kept. */
export interface Retention {
  readonly channelType: number;
  readonly days: number;
}

export interface SweeperOptions {
  readonly everyMs: number;
  readonly retention: readonly Retention[];
  /**
   * Removes at most `limit` expired messages of each shard; returns how many of the one with most.
   */
  readonly sweepExpired: (limit: number, now: number) => Promise<number>;
  /**
   * Removes messages accepted before a time from channels of a type; `more`: another call may find
   * more.
   */
  readonly sweepOld: (
    channelType: number,
    times: { before: number; now: number },
    bounds: { channels: number; messages: number; total: number },
  ) => Promise<{ more: boolean }>;
  /** Removes at most `limit` copies of replaced contents that are too old; returns how many. */
  readonly sweepCopies: (limit: number, now: number) => Promise<number>;
  /** Removes temporary channels that are over; `more`: another call may find more. */
  readonly sweepTemporary: (now: number) => Promise<{ more: boolean }>;
  /** Removes inbox entries of removed commands; one step of a slow round. */
  readonly sweepInboxes: () => Promise<void>;
  readonly sweepLive: (longerThanMs: number) => Promise<void>;
  /** Database time: no instance's clock may decide what is removed. */
  readonly now: () => number;
  readonly onError: (error: unknown) => void;
  readonly onRun?: (ms: number, failed: boolean) => void;
}

/** Messages per statement, which then holds its locks for some milliseconds. */
const expiredAtOnce = 2000;
const oldAtOnce = { channels: 500, messages: 200, total: 5000 };
const liveMs = 60_000;

/**
 * Starts the sweeper. A run takes small steps of each kind in rotation until nothing is left:
 * messages go as fast as they arrive, and no kind, channel type or channel delays the others.
 */
export function startSweeper(options: SweeperOptions): Loop {
  const { retention, sweepExpired, sweepOld, sweepCopies, sweepTemporary, sweepInboxes, sweepLive, now } = options;
  let stopping = false;
  /** Each step returns whether another one may find more. */
  const steps: (() => Promise<boolean>)[] = [
    async () => (await sweepExpired(expiredAtOnce, now())) === expiredAtOnce,
    ...retention.map(({ channelType, days }) => async () => {
      const times = { before: now() - days * dayMs, now: now() };
      return (await sweepOld(channelType, times, oldAtOnce)).more;
    }),
    async () => (await sweepCopies(expiredAtOnce, now())) === expiredAtOnce,
    async () => (await sweepTemporary(now())).more,
    async () => {
      await sweepInboxes();
      return false;
    },
  ];
  const loop = startLoop({
    everyMs: options.everyMs,
    onError: options.onError,
    onRun: options.onRun,
    async run() {
      let left = steps;
      let liveSweptAt = Number.NEGATIVE_INFINITY;
      while (left.length > 0 && !stopping) {
        if (performance.now() - liveSweptAt >= options.everyMs) {
          await sweepLive(liveMs);
          liveSweptAt = performance.now();
        }
        const more: typeof steps = [];
        for (const step of left) if (!stopping && (await step())) more.push(step);
        left = more;
      }
    },
  });
  return {
    nudge: loop.nudge,
    stop() {
      stopping = true;
      return loop.stop();
    },
  };
}
