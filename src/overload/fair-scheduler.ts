import { limits } from '../limits.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import { overloaded } from './admission-controller.ts';

/**
 * Shares a resource that a process has once (the event loop for rendering, the moderation thread)
 * among callers.
 *
 * One slice runs at a time. Callers get equal shares of time, however many calls each has; within a
 * caller new calls go before long ones, which get at least every fourth slice (fair queuing by
 * virtual time).
 */
export class FairScheduler {
  readonly #queues = new Map<string, Queue>();
  readonly #rest: (tookMs: number) => Promise<void> | undefined;
  readonly #aside: () => () => void;
  /** Bytes of waiting calls, per caller and in total. */
  readonly #bytes = new Map<string, number>();
  #allBytes = 0;
  /**
   * Virtual time of the caller served last: a new caller starts there, without credit for its
   * absence.
   */
  #servedAt = 0;
  #taken = false;

  constructor({ rest = () => undefined, aside = () => () => {} }: FairSchedulerOptions = {}) {
    this.#rest = rest;
    this.#aside = aside;
  }

  /**
   * Repeats a step, one per slice, until it is done. Rejects when a step throws, when the signal
   * aborts before a slice, and with OVERLOADED when too many bytes wait.
   */
  async run(call: ScheduledCall, step: () => Step | Promise<Step>): Promise<void> {
    call.signal?.throwIfAborted();
    const leave = this.#taken ? this.#enter(call) : undefined;
    // Calls without a signal are sends of submitted batches, which admission control does not
    // count.
    const resume = call.signal === undefined ? undefined : this.#aside();
    try {
      await this.#runSlices(call, step);
    } finally {
      resume?.();
      leave?.();
    }
  }

  /**
   * Counts the bytes of a waiting call; throws OVERLOADED when it is too much. A caller may take
   * more than its share as long as a share of another is left.
   */
  #enter({ caller, weigh }: ScheduledCall): () => void {
    const bytes = weigh?.() ?? 0;
    const own = this.#bytes.get(caller) ?? 0;
    const freeBytes = limits.bodiesBytes - this.#allBytes - bytes;
    const isOverShare = own > 0 && own + bytes > limits.callerWaitingBytes;
    if (freeBytes < (isOverShare ? limits.callerWaitingBytes : 0)) throw overloaded();
    this.#bytes.set(caller, own + bytes);
    this.#allBytes += bytes;
    return () => {
      const left = (this.#bytes.get(caller) ?? 0) - bytes;
      if (left > 0) this.#bytes.set(caller, left);
      else this.#bytes.delete(caller);
      this.#allBytes -= bytes;
    };
  }

  async #runSlices(call: ScheduledCall, step: () => Step | Promise<Step>): Promise<void> {
    const work: Work = { caller: call.caller, signal: call.signal, spentMs: call.isLong ? freshMs : 0 };
    let waiting = this.#taken ? this.#wait(work) : undefined;
    this.#taken = true;
    for (;;) {
      await waiting;
      const queue = this.#queueOf(work.caller);
      queue.isServed = true;
      const start = performance.now();
      let end: Step = { isDone: true };
      try {
        end = await step();
      } finally {
        const tookMs = end.tookMs ?? performance.now() - start;
        work.spentMs += tookMs;
        queue.virtualMs += tookMs;
        queue.isServed = false;
        // Queued before the next slice is chosen, or this caller would lose its share to the
        // others.
        waiting = end.isDone ? undefined : this.#wait(work);
        waiting?.catch(() => {});
        const rest = this.#rest(tookMs);
        if (rest === undefined) this.#next();
        else void rest.then(() => this.#next());
      }
      if (waiting === undefined) return;
    }
  }

  #wait(work: Work): Promise<void> {
    return new Promise((resolve, reject) => {
      const queue = this.#queueOf(work.caller);
      const list = work.spentMs < freshMs ? queue.fresh : queue.long;
      const { signal } = work;
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
    const made: Queue = { virtualMs: this.#servedAt, fresh: new Set(), long: new Set(), slices: 0, isServed: false };
    this.#queues.set(caller, made);
    return made;
  }

  /** Gives the next slice to the caller with the least virtual time. */
  #next(): void {
    let least: Queue | undefined;
    for (const [caller, queue] of this.#queues) {
      if (queue.fresh.size + queue.long.size === 0) {
        // An idle caller is forgotten once the others have caught up with it.
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
    const isForLong = least.fresh.size === 0 || (least.long.size > 0 && least.slices++ % longEvery === longEvery - 1);
    const list = isForLong ? least.long : least.fresh;
    const [begin] = list;
    if (begin === undefined) return;
    list.delete(begin);
    begin();
  }
}

export interface FairSchedulerOptions {
  /** Pause between two slices; undefined: none. */
  readonly rest?: (tookMs: number) => Promise<void> | undefined;
  /**
   * Called when a call enters, its result when it leaves: meanwhile the call does not use the
   * store.
   */
  readonly aside?: () => () => void;
}

/** A call that is run in slices. */
export interface ScheduledCall {
  /** The caller whose share it uses. */
  readonly caller: string;
  /** Aborts when the caller disconnects. */
  readonly signal?: Cancellation | undefined;
  /** Approximate bytes that it holds while it waits. */
  readonly weigh?: () => number;
  /** Whether it is known to take long: then new calls go first. */
  readonly isLong?: boolean;
}

/** Result of a slice. */
export interface Step {
  readonly isDone: boolean;
  /** Milliseconds that it took, if they differ from the elapsed time. */
  readonly tookMs?: number;
}

interface Work extends ScheduledCall {
  spentMs: number;
}

interface Queue {
  virtualMs: number;
  /** New calls and long ones, each in order of arrival. */
  readonly fresh: Set<() => void>;
  readonly long: Set<() => void>;
  slices: number;
  isServed: boolean;
}

/** Milliseconds of work up to which a call is new. */
const freshMs = 20;
const longEvery = 4;
/** Differences of virtual time up to this many milliseconds do not count. */
const sameMs = 50;

/**
 * Order of callers: less virtual time first, and about equal ones by whether they have a new call.
 */
function isBefore(a: Queue, b: Queue): boolean {
  const [hadA, hadB] = [Math.floor(a.virtualMs / sameMs), Math.floor(b.virtualMs / sameMs)];
  if (hadA !== hadB) return hadA < hadB;
  if (a.fresh.size > 0 !== b.fresh.size > 0) return a.fresh.size > 0;
  return a.virtualMs < b.virtualMs;
}

function isIdle({ fresh, long, isServed }: Queue): boolean {
  return !isServed && fresh.size + long.size === 0;
}
