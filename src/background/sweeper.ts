import { type Loop, startLoop } from './loop.ts';

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
  /** Removes messages before a time from channels of a type after a key. */
  readonly sweepOld: (
    channelType: number,
    before: number,
    afterKey: number,
    bounds: { channels: number; messages: number },
  ) => Promise<{ lastKey: number | undefined; removed: number }>;
  readonly sweepLive: (longerThanMs: number) => Promise<void>;
  readonly now: () => number;
  /** The clock of the database. What is removed is gone: both clocks have to agree that its time is over. */
  readonly databaseClock: () => Promise<number>;
  /** Told when the two are far apart: positive when this process is ahead. */
  readonly onClocksApart: (aheadMs: number) => void;
  readonly onError: (error: unknown) => void;
  readonly onRun?: (ms: number, failed: boolean) => void;
}

/** Messages of one statement: it holds its locks for a few milliseconds. */
const bite = 1000;
/** Bites of one run, so that a run ends. */
const bites = 100;
const channelsAtOnce = 500;
const perChannel = 100;
const liveMs = 60_000;
const dayMs = 24 * 3600_000;
/** Clocks that are kept by NTP differ by milliseconds. */
const apartMs = 5000;

/** Removes what has expired or is too old, in small bites. */
export function startSweeper(options: SweeperOptions): Loop {
  const { retention, sweepExpired, sweepOld, sweepLive } = options;
  return startLoop({
    everyMs: options.everyMs,
    onError: options.onError,
    onRun: options.onRun,
    async run() {
      await sweepLive(liveMs);
      const now = await earlierClock(options);
      for (let taken = 0; taken < bites; taken++) if ((await sweepExpired(bite, now)) < bite) break;
      for (const { channelType, days } of retention) {
        const before = now - days * dayMs;
        let after = 0;
        for (let taken = 0; taken < bites; taken++) {
          const bounds = { channels: channelsAtOnce, messages: perChannel };
          const { lastKey, removed } = await sweepOld(channelType, before, after, bounds);
          if (lastKey === undefined) break;
          // Channels that had as much as one bite takes may have more.
          if (removed < perChannel) after = lastKey;
        }
      }
    },
  });
}

async function earlierClock({ now, databaseClock, onClocksApart }: SweeperOptions): Promise<number> {
  const theirs = await databaseClock();
  const ours = now();
  if (Math.abs(ours - theirs) > apartMs) onClocksApart(ours - theirs);
  return Math.min(ours, theirs);
}
