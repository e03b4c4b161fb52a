// Admission control: refuses calls while refusing is cheap, when more arrives than can be done in
// time.
//
// Work queues in two places, each with a controller of its own, sampled every 100 ms:
//  1. Before the event loop, where calls are not counted yet: its delay (the shorter of two
//     samples, so that a single pause refuses nothing) drives the share of calls that PIE refuses
//     (pie.ts).
//  2. Inside: calls that send are limited to as many as end in time, by Little's law over the calls
//     that ended lately.
// An event loop iteration reads megabytes from each connection without a sample in between: the
// calls of one iteration may take half of the wait, the rest of them is refused. One probe per
// second is always admitted, so that a stall is noticed to be over.

import { monitorEventLoopDelay } from 'node:perf_hooks';
import { ServiceError } from '../messages/service-error.ts';
import { concurrencyLimit, fewCalls, nextShare, type ServiceRate } from './pie.ts';

/**
 * Kinds of calls. Calls that send are counted while in flight; others may be streams, or take as
 * long as their size.
 */
export type Load = 'send' | 'other';

/**
 * Counts a call whose body is complete and whose caller is known. Returns what to call at its end;
 * undefined: refused.
 */
export type Begin = () => (() => void) | undefined;

/** Decides which calls are admitted. */
export interface AdmissionController {
  /**
   * Decides about a call by its headers; undefined: refuse it. It counts from its `Begin`, so that
   * slow uploads do not.
   */
  admit(load: Load): Begin | undefined;
  /** Reports the duration of a batch that was stored. Refused ones say nothing about the store. */
  stored(ms: number): void;
  /**
   * Excludes a call from the limit while it waits for a fair scheduler; call the result when it
   * continues.
   */
  aside(): () => void;
  stop(): void;
}

export interface OverloadOptions {
  /** Milliseconds that a call may take beyond its duration on an idle service. */
  readonly waitMs: number;
  /**
   * Called every few seconds while calls are refused, and once when none was refused for a second.
   */
  readonly onShed: (shed: { refused: number; share: number; waitMs: number }) => void;
}

/** Time between samples. */
const sampleMs = 100;
/** Samples kept of calls that ended: one second. */
const samplesKept = 10;
/** Samples whose median is the current duration of a call. */
const usualSamples = 3;
/** Samples over which a rate is measured: calls end in groups, a few per sample. */
const rateSamples = 5;
/**
 * Samples for which the quickest call is remembered, up to twice as long: the network to the
 * database may change.
 */
const quickestSamples = 3000;
/** Time between probes, which are admitted regardless: they notice that the store works again. */
const probeMs = 1000;
/**
 * Calls of one event loop iteration that are always admitted: as many as a connection has streams.
 */
const iterationCalls = 250;
/** Resolution of the event loop delay. */
const delayResolutionMs = 20;
/** Time between reports. */
const reportMs = 5000;

