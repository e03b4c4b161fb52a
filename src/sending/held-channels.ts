// Keeps channels whose head another session has locked (an open transaction of an operator, a
// suspended instance) out of the lanes, so that they do not delay other channels.
//
// A lane waits at most `headLockWaitMs` for a head. Then its group is retried without the locked
// channels (skip_locked), and their batches arrive here as `ChannelsHeld`. A held channel is
// remembered and probed every 100 ms:
//
//   free ── a group finds it locked ──> held ── probe: free, or its sequence has advanced ──> free
//
// While a channel is held
//  1. none of its messages enters a lane;
//  2. a batch of held channels only, or an ATOMIC one with any, waits until LOCK_TIMEOUT after the
//     channel was found held;
//  3. the other messages of a BEST_EFFORT batch are stored at once; its held ones wait at most
//     `mixedWaitMs` of that time.
// Then they are refused with STORE_BUSY: those of case 3 at once, those of case 2 when the next
// probe finds no change. Order within a channel is kept: waiting messages are sent before new ones.

import { limits } from '../limits.ts';
import type { Batch, Outcome } from '../messages/append-plan.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import type { PreparedMessage } from '../messages/message.ts';
import { ServiceError } from '../messages/service-error.ts';
import { storeBusy } from '../messages/store-busy.ts';

/**
 * Longest wait of a lane for a head: well above a commit of another instance (100 ms for 4,000
 * messages).
 */
export const headLockWaitMs = 500;
/** Longest wait of held messages whose batch has other messages that were stored. */
const mixedWaitMs = 1000;
const probeMs = 100;
const longestProbeMs = 1000;
/** A held channel without sends for this long is forgotten: the next send finds out anew. */
const forgetMs = 10_000;
/** Held channels remembered at most, and probed per statement at most. */
const rememberedChannels = 10_000;
const probedAtOnce = 1000;

/**
 * Another session has channels of a batch locked; nothing of the batch was stored. STORE_BUSY for
 * callers.
 */
export class ChannelsHeld extends ServiceError {
  /** By channel key text: the surrogate keys. */
  readonly channels: ReadonlyMap<string, number>;

  constructor(channels: ReadonlyMap<string, number>) {
    const { refusal, cause } = heldFor();
    super(refusal, { cause });
    this.channels = channels;
  }
}

function heldFor(): ServiceError {
  return storeBusy(new Error('another session has a channel of the batch locked'));
}

/** A head as a probe finds it. */
export interface HeadState {
  readonly isFree: boolean;
  readonly lastSeq: number;
}

export interface HeldChannelsOptions {
  /**
   * Reads the state of these heads without waiting for locks. Channels without a head are absent.
   */
  readonly probe: (channelKeys: readonly number[]) => Promise<ReadonlyMap<number, HeadState>>;
  /**
   * Milliseconds that a send may wait for a channel, counted from when the channel was found held.
   */
  readonly lockTimeoutMs: number;
}

type Submit = (batch: Batch) => Promise<readonly Outcome[]>;

export interface HeldChannels {
  /** Submits a batch, in two parts where some of its channels are held. */
  submitAround(batch: Batch, submit: Submit, signal?: Cancellation): Promise<readonly Outcome[]>;
  /** Whether one of these messages is for a channel known to be held. */
  holdsAny(messages: Iterable<PreparedMessage>): boolean;
  /** For metrics: the channels held now, and for how long the first of them has been. */
  stats(): { readonly channels: number; readonly longestMs: number };
  /** Releases all waiting batches; their next attempt goes to the store. */
  close(): void;
}

interface Held {
  readonly channelKey: number;
  readonly since: number;
  lastSeq: number | undefined;
  touchedAt: number;
  readonly freed: PromiseWithResolvers<void>;
}

