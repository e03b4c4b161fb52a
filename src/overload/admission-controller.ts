import { monitorEventLoopDelay } from 'node:perf_hooks';
import { ServiceError } from '../messages/service-error.ts';
import { concurrencyLimit, fewCalls, nextShare, type ServiceRate } from './pie.ts';

/** Calls that send are counted while they are here. Others may be streams, or take as long as their size. */
export type Load = 'send' | 'other';

/** Counts a call whose body is whole and whose caller is known. Undefined: it is refused after all; else what to call when it has ended. */
export type Begin = () => (() => void) | undefined;

/** Calls are refused while they cost nothing yet, when more comes than can be done. */
export interface AdmissionController {
  /** Asked about each call by its headers; undefined: it is to be refused. A call counts from its `Begin`: what dribbles its body in takes nothing from the store. */
  admit(load: Load): Begin | undefined;
  /** Told how long a batch was under way that was stored: what is refused in no time says nothing of the store. */
  stored(ms: number): void;
  /** Told that a call waits for something else than the store, which takes turns by caller; what it returns is called when it goes on. */
  aside(): () => void;
  stop(): void;
}

export interface OverloadOptions {
  /** Milliseconds that a call may take beyond what it takes alone. */
  readonly waitMs: number;
  /** Told every few seconds while calls are refused, and when none was for a second. */
  readonly onShed: (shed: { refused: number; share: number; waitMs: number }) => void;
}

/** Between two looks. */
const lookMs = 100;
/** Looks back, for what has ended: a second. */
const looksBack = 10;
/** Looks back that tell how long a call takes now. */
const usualSamples = 3;
/** Looks together that tell how many calls end in a time: groups of calls end together, a few in each look. */
const rateSamples = 5;
/** Looks for which the quickest call is remembered at least, and at most twice as long: the database may have moved farther away. */
const quickestSamples = 3000;
/** Between two calls that are let through whatever holds the others: they may go where nothing is held, and tell that the store is well. */
const probeMs = 1000;
/** Calls of one turn of the event loop that are let through, however long it takes: what a connection has streams. */
const turnCalls = 250;
/** How often the event loop is asked for a turn, by a timer below JavaScript. */
const turnMs = 20;
/** Between two reports. */
const reportMs = 5000;

/**
 * Work waits in two places. Inside, where as many calls are let in as end in good time; and before the event loop, where nobody counts them, which shows in how long its turns
 * take: the shorter of two looks counts, so that one long pause (a garbage collection, another process) refuses nobody. A turn reads megabytes from each connection, and no look
 * comes in the middle of it: what the calls of one turn may take is half of the wait, and the rest of them is refused.
 */
