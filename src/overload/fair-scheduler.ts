import { limits } from '../limits.ts';
import { overloaded } from './admission-controller.ts';

/**
 * Turns at something of which a process has one: the event loop for rendering, the thread of moderation. Callers get equal shares of its time, however many
 * calls each has; within a caller new calls go before long ones, which get at least every fourth turn. One turn at a time.
 */
export class FairScheduler {
  readonly #queues = new Map<string, Queue>();
  readonly #rest: (tookMs: number) => Promise<void> | undefined;
  readonly #aside: () => () => void;
  /** Bytes of the calls that are here, of each caller and of all. */
  readonly #bytes = new Map<string, number>();
  #allBytes = 0;
  /** The time that the caller served last had had: a caller that comes now begins there, and has saved up nothing. */
  #servedAt = 0;
  #taken = false;

  constructor({ rest = () => undefined, aside = () => () => {} }: FairSchedulerOptions = {}) {
    this.#rest = rest;
    this.#aside = aside;
  }

  /**
   * Repeats a step, one per turn, until it is done. Rejects when a step throws, when the caller has gone away before a turn comes, and when too much
   * waits already.
   */
  async run(call: ScheduledCall, step: () => Step | Promise<Step>): Promise<void> {
    call.signal?.throwIfAborted();
    const leave = this.#taken ? this.#enter(call) : undefined;
    // Who calls from within, a batch that is sent in the background, was not counted.
    const back = call.signal === undefined ? undefined : this.#aside();
    try {
      await this.#takeTurns(call, step);
    } finally {
      back?.();
      leave?.();
    }
  }

  /** Counts what has to wait; throws when it is too much. */
  #enter({ caller, weigh }: ScheduledCall): () => void {
    const bytes = weigh?.() ?? 0;
    const own = this.#bytes.get(caller) ?? 0;
    if ((own > 0 && own + bytes > limits.callerWaitingBytes) || this.#allBytes + bytes > limits.bodiesBytes)
      throw overloaded();
    this.#bytes.set(caller, own + bytes);
    this.#allBytes += bytes;
    return () => {
      const left = (this.#bytes.get(caller) ?? 0) - bytes;
      if (left > 0) this.#bytes.set(caller, left);
      else this.#bytes.delete(caller);
      this.#allBytes -= bytes;
    };
  }

  async #takeTurns(call: ScheduledCall, step: () => Step | Promise<Step>): Promise<void> {
    const turn: Turn = { caller: call.caller, signal: call.signal, spentMs: call.isLong ? freshMs : 0 };
    let waiting = this.#taken ? this.#wait(turn) : undefined;
    this.#taken = true;
    for (;;) {
      await waiting;
      const queue = this.#queueOf(turn.caller);
      queue.isServed = true;
      const start = performance.now();
      let end: Step = { isDone: true };
      try {
        end = await step();
      } finally {
        const tookMs = end.tookMs ?? performance.now() - start;
        turn.spentMs += tookMs;
        queue.virtualMs += tookMs;
        queue.isServed = false;
        // In the queue before the next one is chosen, or it would lose its share to whoever waits already.
        waiting = end.isDone ? undefined : this.#wait(turn);
        waiting?.catch(() => {});
        const rest = this.#rest(tookMs);
        if (rest === undefined) this.#next();
        else void rest.then(() => this.#next());
      }
      if (waiting === undefined) return;
    }
  }

  #wait(turn: Turn): Promise<void> {
    return new Promise((resolve, reject) => {
      const queue = this.#queueOf(turn.caller);
      const list = turn.spentMs < freshMs ? queue.fresh : queue.long;
      const { signal } = turn;
      const leave = () => {
        list.delete(begin);
        reject(signal?.reason as Error);
      };
      const begin = () => {
        signal?.removeEventListener('abort', leave);
        resolve();
      };
      if (signal?.aborted) return leave();
      list.add(begin);
      signal?.addEventListener('abort', leave, { once: true });
    });
  }

  #queueOf(caller: string): Queue {
    const known = this.#queues.get(caller);
    if (known !== undefined) {
      if (isIdle(known)) known.virtualMs = Math.max(known.virtualMs, this.#servedAt);
      return known;
    }
    const made: Queue = { virtualMs: this.#servedAt, fresh: new Set(), long: new Set(), turns: 0, isServed: false };
    this.#queues.set(caller, made);
    return made;
  }

  /** The turn goes to the caller that has had the least. */
  #next(): void {
    let least: Queue | undefined;
    for (const [caller, queue] of this.#queues) {
      if (queue.fresh.size + queue.long.size === 0) {
        // What it is ahead of the others is forgotten when they have caught up.
        if (queue.virtualMs <= this.#servedAt) this.#queues.delete(caller);
      } else if (least === undefined || isBefore(queue, least)) least = queue;
    }
    if (least === undefined) {
      this.#queues.clear();
      this.#servedAt = 0;
      this.#taken = false;
      return;
    }
    this.#servedAt = least.virtualMs;
    const isForLong = least.fresh.size === 0 || (least.long.size > 0 && least.turns++ % longEvery === longEvery - 1);
    const list = isForLong ? least.long : least.fresh;
    const [begin] = list;
    if (begin === undefined) return;
    list.delete(begin);
    begin();
  }
}

export interface FairSchedulerOptions {
  /** What lies between two turns; undefined: nothing. */
  readonly rest?: (tookMs: number) => Promise<void> | undefined;
  /** Told of a call while it waits and works here, and by what it returns that it goes on: it waits for no store meanwhile. */
  readonly aside?: () => () => void;
}

/** A call that takes turns. */
export interface ScheduledCall {
  /** The caller whose share it is. */
  readonly caller: string;
  /** Aborted when the caller has gone away. */
  readonly signal?: AbortSignal | undefined;
  /** About how many bytes it holds while it waits. */
  readonly weigh?: () => number;
  /** It is known to take long: it has no turn before calls that are new. */
  readonly isLong?: boolean;
}

/** What became of a turn. */
export interface Step {
  readonly isDone: boolean;
  /** Milliseconds that it took, where the clock does not tell. */
  readonly tookMs?: number;
}

interface Turn extends ScheduledCall {
  spentMs: number;
}

interface Queue {
  virtualMs: number;
  /** Calls that have had next to nothing, and the others; each in the order of their coming. */
  readonly fresh: Set<() => void>;
  readonly long: Set<() => void>;
  turns: number;
  isServed: boolean;
}

/** Milliseconds up to which a call is new. */
const freshMs = 20;
const longEvery = 4;
/** Milliseconds up to which callers have had the same: one that sends little is not behind each that has had nothing yet. */
const sameMs = 50;

/** Which of two callers has its turn first: the one that has had less, by and large, and then the one whose call is new. */
function isBefore(a: Queue, b: Queue): boolean {
  const [hadA, hadB] = [Math.floor(a.virtualMs / sameMs), Math.floor(b.virtualMs / sameMs)];
  if (hadA !== hadB) return hadA < hadB;
  if (a.fresh.size > 0 !== b.fresh.size > 0) return a.fresh.size > 0;
  return a.virtualMs < b.virtualMs;
}

function isIdle({ fresh, long, isServed }: Queue): boolean {
  return !isServed && fresh.size + long.size === 0;
}