export function createHeldChannels({ probe, lockTimeoutMs }: HeldChannelsOptions): HeldChannels {
  /** By channel key text. */
  const held = new Map<string, Held>();
  let waitingMessages = 0;
  /** Resolves at the end of the next probe. */
  let nextProbe = Promise.withResolvers<void>();
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  function remember(channels: ReadonlyMap<string, number>): void {
    const now = performance.now();
    for (const [text, channelKey] of channels) {
      if (closed || held.has(text) || held.size === rememberedChannels) continue;
      held.set(text, {
        channelKey,
        since: now,
        lastSeq: undefined,
        touchedAt: now,
        freed: Promise.withResolvers<void>(),
      });
    }
    if (held.size > 0) timer ??= setTimeout(probeAll, probeMs).unref();
  }

  function release(text: string): void {
    held.get(text)?.freed.resolve();
    held.delete(text);
  }

  async function probeAll(): Promise<void> {
    const { resolve } = nextProbe;
    nextProbe = Promise.withResolvers<void>();
    const probed = [...held].slice(0, probedAtOnce);
    const states = await probe(probed.map(([, each]) => each.channelKey)).catch(() => undefined);
    const now = performance.now();
    for (const [text, each] of probed) {
      const state = states?.get(each.channelKey);
      // An advancing sequence is contention, which the row lock's own queue resolves. If the probe
      // failed, the next send reports the store's error.
      const hasMoved = each.lastSeq !== undefined && state !== undefined && state.lastSeq !== each.lastSeq;
      if (state === undefined || state.isFree || hasMoved || now - each.touchedAt > forgetMs) release(text);
      else {
        each.lastSeq = state.lastSeq;
        // Moves it behind the channels that this probe did not reach.
        held.delete(text);
        held.set(text, each);
      }
    }
    timer = held.size === 0 || closed ? undefined : setTimeout(probeAll, probeMs).unref();
    resolve();
  }

  function heldOf(messages: readonly PreparedMessage[]): Held[] {
    const found = new Map<string, Held>();
    for (const message of messages) {
      const each = held.get(message.channel.key);
      if (each !== undefined) found.set(message.channel.key, each);
    }
    return [...found.values()];
  }

  /**
   * Waits until none of these channels is held; throws STORE_BUSY when one has been held for
   * `mostMs`. `probesOnce`: only after one more probe, since the channel may have been released
   * after the last one.
   */
  async function untilFree(
    messages: readonly PreparedMessage[],
    { mostMs, probesOnce }: { readonly mostMs: number; readonly probesOnce: boolean },
    signal?: Cancellation,
  ): Promise<void> {
    if (waitingMessages + messages.length > limits.laneMessages) throw heldFor();
    waitingMessages += messages.length;
    try {
      for (let all = heldOf(messages); all.length > 0; all = heldOf(messages)) {
        const now = performance.now();
        for (const each of all) each.touchedAt = now;
        const leftMs = Math.min(...all.map((each) => each.since)) + mostMs - now;
        if (leftMs > 0) await raceUntil(Promise.all(all.map((each) => each.freed.promise)), leftMs, signal);
        else if (!probesOnce) throw heldFor();
        else {
          await raceUntil(nextProbe.promise, longestProbeMs, signal);
          if (heldOf(messages).length > 0) throw heldFor();
        }
      }
    } finally {
      waitingMessages -= messages.length;
    }
  }

  function isHeld(message: PreparedMessage): boolean {
    return held.has(message.channel.key);
  }

  /** While no channel is held, a batch costs one promise more than its submit. */
  function submitAround(batch: Batch, submit: Submit, signal?: Cancellation): Promise<readonly Outcome[]> {
    const until = performance.now() + lockTimeoutMs;
    if (held.size > 0) return around(batch, submit, until, signal);
    return submit(batch).catch((error: unknown) => {
      rememberRefused(batch, error, until);
      return around(batch, submit, until, signal);
    });
  }

  /** `until`: a batch of held channels only is not submitted again later than this. */
  async function around(
    batch: Batch,
    submit: Submit,
    until: number,
    signal: Cancellation | undefined,
  ): Promise<readonly Outcome[]> {
    for (;;) {
      if (held.size > 0 && batch.messages.some(isHeld)) {
        if (!batch.atomic && !batch.messages.every(isHeld)) return await aroundMixed(batch, submit, signal);
        await untilFree(batch.messages, { mostMs: lockTimeoutMs, probesOnce: true }, signal);
      }
      try {
        return await submit(batch);
      } catch (error) {
        rememberRefused(batch, error, until);
      }
    }
  }

  /**
   * Remembers the channels for which a batch was refused; throws the error when the batch is not to
   * be submitted again.
   */
  function rememberRefused(batch: Batch, error: unknown, until: number): void {
    if (!(error instanceof ChannelsHeld)) throw error;
    remember(error.channels);
    const isRemembered = [...error.channels.keys()].some((text) => held.has(text));
    const isWhole = batch.atomic || batch.messages.every(isHeld);
    if (!isRemembered || (isWhole && performance.now() > until)) throw error;
  }

  async function aroundMixed(
    batch: Batch,
    submit: Submit,
    signal: Cancellation | undefined,
  ): Promise<readonly Outcome[]> {
    const parts = [
      partOf(
        batch,
        (message) => !isHeld(message),
        (part) => submitAround(part, submit, signal),
      ),
      partOf(batch, isHeld, async (part) => {
        await untilFree(part.messages, { mostMs: Math.min(mixedWaitMs, lockTimeoutMs), probesOnce: false }, signal);
        return await submitAround(part, submit, signal);
      }),
    ];
    return await submitParts(batch, parts);
  }

  return {
    submitAround,
    holdsAny(messages) {
      if (held.size > 0) for (const message of messages) if (held.has(message.channel.key)) return true;
      return false;
    },
    stats() {
      const now = performance.now();
      let longestMs = 0;
      for (const each of held.values()) longestMs = Math.max(longestMs, now - each.since);
      return { channels: held.size, longestMs };
    },
    close() {
      closed = true;
      clearTimeout(timer);
      for (const text of [...held.keys()]) release(text);
    },
  };
}

