// Admission control: refuses calls while refusing is cheap, when more arrives than can be done in
// time.
//
//  1. Calls that send are counted from when their bodies are complete. `calmCalls` of them in
//     flight are always admitted: closed loops of 250 callers on a slow machine wait, and are not
//     refused. Above that, as many as end in time (Little's law, concurrency-limit.ts).
//  2. Reads and streams have no limit of their number. A share of them is refused that rises with
//     the delay of the event loop (random early detection), the shorter of two samples, so that a
//     single pause refuses nothing.
//  3. The delay of the event loop, or of its iteration so far if that is longer, counts as time
//     that a sending call has waited already: one iteration reads megabytes without a sample in
//     between.
//  4. One probe per second is admitted above the limit, so that the end of a stall is noticed.
//
// Why not PIE for sends, as before: its share is refused of any load, so it refused calls of 128
// callers who wait for each other on a slow machine (86 %). A limit of calls in flight cannot
// refuse fewer callers than it. CoDel drops calls after they have waited; these must be refused at
// once. A gradient limit (Netflix concurrency-limits) searches for the limit with the least wait;
// here the wait is given, and the measured rate yields the limit without a search.

import { monitorEventLoopDelay } from 'node:perf_hooks';
import { ServiceError } from '../messages/service-error.ts';
import { calmCalls, concurrencyLimit, refusedShare, type ServiceRate } from './concurrency-limit.ts';

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
  /** Milliseconds that a call above `calmCalls` may wait. */
  readonly waitMs: number;
  /**
   * Called every few seconds while calls are refused, and once when none was refused for a second.
   */
  readonly onShed: (shed: { refused: number; share: number; waitMs: number }) => void;
}

/** Time between samples. */
const sampleMs = 100;
/** Samples over which the rate is measured: one second, since calls end in groups. */
const samplesKept = 10;
/** Samples with stored calls whose median is the current duration of a call. */
const usualSamples = 3;
/** Time between probes, which are admitted regardless: they notice that the store works again. */
const probeMs = 1000;
/** Up to this many reads and streams per sample and its predecessor are never refused. */
const fewReads = 16;
/** Resolution of the event loop delay. */
const delayResolutionMs = 20;
/** Time between reports. */
const reportMs = 5000;
/** Time without a refusal after which the remaining ones are reported. */
const quietMs = 1000;

/** Starts sampling. */
export function startAdmissionController({ waitMs, onShed }: OverloadOptions): AdmissionController {
  const meter = createRateMeter();
  const loopDelay = monitorEventLoopDelay({ resolution: delayResolutionMs });
  loopDelay.enable();
  /** The last sample of the event loop's delay, and the shorter one of it and its predecessor. */
  let lastLateMs = 0;
  let lateMs = 0;
  let rate: ServiceRate = { usualMs: 0, perSecond: 0 };
  /** When the first call of this event loop iteration arrived. */
  let iterationSince: number | undefined;
  /** When the last probe was admitted. */
  let probedAt = Number.NEGATIVE_INFINITY;
  /** Reads and streams since the last sample, and in the one before. */
  let reads = 0;
  let readsBefore = 0;
  /** Calls that send and are in flight with a complete body. */
  let inFlight = 0;
  /** Calls since the last report, and those of them refused. */
  let asked = 0;
  let refused = 0;
  let refusedAt = 0;
  let reportedAt = 0;

  const timer = setInterval(() => {
    // An iteration longer than a sample may not have been recorded yet.
    const nowLateMs =
      loopDelay.count > 0 ? Math.max(0, loopDelay.percentile(50) / 1e6 - delayResolutionMs) : lastLateMs;
    loopDelay.reset();
    lateMs = Math.min(nowLateMs, lastLateMs);
    lastLateMs = nowLateMs;
    readsBefore = reads;
    reads = 0;
    rate = meter.sample(inFlight > 0);
    report();
  }, sampleMs).unref();

  function report(): void {
    const now = performance.now();
    if (refused > 0 && (now - refusedAt > quietMs || now - reportedAt > reportMs)) {
      const usualMs = Number.isFinite(rate.usualMs) ? rate.usualMs : waitMs;
      onShed({ refused, share: Math.min(1, refused / asked), waitMs: Math.round(lateMs + usualMs) });
      reportedAt = now;
      refused = 0;
    }
    if (refused === 0) asked = 0;
  }

  /** Length of this event loop iteration so far: how late its last calls are at least. */
  function iterationMs(): number {
    if (iterationSince !== undefined) return performance.now() - iterationSince;
    iterationSince = performance.now();
    setImmediate(() => {
      iterationSince = undefined;
    });
    return 0;
  }

  function isFull(): boolean {
    return inFlight >= calmCalls && inFlight >= concurrencyLimit(rate, Math.max(lateMs, iterationMs()), waitMs);
  }

  function isProbe(): boolean {
    const now = performance.now();
    if (now - probedAt < probeMs) return false;
    probedAt = now;
    return true;
  }

  function refuse(): undefined {
    refused++;
    refusedAt = performance.now();
  }

  function begin(isProbing: boolean): (() => void) | undefined {
    if (!isProbing && isFull()) return refuse();
    inFlight++;
    return () => {
      inFlight--;
      meter.ended();
    };
  }

  return {
    admit(load) {
      asked++;
      iterationMs();
      if (load === 'other') {
        reads++;
        const isFew = reads + readsBefore <= fewReads;
        return isFew || Math.random() >= refusedShare(lateMs, waitMs) ? () => () => {} : refuse();
      }
      if (!isFull()) return () => begin(false);
      return isProbe() ? () => begin(true) : refuse();
    },
    stored: meter.stored,
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
function createRateMeter(): { ended(): void; stored(ms: number): void; sample(isBusy: boolean): ServiceRate } {
  /** The last samples: calls that ended, durations of those that were stored, its length. */
  const samples: { readonly ends: number; readonly tookMs: readonly number[]; readonly ms: number }[] = [];
  let ends = 0;
  let tookMs: number[] = [];
  let sampledAt = performance.now();
  let idleAt = sampledAt;
  return {
    ended() {
      ends++;
    },
    stored(ms) {
      tookMs.push(ms);
    },
    sample(isBusy) {
      const now = performance.now();
      if (ends > 0 || !isBusy) idleAt = now;
      if (samples.push({ ends, tookMs, ms: now - sampledAt }) > samplesKept) samples.shift();
      sampledAt = now;
      ends = 0;
      tookMs = [];
      const recent = samples.filter((each) => each.tookMs.length > 0).slice(-usualSamples);
      // Sorts without a comparison in JavaScript: a second has thousands of calls.
      const took = Float64Array.from(recent.flatMap((each) => each.tookMs)).sort();
      const sum = (of: 'ends' | 'ms') => samples.reduce((total, each) => total + each[of], 0);
      const isStalled = now - idleAt >= samplesKept * sampleMs;
      const usualMs = took[took.length >> 1] ?? (isStalled ? Number.POSITIVE_INFINITY : 0);
      return { usualMs, perSecond: (sum('ends') * 1000) / sum('ms') };
    },
  };
}

/** Retry advice of OVERLOADED. */
const retryAfterMs = 1000;

/** OVERLOADED: the call was refused before any work. */
export function overloaded(
  message = 'this instance is overloaded; nothing was stored: retry after the delay in RetryInfo, or at another instance',
): ServiceError {
  return new ServiceError({
    reason: 'OVERLOADED',
    message,
    metadata: {},
    retryAfterMs,
  });
}
