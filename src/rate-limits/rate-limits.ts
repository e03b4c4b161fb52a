// Rate limits: messages per caller, sender and channel, in windows of fixed length.
//
// Entry point: `createRates`. Counters are per process (fixed-window-counter.ts) or shared by all
// instances through PostgreSQL (postgres-counter.sql.ts, which falls back to counting per process
// while the database is unavailable). A batch takes points before it is stored and gets back those
// of messages that were not: duplicates and refused messages cost senders and channels nothing, and
// their caller a fraction.

import { LRUCache } from 'lru-cache';
import type { Caller } from '../messages/caller.ts';
import type { PreparedMessage } from '../messages/message.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { Counter, Quota, Taken } from './postgres-counter.sql.ts';

/** Dimensions of rate limits: messages per caller, per sender and per channel. */
export type Dimension = 'caller' | 'sender' | 'channel';

/** Quotas per dimension; several of one dimension limit bursts and the long run. */
export type Quotas = Readonly<Record<Dimension, readonly Quota[]>>;

/** Status of a caller for the RateLimit fields of its answer: the quota with the least left. */
export interface RateLimitStatus extends Quota {
  readonly remaining: number;
  readonly resetMs: number;
}

/** Decision about the messages of a batch. */
export interface RateLimitDecision {
  /** Messages over a quota. */
  readonly refused: ReadonlyMap<PreparedMessage, Refusal>;
  readonly status: RateLimitStatus | undefined;
  /** Whether no rate limit applies, so that there is nothing to refund or to charge. */
  readonly isFree: boolean;
  /**
   * Refunds messages that were not stored (duplicates, later refusals): they cost senders and
   * channels nothing.
   */
  refund(messages: Iterable<PreparedMessage>): Promise<void>;
  /**
   * Charges the caller a fraction per message that was checked and not stored: refused, or
   * validated only.
   */
  charge(count: number): Promise<void>;
}

/** Counts messages against the quotas before they are stored. `peek`: decides without counting. */
export type Rates = (
  caller: Caller,
  messages: readonly PreparedMessage[],
  peek?: 'peek',
) => RateLimitDecision | Promise<RateLimitDecision>;

/** Messages checked but not stored that cost a caller as much as one stored message. */
const lookedAtPerMessage = 10;
/** Callers whose fractions are remembered. */
const fractionsKept = 10_000;

/** Window of a key's own rate in seconds: a minute's worth may be spent at once. */
const ownSeconds = 60;

const keyOf: Record<Dimension, (message: PreparedMessage, caller: Caller) => string> = {
  caller: (_, caller) => caller.id,
  sender: (message) => message.fromUid,
  channel: (message) => message.channel.key,
};
const dimensions: readonly Dimension[] = ['caller', 'sender', 'channel'];

