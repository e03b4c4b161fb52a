import { type Loop, startLoop } from '../observability/loop.ts';
import { dayMs } from '../time.ts';

/** What is kept how long. */
export interface Retention {
  readonly channelType: number;
  readonly days: number;
}

export interface SweeperOptions {
  readonly everyMs: number;
  readonly retention: readonly Retention[];
  /** Removes expired messages, at most so many; returns how many. */
  readonly sweepExpired: (limit: number, now: number) => Promise<number>;
  /** Removes messages that were accepted before a time from channels of a type; `more`: it may find more. */
  readonly sweepOld: (
    channelType: number,
    times: { before: number; now: number },
    bounds: { channels: number; messages: number; total: number },
  ) => Promise<{ more: boolean }>;
  /** Removes temporary channels that are over; `more`: it may find more. */
  readonly sweepTemporary: (now: number) => Promise<{ more: boolean }>;
  /** Removes what refers to commands that are gone; takes a step of a slow round. */
  readonly sweepInboxes: () => Promise<void>;
  readonly sweepLive: (longerThanMs: number) => Promise<void>;
  /** The database's clock: what is removed is gone, and no instance's own clock decides about it. */
  readonly now: () => number;
  readonly onError: (error: unknown) => void;
  readonly onRun?: (ms: number, failed: boolean) => void;
}

/** Messages of one statement: it holds its locks for some milliseconds. */
const expiredAtOnce = 2000;
const oldAtOnce = { channels: 500, messages: 200, total: 5000 };
const liveMs = 60_000;

/**
 * Removes what has expired, is too old or is over. A run takes small steps, of each kind in turn, until there is nothing left: messages go as fast as they come, and no kind, channel type or channel keeps
 * the others waiting.
 */
export function startSweeper(options: SweeperOptions): Loop {
  const { retention, sweepExpired, sweepOld, sweepTemporary, sweepInboxes, sweepLive, now } = options;
  let stopping = false;
  /** Each returns whether there may be more. */
  const steps: (() => Promise<boolean>)[] = [
    async () => (await sweepExpired(expiredAtOnce, now())) === expiredAtOnce,
    ...retention.map(({ channelType, days }) => async () => {
      const times = { before: now() - days * dayMs, now: now() };
      return (await sweepOld(channelType, times, oldAtOnce)).more;
    }),
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