export function startAdmissionController({ waitMs, onShed }: OverloadOptions): AdmissionController {
  const pace = createPace();
  const turns = monitorEventLoopDelay({ resolution: turnMs });
  turns.enable();
  /** The last look at how late the event loop is, and the shorter one of it and the one before. */
  let late: readonly [number, number] = [0, 0];
  /** Of the calls that come, to refuse because it is late. */
  let share = 0;
  /** When the first call came of this turn of the event loop, and how many have come. */
  let turnSince: number | undefined;
  let turnCame = 0;
  /** When a call was last let through for the sake of it. */
  let probed = Number.NEGATIVE_INFINITY;
  /** Calls since the last look, and in the one before. */
  let came = 0;
  let cameBefore = 0;
  /** Calls that send, whose bodies are whole and that have not ended, and how many of them may be here. */
  let here = 0;
  let most = Number.POSITIVE_INFINITY;
  /** Calls since the last report, and how many of them were refused: now, and at the last look. */
  let asked = 0;
  let refused = 0;
  let refusedBefore = 0;
  /** Looks since one was refused. */
  let calmLooks = 0;
  let reported = 0;

  const look = () => {
    // Where turns are longer than looks, a look may come before the next one was counted.
    const lateMs = turns.count > 0 ? Math.max(0, turns.percentile(50) / 1e6 - turnMs) : late[0];
    turns.reset();
    const shorter = Math.min(lateMs, late[0]);
    share = nextShare(share, { now: shorter, before: late[1] }, waitMs);
    late = [lateMs, shorter];
    cameBefore = came;
    came = 0;
    const known = pace.look(Math.max(0, here));
    most = concurrencyLimit(known, waitMs);
    report(lateMs + known.usualMs);
  };
  const timer = setInterval(look, lookMs).unref();

  function report(tookMs: number): void {
    calmLooks = refused > refusedBefore ? 0 : calmLooks + 1;
    if (refused > 0 && (calmLooks >= looksBack || performance.now() - reported > reportMs)) {
      onShed({ refused, share: refused / asked, waitMs: Math.round(tookMs) });
      reported = performance.now();
      refused = 0;
    }
    refusedBefore = refused;
    if (refused === 0) asked = 0;
  }

  /** Whether the calls of this turn have had their time. */
  function isTurnFull(): boolean {
    turnCame++;
    if (turnSince !== undefined) return turnCame > turnCalls && performance.now() - turnSince > waitMs / 2;
    turnSince = performance.now();
    setImmediate(() => {
      turnSince = undefined;
      turnCame = 0;
    });
    return false;
  }

  function isFull(): boolean {
    return here >= most;
  }

  function isProbe(): boolean {
    if (performance.now() - probed < probeMs) return false;
    probed = performance.now();
    return true;
  }

  function begin(isProbing: boolean): (() => void) | undefined {
    if (!isProbing && isFull()) {
      refused++;
      return undefined;
    }
    here++;
    return () => {
      here--;
      pace.ended();
    };
  }

  return {
    admit(load) {
      came++;
      asked++;
      const turnIsFull = isTurnFull();
      if (came + cameBefore > fewCalls && (turnIsFull || Math.random() < share)) {
        refused++;
        return undefined;
      }
      if (load !== 'send') return () => () => {};
      if (!isFull()) return () => begin(false);
      if (isProbe()) return () => begin(true);
      refused++;
      return undefined;
    },
    stored: pace.stored,
    aside() {
      here--;
      return () => {
        here++;
      };
    },
    stop() {
      clearInterval(timer);
      turns.disable();
    },
  };
}

/** How calls get on. */
function createPace(): { ended(): void; stored(ms: number): void; look(here: number): ServiceRate } {
  /** What came to its end in each of the last looks, and how long each of them lasted. */
  const before: { readonly ends: number; readonly tookMs: readonly number[]; readonly ms: number }[] = [];
  let ends = 0;
  let tookMs: number[] = [];
  let looked = performance.now();
  /** When a call ended last, or none was here. */
  let lastEnd = looked;
  let looks = 0;
  let quickest: readonly [number, number] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];

  /** The best of some looks together: a service that was idle until now is not as slow as the mean of them. */
  function perSecond(): number {
    let best = 0;
    for (let end = rateSamples; end <= before.length; end++) {
      const some = before.slice(end - rateSamples, end);
      const sum = some.reduce((all, each) => ({ ends: all.ends + each.ends, ms: all.ms + each.ms }), {
        ends: 0,
        ms: 0,
      });
      best = Math.max(best, (sum.ends * 1000) / sum.ms);
    }
    return best;
  }

  return {
    ended() {
      ends++;
    },
    stored(ms) {
      tookMs.push(ms);
    },
    look(here) {
      const now = performance.now();
      if (ends > 0 || here === 0) lastEnd = now;
      if (before.push({ ends, tookMs, ms: now - looked }) > looksBack) before.shift();
      looked = now;
      ends = 0;
      tookMs = [];
      const took = before
        .slice(-usualSamples)
        .flatMap((each) => each.tookMs)
        .sort((a, b) => a - b);
      const [least = Number.POSITIVE_INFINITY] = took;
      quickest = ++looks % quickestSamples === 0 ? [least, quickest[0]] : [Math.min(quickest[0], least), quickest[1]];
      // Where nothing has ended for a second, calls take at least that.
      const stalledMs = now - lastEnd;
      const usualMs = took[took.length >> 1] ?? (stalledMs < looksBack * lookMs ? 0 : stalledMs);
      return { quickestMs: Math.min(...quickest), usualMs, perSecond: perSecond() };
    },
  };
}

/** What OVERLOADED advises. */
const retryAfterMs = 1000;

/** More comes than can be done; nothing of the call was looked at. */
export function overloaded(): ServiceError {
  return new ServiceError({
    reason: 'OVERLOADED',
    message:
      'this instance has more waiting than it does in good time; nothing was stored: send it again after the time in RetryInfo, or to another instance',
    metadata: {},
    retryAfterMs,
  });
}
