import { setImmediate, setTimeout } from 'node:timers/promises';
import { FairScheduler, type ScheduledCall, type Step } from '../overload/fair-scheduler.ts';
import { ExecutionTimeout, runWithTimeout } from '../overload/watchdog.ts';
import { secondMs } from '../time.ts';

/** The rendering of a batch. */
export interface RenderJob {
  readonly count: number;
  /** Whether each message renders in bounded time, so that no watchdog is needed. */
  readonly isBounded: boolean;
  /** Renders one message. It may be interrupted, and is then repeated or refused. */
  readonly render: (index: number) => void;
  /** Refuses a message that cannot be rendered in time. */
  readonly refuse: (index: number, why: string) => void;
}

/** Time after which another call gets a slice. */
const sliceMs = 10;
/**
 * Watchdog limit per slice, and so per message: above liquidjs's own limit, whose error is clearer.
 */
const messageMs = 75;
/** Rendering time per batch: 5 ms per message, a hundred times the usual. */
const batchMs = 5 * secondMs;
/** Continuous rendering after which the process spends half of its time on other work. */
const busyMs = 50;
/** Time without rendering that resets the sum: longer than a rest. */
const idleMs = 200;
/** Slices below this time need no rest. */
const negligibleMs = 1;

/**
 * Creates the scheduler of rendering: one slice at a time per process. With one slice per call and
 * event loop iteration, 24 calls would block other calls for 44 s.
 */
export function createRenderingScheduler(aside?: () => () => void): FairScheduler {
  let busySumMs = 0;
  let endedAt = 0;
  const rest = (tookMs: number) => {
    const now = performance.now();
    if (now - tookMs - endedAt > idleMs) busySumMs = 0;
    busySumMs += tookMs;
    endedAt = now;
    if (tookMs < negligibleMs) return undefined;
    // One loop iteration is no rest: a call needs several, and took 1 s with one per 100 ms.
    return busySumMs > busyMs ? setTimeout(Math.min(tookMs, messageMs)) : setImmediate();
  };
  return new FairScheduler({ rest, ...(aside === undefined ? {} : { aside }) });
}

/**
 * Renders a batch in slices: in one piece, a thousand messages of 50 ms each would block other
 * calls for 50 s.
 */
export async function renderInSlices(
  scheduler: FairScheduler,
  call: ScheduledCall,
  { count, isBounded, render, refuse }: RenderJob,
): Promise<void> {
  let index = 0;
  let spentMs = 0;
  let isSecondAttempt = false;
  const step = (): Step => {
    const first = index;
    const start = performance.now();
    const slice = () => {
      for (; index < count; index++) {
        if (index > first && performance.now() - start > sliceMs) return;
        render(index);
      }
    };
    try {
      if (isBounded) slice();
      else runWithTimeout(messageMs, slice);
    } catch (error) {
      if (!(error instanceof ExecutionTimeout)) throw error;
      // The first message of a slice had the whole time: it is repeated once, since the process may
      // have been suspended. Any other message begins the next slice.
      if (index === first) {
        if (isSecondAttempt) refuse(index++, error.message);
        else isSecondAttempt = true;
      }
    }
    isSecondAttempt &&= index === first;
    // Time above the watchdog's limit means that the process was suspended.
    const tookMs = Math.min(performance.now() - start, messageMs);
    spentMs += tookMs;
    if (spentMs > batchMs)
      for (; index < count; index++) refuse(index, `rendering the batch took longer than ${batchMs} ms`);
    return { isDone: index >= count, tookMs };
  };
  if (count > 0) await scheduler.run(call, step);
}