/** Creates the rate limits. `open` creates the counter of a quota under a unique name. */
export function createRates(quotas: Quotas, open: (name: string, quota: Quota) => Counter): Rates {
  const counters = Object.fromEntries(
    dimensions.map((dimension) => [
      dimension,
      quotas[dimension].map((quota) => open(`${dimension}:${quota.points}/${quota.seconds}`, quota)),
    ]),
  ) as Record<Dimension, Counter[]>;
  const own = new Map<number, Counter>();
  const ofCaller = ({ ratePerSecond }: Caller): readonly Counter[] => {
    if (ratePerSecond === undefined) return counters.caller;
    const known = own.get(ratePerSecond);
    if (known !== undefined) return [known];
    const counter = open(`key:${ratePerSecond}`, { points: ratePerSecond * ownSeconds, seconds: ownSeconds });
    own.set(ratePerSecond, counter);
    return [counter];
  };

  const nothing = async () => {};
  const none: RateLimitDecision = {
    refused: new Map(),
    status: undefined,
    isFree: true,
    refund: nothing,
    charge: nothing,
  };
  /** Messages checked and not charged yet, by caller. */
  const unpaid = new LRUCache<string, number>({ max: fractionsKept });
  const charge = async (caller: Caller, count: number) => {
    const due = (unpaid.get(caller.id) ?? 0) + count;
    unpaid.set(caller.id, due % lookedAtPerMessage);
    const points = Math.floor(due / lookedAtPerMessage);
    if (points > 0) await Promise.all(ofCaller(caller).map((counter) => counter.take(caller.id, points)));
  };
  const isFree = dimensions.every((dimension) => counters[dimension].length === 0);

  const decide = async (
    caller: Caller,
    messages: readonly PreparedMessage[],
    peek: 'peek' | undefined,
  ): Promise<RateLimitDecision> => {
    const refused = new Map<PreparedMessage, Refusal>();
    /** How many of the counters below a refused message was counted by. */
    const tookFrom = new Map<PreparedMessage, number>();
    const used = dimensions.flatMap((dimension) =>
      (dimension === 'caller' ? ofCaller(caller) : counters[dimension]).map((counter) => ({ dimension, counter })),
    );
    let status: RateLimitStatus | undefined;
    let admitted = messages;
    for (const [position, { dimension, counter }] of used.entries()) {
      if (admitted.length === 0) break;
      const counts = countBy(dimension, caller, admitted);
      const keys = [...counts.keys()];
      const asked = keys.map((key) => counter[peek ?? 'take'](key, counts.get(key) ?? 0));
      // Counters in memory answer at once: a promise per key would be most of the cost.
      const taken = asked.some((each) => each instanceof Promise) ? await Promise.all(asked) : (asked as Taken[]);
      if (dimension === 'caller' && taken[0] !== undefined) status = scarcest(status, counter.quota, taken[0]);
      if (taken.every((each, index) => each.taken === counts.get(keys[index] ?? ''))) continue;
      // The first messages of each key are admitted, in the order of the batch.
      const left = new Map(keys.map((key, index) => [key, { ...(taken[index] as Taken) }]));
      for (const message of admitted) {
        const mine = left.get(keyOf[dimension](message, caller)) as {
          taken: number;
          remaining: number;
          resetMs: number;
        };
        if (mine.taken-- > 0) continue;
        refused.set(message, over(dimension, counter.quota, mine));
        tookFrom.set(message, position);
      }
      admitted = admitted.filter((message) => !refused.has(message));
    }
    const pay = async (count: number) => {
      if (count > 0) await charge(caller, count);
    };
    if (peek !== undefined) return { refused, status, isFree: false, refund: nothing, charge: pay };
    const refund = async (which: Iterable<PreparedMessage>) => {
      const all = [...which];
      for (const [position, { dimension, counter }] of used.entries()) {
        const took = all.filter((message) => (tookFrom.get(message) ?? used.length) > position);
        for (const [key, count] of countBy(dimension, caller, took)) await counter.refund(key, count);
      }
    };
    await refund(refused.keys());
    // They were refunded.
    for (const message of refused.keys()) tookFrom.set(message, 0);
    return { refused, status, isFree: false, refund, charge: pay };
  };
  return (caller, messages, peek) =>
    isFree && caller.ratePerSecond === undefined ? none : decide(caller, messages, peek);
}

/** Counts messages by key. */
function countBy(dimension: Dimension, caller: Caller, messages: readonly PreparedMessage[]): Map<string, number> {
  if (dimension === 'caller') return messages.length === 0 ? new Map() : new Map([[caller.id, messages.length]]);
  const of = keyOf[dimension];
  const counts = new Map<string, number>();
  for (const message of messages) {
    const key = of(message, caller);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

function scarcest(before: RateLimitStatus | undefined, quota: Quota, { remaining, resetMs }: Taken): RateLimitStatus {
  return before !== undefined && before.remaining <= remaining ? before : { ...quota, remaining, resetMs };
}

function over(dimension: Dimension, { points, seconds }: Quota, { resetMs }: Taken): Refusal {
  return {
    reason: 'RATE_LIMITED',
    message: `the rate limit of ${points} messages in ${seconds} s per ${dimension} is exceeded; retry after the delay in RetryInfo`,
    metadata: { by: dimension, limit: String(points), seconds: String(seconds) },
    retryAfterMs: Math.max(1, Math.ceil(resetMs)),
  };
}
