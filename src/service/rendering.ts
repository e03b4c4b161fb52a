import { setImmediate, setTimeout } from 'node:timers/promises';
import { OutOfTime, within } from './time-slice.ts';

/** One rendering of a batch. */
export interface RenderingWork {
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
/** Milliseconds of one message: somewhat more than liquidjs gives itself, twice, which says it better. */
const messageMs = 120;
/** Milliseconds of a batch: 5 ms a message, a hundred times what is usual. */
const batchMs = 5000;

/** Renders a batch, a slice at a time: a thousand templates of 50 ms each held up everybody for 50 s. */
export async function renderInSlices({ count, isBounded, render, refuse }: RenderingWork): Promise<void> {
  let index = 0;
  let spent = 0;
  let isAgain = false;
  while (index < count) {
    if (spent > batchMs) {
      for (; index < count; index++) refuse(index, `the batch takes longer than ${batchMs} ms to render`);
      return;
    }
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
      else within(messageMs, slice);
    } catch (error) {
      if (!(error instanceof OutOfTime)) throw error;
      // The first of its slice had all of the time, and has it once more, since the process may have stood still; another begins a slice of its own.
      if (index === first) {
        if (isAgain) refuse(index++, `it takes longer than ${messageMs} ms`);
        else isAgain = true;
      }
    }
    isAgain &&= index === first;
    // A process that stood still has not been rendering.
    const took = Math.min(performance.now() - start, messageMs);
    spent += took;
    // A call takes some turns of the loop: one turn after each 100 ms made a second of it.
    if (index < count) await (took > 2 * sliceMs ? setTimeout(took) : setImmediate());
  }
}
