import type { Caller } from '../domain/caller.ts';
import type { Refusal } from '../domain/failure.ts';
import type { Prepared } from '../domain/message.ts';
import type { Counter, Quota, Taken } from '../storage/counter.ts';

/** What is counted: messages by who calls, who sends, and where to. */
export type Dimension = 'caller' | 'sender' | 'channel';

/** The quotas of each; several of one are for bursts and for the long run. */
export type Quotas = Readonly<Record<Dimension, readonly Quota[]>>;

/** Where a caller stands, for the RateLimit fields of its answer: the quota of which the least is left. */
export interface Standing extends Quota {
  readonly remaining: number;
  readonly resetMs: number;
}

/** What a batch took. */
export interface Admission {
  /** Messages over a quota. */
  readonly refused: ReadonlyMap<Prepared, Refusal>;
  readonly standing: Standing | undefined;
  /** Gives back what these took: what is not stored, a duplicate or refused later, costs nothing. */
  giveBack(messages: Iterable<Prepared>): Promise<void>;
}

/** Counts messages against the quotas before they meet the store. */
export type Rates = (caller: Caller, messages: readonly Prepared[]) => Promise<Admission>;

/** Seconds over which a key's own rate is counted: it may spend a minute's worth at once. */
const ownSeconds = 60;

const keyOf: Record<Dimension, (message: Prepared, caller: Caller) => string> = {
  caller: (_, caller) => caller.name,
  sender: (message) => message.fromUid,
  channel: (message) => message.channel.key,
};
const dimensions: readonly Dimension[] = ['caller', 'sender', 'channel'];

/** `open` makes the counter of a quota by a name of its own. */
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

  const none: Admission = { refused: new Map(), standing: undefined, giveBack: async () => {} };
  const isFree = dimensions.every((dimension) => counters[dimension].length === 0);

  return async (caller, messages) => {
    if (isFree && caller.ratePerSecond === undefined) return none;
    const refused = new Map<Prepared, Refusal>();
    const had = new Map<Prepared, { counter: Counter; key: string }[]>();
    let standing: Standing | undefined;
    let admitted = messages;
    for (const dimension of dimensions) {
      const used = dimension === 'caller' ? ofCaller(caller) : counters[dimension];
      if (used.length === 0 || admitted.length === 0) continue;
      const groups = Map.groupBy(admitted, (message) => keyOf[dimension](message, caller));
      await Promise.all(
        [...groups].map(async ([key, group]) => {
          for (const counter of used) {
            const wanted = group.filter((message) => !refused.has(message));
            if (wanted.length === 0) return;
            const taken = await counter.take(key, wanted.length);
            if (dimension === 'caller') standing = scarcest(standing, counter.quota, taken);
            for (const message of wanted.slice(taken.taken))
              refused.set(message, over(dimension, counter.quota, taken));
            for (const message of wanted.slice(0, taken.taken)) {
              const list = had.get(message) ?? [];
              had.set(message, list);
              list.push({ counter, key });
            }
          }
        }),
      );
      admitted = admitted.filter((message) => !refused.has(message));
    }
    const giveBack = async (which: Iterable<Prepared>) => {
      const back = new Map<Counter, Map<string, number>>();
      for (const message of which) {
        for (const { counter, key } of had.get(message) ?? []) {
          const keys = back.get(counter) ?? new Map<string, number>();
          back.set(counter, keys);
          keys.set(key, (keys.get(key) ?? 0) + 1);
        }
        had.delete(message);
      }
      await Promise.all(
        [...back].flatMap(([counter, keys]) => [...keys].map(([key, count]) => counter.giveBack(key, count))),
      );
    };
    await giveBack(refused.keys());
    return { refused, standing, giveBack };
  };
}

function scarcest(before: Standing | undefined, quota: Quota, { remaining, resetMs }: Taken): Standing {
  return before !== undefined && before.remaining <= remaining ? before : { ...quota, remaining, resetMs };
}

function over(dimension: Dimension, { points, seconds }: Quota, { resetMs }: Taken): Refusal {
  return {
    reason: 'RATE_LIMITED',
    message: `over ${points} messages in ${seconds} s by ${dimension}; send it again after the time in RetryInfo`,
    metadata: { by: dimension, limit: String(points), seconds: String(seconds) },
    retryAfterMs: Math.max(1, Math.ceil(resetMs)),
  };
}