/** Resolves when the work ends or `ms` are over; rejects with the signal's reason. */
async function raceUntil(work: Promise<unknown>, ms: number, signal: Cancellation | undefined): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => reject(signal?.reason);
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted) abort();
  work.then(() => resolve(), reject);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}

/** Messages of a BEST_EFFORT batch that are submitted separately. */
export interface BatchPart {
  readonly messages: readonly PreparedMessage[];
  /** Position of each message in the batch. */
  readonly positions: readonly number[];
  readonly submit: () => Promise<readonly Outcome[]>;
}

function partOf(
  batch: Batch,
  isIn: (message: PreparedMessage) => boolean,
  submit: (part: Batch) => Promise<readonly Outcome[]>,
): BatchPart {
  const positions = [...batch.messages.keys()].filter((position) => isIn(batch.messages[position] as PreparedMessage));
  const messages = positions.map((position) => batch.messages[position] as PreparedMessage);
  return { messages, positions, submit: () => submit({ ...batch, messages }) };
}

/**
 * Submits all parts of a batch at once. When some parts are stored, a refused part becomes one
 * refusal per message.
 */
export async function submitParts(batch: Batch, parts: readonly BatchPart[]): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = new Array(batch.messages.length);
  const ends = await Promise.allSettled(
    parts.map(async ({ positions, submit }) => {
      const part = await submit();
      let index = 0;
      for (const position of positions) outcomes[position] = part[index++] as Outcome;
    }),
  );
  const failed = ends.filter((end) => end.status === 'rejected').map((end): unknown => end.reason);
  const other = failed.find((reason) => !(reason instanceof ServiceError));
  if (failed.length > 0 && (failed.length === ends.length || other !== undefined)) throw other ?? failed[0];
  for (const [index, { messages, positions }] of parts.entries()) {
    const end = ends[index];
    if (end?.status !== 'rejected') continue;
    const { refusal } = end.reason as ServiceError;
    for (const [at, position] of positions.entries())
      outcomes[position] = { kind: 'refused', message: messages[at] as PreparedMessage, refusal };
  }
  return outcomes;
}