/** Starts sampling. */
export function startAdmissionController({ waitMs, onShed }: OverloadOptions): AdmissionController {
  const rate = createRateMeter();
  const loopDelay = monitorEventLoopDelay({ resolution: delayResolutionMs });
  loopDelay.enable();
  /** The last sample of the event loop's delay, and the shorter one of it and its predecessor. */
  let late: readonly [number, number] = [0, 0];
  /** Share of arriving calls to refuse because of the delay. */
  let share = 0;
  /** When the first call of this event loop iteration arrived, and how many did. */
  let iterationSince: number | undefined;
  let iterationArrived = 0;
  /** When the last probe was admitted. */
  let probed = Number.NEGATIVE_INFINITY;
  /** Calls since the last sample, and in the one before. */
  let arrived = 0;
  let arrivedBefore = 0;
  /** Calls that send and are in flight with a complete body, and the limit of them. */
  let inFlight = 0;
  let limit = Number.POSITIVE_INFINITY;
  /** Calls since the last report, and those of them refused: now, and at the last sample. */
  let asked = 0;
  let refused = 0;
  let refusedBefore = 0;
  /** Samples since the last refusal. */
  let calmSamples = 0;
  let reported = 0;

  const sample = () => {
    // An iteration longer than a sample may not have been recorded yet.
    const lateMs = loopDelay.count > 0 ? Math.max(0, loopDelay.percentile(50) / 1e6 - delayResolutionMs) : late[0];
    loopDelay.reset();
    const shorter = Math.min(lateMs, late[0]);
    share = nextShare(share, { now: shorter, before: late[1] }, waitMs);
    late = [lateMs, shorter];
    arrivedBefore = arrived;
    arrived = 0;
    const known = rate.sample(Math.max(0, inFlight));
    limit = concurrencyLimit(known, waitMs);
    report(lateMs + known.usualMs);
  };
  const timer = setInterval(sample, sampleMs).unref();

  function report(tookMs: number): void {
    calmSamples = refused > refusedBefore ? 0 : calmSamples + 1;
    if (refused > 0 && (calmSamples >= samplesKept || performance.now() - reported > reportMs)) {
      onShed({ refused, share: refused / asked, waitMs: Math.round(tookMs) });
      reported = performance.now();
      refused = 0;
    }
    refusedBefore = refused;
    if (refused === 0) asked = 0;
  }

  /** Whether the calls of this iteration have used up their time. */
  function isIterationFull(): boolean {
    iterationArrived++;
    if (iterationSince !== undefined)
      return iterationArrived > iterationCalls && performance.now() - iterationSince > waitMs / 2;
    iterationSince = performance.now();
    setImmediate(() => {
      iterationSince = undefined;
      iterationArrived = 0;
    });
    return false;
  }

  function isFull(): boolean {
    return inFlight >= limit;
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
    inFlight++;
    return () => {
      inFlight--;
      rate.ended();
    };
  }

  return {
    admit(load) {
      arrived++;
      asked++;
      const iterationIsFull = isIterationFull();
      if (arrived + arrivedBefore > fewCalls && (iterationIsFull || Math.random() < share)) {
        refused++;
        return undefined;
      }
      if (load !== 'send') return () => () => {};
      if (!isFull()) return () => begin(false);
      if (isProbe()) return () => begin(true);
      refused++;
      return undefined;
    },
    stored: rate.stored,
    aside() {
      inFlight--;
      return () => {
        inFlight++;
      };
    },
    stop() {
      clearInterval(timer);
      loopDelay.disable();
    },
  };
}

/** Measures how many calls end per second, and how long they take. */
function createRateMeter(): { ended(): void; stored(ms: number): void; sample(inFlight: number): ServiceRate } {
  /** Ends per sample, their durations, and the length of the sample. */
  const before: { readonly ends: number; readonly tookMs: readonly number[]; readonly ms: number }[] = [];
  let ends = 0;
  let tookMs: number[] = [];
  let sampledAt = performance.now();
  /** When a call ended last, or none was in flight. */
  let lastEnd = sampledAt;
  let samples = 0;
  let quickest: readonly [number, number] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];

  /**
   * The best rate of a few consecutive samples: a mean would call a service slow that was idle
   * until now.
   */
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
    sample(inFlight) {
      const now = performance.now();
      if (ends > 0 || inFlight === 0) lastEnd = now;
      if (before.push({ ends, tookMs, ms: now - sampledAt }) > samplesKept) before.shift();
      sampledAt = now;
      ends = 0;
      tookMs = [];
      const took = before
        .slice(-usualSamples)
        .flatMap((each) => each.tookMs)
        .sort((a, b) => a - b);
      const [least = Number.POSITIVE_INFINITY] = took;
      quickest = ++samples % quickestSamples === 0 ? [least, quickest[0]] : [Math.min(quickest[0], least), quickest[1]];
      // When no call ended for a second, calls take at least that long.
      const stalledMs = now - lastEnd;
      const usualMs = took[took.length >> 1] ?? (stalledMs < samplesKept * sampleMs ? 0 : stalledMs);
      return { quickestMs: Math.min(...quickest), usualMs, perSecond: perSecond() };
    },
  };
}

/** Retry advice of OVERLOADED. */
const retryAfterMs = 1000;

/** OVERLOADED: the call was refused before any work. */
export function overloaded(): ServiceError {
  return new ServiceError({
    reason: 'OVERLOADED',
    message:
      'this instance is overloaded; nothing was stored: retry after the delay in RetryInfo, or at another instance',
    metadata: {},
    retryAfterMs,
  });
}
