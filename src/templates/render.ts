import { setImmediate, setTimeout } from 'node:timers/promises';
import { FairScheduler, type ScheduledCall, type Step } from '../overload/fair-scheduler.ts';
import { ExecutionTimeout, runWithTimeout } from '../overload/watchdog.ts';

/** One rendering of a batch. */
export interface RenderJob {
  readonly count: number;
  /** Each message ends in good time by itself: the watchdog is spared. */
  readonly isBounded: boolean;
  /** Renders one message. It may be broken off, and is then done again or refused. */
  readonly render: (index: number) => void;
  /** It cannot be rendered in the time that there is. */
  readonly refuse: (index: number, why: string) => void;
}

/** Milliseconds after which others have their turn. */
const sliceMs = 10;
/** Milliseconds of one slice, and so of one message: more than liquidjs gives itself, which says it better. */
const messageMs = 75;
/** Milliseconds of a batch: 5 ms a message, a hundred times what is usual. */
const batchMs = 5000;
/** Milliseconds of rendering on end after which the process does something else for half of its time. */
const busyMs = 50;
/** Milliseconds without rendering after which that begins anew: longer than a rest. */
const idleMs = 200;

/** The turns at rendering. One slice runs at a time in a process, whoever renders: 24 calls with a slice each per turn of the loop held up everybody for 44 s. */
export function createRenderingScheduler(aside?: () => () => void): FairScheduler {
  let busySumMs = 0;
  let endedAt = 0;
  const rest = (tookMs: number) => {
    const now = performance.now();
    if (now - tookMs - endedAt > idleMs) busySumMs = 0;
    busySumMs += tookMs;
    endedAt = now;
    if (tookMs < 1) return undefined;
    // A call takes some turns of the loop: one turn after each 100 ms made a second of it.
    return busySumMs > busyMs ? setTimeout(Math.min(tookMs, messageMs)) : setImmediate();
  };
  return new FairScheduler({ rest, ...(aside === undefined ? {} : { aside }) });
}

/** Renders a batch, a slice a turn: a thousand templates of 50 ms each held up everybody for 50 s. */
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
      // The first of its slice had all of the time, and has it once more, since the process may have stood still; another begins a slice of its own.
      if (index === first) {
        if (isSecondAttempt) refuse(index++, error.message);
        else isSecondAttempt = true;
      }
    }
    isSecondAttempt &&= index === first;
    // A process that stood still has not been rendering.
    const tookMs = Math.min(performance.now() - start, messageMs);
    spentMs += tookMs;
    if (spentMs > batchMs)
      for (; index < count; index++) refuse(index, `rendering the batch took longer than ${batchMs} ms`);
    return { isDone: index >= count, tookMs };
  };
  if (count > 0) await scheduler.run(call, step);
}
