import { LRUCache } from 'lru-cache';
import type { Channel } from '../domain/channel.ts';
import { Failure } from '../domain/failure.ts';
import { limits } from '../limits.ts';
import { readHeads, readHeadsAndFirst } from '../storage/channel.ts';
import { readRange, type StoredMessage } from '../storage/history.ts';
import { memberChannels } from '../storage/roster.ts';
import type { Store } from './group.ts';
import { assertKept } from './read-channel.ts';
import { assertReadable, channelToRead, eyesOf, type Reader } from './reading.ts';
import { orBusy } from './store-busy.ts';

/** Where to begin in a channel. */
export interface Cursor {
  readonly channelType: number;
  readonly channelId: string;
  readonly afterSeq: number;
  readonly fromNow: boolean;
}

export interface SubscribeCall extends Reader {
  readonly channels: readonly Cursor[];
  readonly allOfUid: boolean;
  /** Aborted when the caller has gone away. */
  readonly signal: AbortSignal;
}

/** A message that is not stored, for who is connected. */
export interface LiveMessage {
  readonly channel: Channel;
  readonly message: StoredMessage;
}

export type Frame =
  | { readonly kind: 'message'; readonly channel: Channel; readonly message: StoredMessage }
  | { readonly kind: 'caught-up'; readonly channel: Channel; readonly lastSeq: number }
  | { readonly kind: 'heartbeat' };

/** Live tails of this instance. The cursor of each channel is the truth; wake-ups only say when to look. */
export interface Tails {
  subscribe(call: SubscribeCall): AsyncIterable<Frame>;
  /** Something was stored in these channels. */
  wake(channelKeys: Iterable<number>): void;
  /** Something may have been stored anywhere: looks at the heads of what is subscribed to. */
  poll(): Promise<void>;
  /** These users came into channels, or left them. */
  membersChanged(uids: Iterable<string>): void;
  /** Channels were made: who waits for one looks again. */
  channelsMade(): void;
  /** The members, lists or flags of these channels have changed. */
  channelsChanged(channelKeys: Iterable<number>): void;
  deliver(live: LiveMessage): void;
  /** Who reads, and how many channels are followed. */
  counts(): { readonly readers: number; readonly channels: number };
  /** Ends them all. */
  close(): void;
}

/** Told of each page that a reader was handed; `lagMs`: how old the last message of it was, of a reader that follows. */
export type OnTailRead = (page: { messages: number; lagMs: number | undefined }) => void;

const heartbeatMs = 15_000;
/** A reader that takes nothing for so long is ended: it would find its way back to the present slower than by subscribing again. */
const slowMs = 60_000;
/** A reader's rights are asked for again at the latest after this; a change of members says so at once. */
const recheckMs = 60_000;
const pageMessages = 200;
/** Live messages that wait for a reader at most: it is told by none that it missed one, as the flag has it. */
const liveWaiting = 1000;
/** Pages that readers of the same channel at the same place share, for this long. */
const sharedPages = 500;
const sharedMs = 2000;

/** One channel of a subscription. */
interface Place {
  readonly channel: Channel;
  /** Undefined while nobody has sent to it. */
  channelKey: number | undefined;
  cursor: number;
  caughtUp: boolean;
}

export function createTails(store: Store, now: () => number = Date.now, onRead?: OnTailRead): Tails {
  const { db, channelKeys } = store;
  const subscriptions = new Set<Subscription>();
  const byKey = new Map<number, Set<Subscription>>();
  /** Readers that follow a channel come for the same page at the same moment: one statement is for all of them. */
  const pages = new LRUCache<string, { page: Promise<readonly StoredMessage[]> }>({ max: sharedPages, ttl: sharedMs });

  /** The last wake-up of a channel: a page that was asked for before it does not tell what it was about. */
  const turns = new Map<number, number>();
  let turn = 0;
  const wake = (key: number) => {
    const followers = byKey.get(key);
    if (followers === undefined) return;
    turns.set(key, ++turn);
    for (const subscription of followers) subscription.wake(key);
  };

  /** The next messages after a sequence, with a service's eyes. An empty page is not kept: it is what a wake-up ends. */
  function pageAfter(channelKey: number, afterSeq: number): Promise<readonly StoredMessage[]> {
    const key = `${channelKey} ${afterSeq} ${turns.get(channelKey) ?? 0}`;
    const known = pages.get(key);
    if (known !== undefined) return known.page;
    const range = {
      afterSeq,
      beforeSeq: Number.MAX_SAFE_INTEGER,
      limit: pageMessages,
      descending: false,
      eyes: undefined,
    };
    const page = readRange(db, channelKey, range, now());
    const entry = { page };
    pages.set(key, entry);
    const forget = () => {
      if (pages.peek(key) === entry) pages.delete(key);
    };
    page.then((messages) => messages.length === 0 && forget(), forget);
    return page;
  }

  class Subscription {
    readonly eyes: string | undefined;
    readonly #call: SubscribeCall;
    readonly #places = new Map<string, Place>();
    readonly #byKey = new Map<number, Place>();
    /** Places to look at. */
    #due = new Set<Place>();
    #live: LiveMessage[] = [];
    #rechecks = true;
    #hasFollowed = false;
    #closed: unknown;
    #wait: (() => void) | undefined;

    constructor(call: SubscribeCall) {
      this.#call = call;
      this.eyes = eyesOf(call);
    }

    /** A channel was made, or was not yet: only looking tells. */
    get isWaitingForChannels(): boolean {
      return this.#byKey.size < this.#places.size;
    }

    get isForAll(): boolean {
      return this.#call.allOfUid;
    }

    cursorOf(channelKey: number): number {
      return this.#byKey.get(channelKey)?.cursor ?? 0;
    }

    wake(channelKey: number): void {
      const place = this.#byKey.get(channelKey);
      if (place === undefined) return;
      this.#due.add(place);
      this.#wait?.();
    }

    recheck(): void {
      this.#rechecks = true;
      this.#wait?.();
    }

    follows(channel: Channel): boolean {
      return this.#places.has(channel.key);
    }

    deliver(live: LiveMessage): void {
      if (!sees(this.eyes, live.message)) return;
      if (this.#live.length === liveWaiting) this.#live.shift();
      this.#live.push(live);
      this.#wait?.();
    }

    end(reason: unknown): void {
      this.#closed ??= reason;
      this.#wait?.();
    }

    async *frames(): AsyncGenerator<Frame> {
      const { signal } = this.#call;
      const left = () => this.end(signal.reason);
      signal.addEventListener('abort', left, { once: true });
      if (signal.aborted) left();
      subscriptions.add(this);
      let checked = 0;
      try {
        for (const cursor of this.#call.channels) await this.#open(cursor);
        for (;;) {
          if (this.#closed !== undefined) throw this.#closed;
          if (this.#rechecks || performance.now() - checked > recheckMs) {
            this.#rechecks = false;
            checked = performance.now();
            await this.#check();
          }
          yield* this.#takeLive();
          const [place] = this.#due;
          if (place !== undefined) yield* this.#read(place);
          else if (this.#live.length === 0 && !this.#rechecks && !(await this.#woken())) yield { kind: 'heartbeat' };
        }
      } finally {
        signal.removeEventListener('abort', left);
        subscriptions.delete(this);
        for (const key of this.#byKey.keys()) unregister(key, this);
      }
    }

    *#takeLive(): Iterable<Frame> {
      const live = this.#live;
      this.#live = [];
      if (live.length > 0) onRead?.({ messages: live.length, lagMs: undefined });
      for (const { channel, message } of live) yield { kind: 'message', channel, message };
    }

    /** One page of one channel. It is registered before it reads, so that nothing is stored between the two unseen. */
    async *#read(place: Place): AsyncGenerator<Frame> {
      this.#due.delete(place);
      const { channel, channelKey } = place;
      if (channelKey === undefined) {
        if (!place.caughtUp) yield { kind: 'caught-up', channel, lastSeq: 0 };
        place.caughtUp = true;
        return;
      }
      const messages = await pageAfter(channelKey, place.cursor);
      const last = messages.at(-1);
      if (last !== undefined)
        onRead?.({ messages: messages.length, lagMs: place.caughtUp ? now() - last.acceptedAt : undefined });
      for (const message of messages) {
        place.cursor = message.messageSeq;
        if (isAlive(message, now()) && sees(this.eyes, message)) yield { kind: 'message', channel, message };
      }
      // There may be more, also when it was somebody else's page, read a moment ago.
      if (messages.length > 0) this.#due.add(place);
      else if (!place.caughtUp) {
        place.caughtUp = true;
        yield { kind: 'caught-up', channel, lastSeq: place.cursor };
      }
    }

    /** Whether there is something to do before a heartbeat is due. */
    async #woken(): Promise<boolean> {
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const timer = setTimeout(() => resolve(false), heartbeatMs);
      this.#wait = () => resolve(true);
      const woken = await promise;
      this.#wait = undefined;
      clearTimeout(timer);
      return woken;
    }

    async #open({ channelType, channelId, afterSeq, fromNow }: Cursor): Promise<void> {
      const named = channelToRead(channelType, channelId, this.eyes);
      if (this.#places.has(named.key)) return;
      await assertReadable(store, this.eyes, [named]);
      const channelKey = (await channelKeys.find([named])).get(named.key);
      const place: Place = { channel: named, channelKey, cursor: afterSeq, caughtUp: false };
      this.#add(place);
      if (channelKey === undefined) return;
      const heads = await readHeadsAndFirst(db, channelKey);
      if (fromNow) place.cursor = heads.lastSeq;
      else assertKept(afterSeq, heads);
    }

    #add(place: Place): void {
      this.#places.set(place.channel.key, place);
      this.#due.add(place);
      if (place.channelKey !== undefined) this.#register(place, place.channelKey);
    }

    #register(place: Place, channelKey: number): void {
      place.channelKey = channelKey;
      this.#byKey.set(channelKey, place);
      const all = byKey.get(channelKey) ?? new Set();
      byKey.set(channelKey, all.add(this));
    }

    #remove(place: Place): void {
      this.#places.delete(place.channel.key);
      this.#due.delete(place);
      if (place.channelKey === undefined) return;
      this.#byKey.delete(place.channelKey);
      unregister(place.channelKey, this);
    }

    /** Rights, channels that were made meanwhile, and the channels that the user is in. */
    async #check(): Promise<void> {
      const unmade = [...this.#places.values()].filter((place) => place.channelKey === undefined);
      const keys =
        unmade.length === 0 ? new Map<string, number>() : await channelKeys.find(unmade.map((place) => place.channel));
      for (const place of unmade) {
        const key = keys.get(place.channel.key);
        if (key === undefined) continue;
        this.#register(place, key);
        this.#due.add(place);
      }
      if (this.#call.allOfUid && this.eyes !== undefined) await this.#followUid(this.eyes);
      const named = [...this.#places.values()].map((place) => place.channel);
      if (!this.#call.allOfUid && named.length > 0) await assertReadable(store, this.eyes, named);
    }

    async #followUid(uid: string): Promise<void> {
      const isFirst = !this.#hasFollowed;
      this.#hasFollowed = true;
      const mine = await memberChannels(db, uid, limits.subscribedChannels);
      const keep = new Set(mine.map((each) => each.channel.key));
      for (const place of [...this.#places.values()]) if (!keep.has(place.channel.key)) this.#remove(place);
      for (const { channel, channelKey, lastSeq, joinedAfterSeq } of mine) {
        if (this.#places.has(channel.key)) continue;
        // At the beginning from now on; a channel that it comes into later from when it came in.
        this.#add({ channel, channelKey, cursor: isFirst ? lastSeq : joinedAfterSeq, caughtUp: false });
      }
    }
  }

  function unregister(channelKey: number, subscription: Subscription): void {
    const all = byKey.get(channelKey);
    all?.delete(subscription);
    if (all?.size !== 0) return;
    byKey.delete(channelKey);
    turns.delete(channelKey);
  }

  return {
    async *subscribe(call) {
      const subscription = new Subscription(call);
      const frames = subscription.frames();
      try {
        for (;;) {
          const { done, value } = await orBusy(() => frames.next());
          if (done === true) return;
          const offered = performance.now();
          yield value;
          if (performance.now() - offered > slowMs) throw tooSlow(value);
        }
      } finally {
        await frames.return(undefined);
      }
    },
    wake(keys) {
      for (const key of keys) wake(key);
    },
    async poll() {
      for (const subscription of subscriptions) if (subscription.isWaitingForChannels) subscription.recheck();
      const keys = [...byKey.keys()];
      for (let start = 0; start < keys.length; start += 5000) {
        const heads = await readHeads(db, keys.slice(start, start + 5000));
        for (const [key, head] of heads)
          if ([...(byKey.get(key) ?? [])].some((subscription) => subscription.cursorOf(key) < head)) wake(key);
      }
    },
    membersChanged(uids) {
      const changed = new Set(uids);
      for (const subscription of subscriptions)
        if (subscription.eyes === undefined || changed.has(subscription.eyes)) subscription.recheck();
    },
    channelsMade() {
      for (const subscription of subscriptions) if (subscription.isWaitingForChannels) subscription.recheck();
    },
    channelsChanged(keys) {
      for (const key of keys) for (const subscription of byKey.get(key) ?? []) subscription.recheck();
    },
    deliver(live) {
      const uids = new Set(live.channel.uids ?? []);
      for (const subscription of subscriptions)
        if (
          subscription.follows(live.channel) ||
          (subscription.isForAll && subscription.eyes !== undefined && uids.has(subscription.eyes))
        )
          subscription.deliver(live);
    },
    counts: () => ({ readers: subscriptions.size, channels: byKey.size }),
    close() {
      for (const subscription of subscriptions)
        subscription.end(
          new Failure({
            reason: 'STOPPING',
            message: 'the service is stopping: subscribe again, from the last message_seq of each channel',
            metadata: {},
            retryAfterMs: 1000,
          }),
        );
    },
  };
}

function tooSlow(frame: Frame): Failure {
  const at: Record<string, string> =
    frame.kind === 'message'
      ? {
          channel_id: frame.channel.id,
          channel_type: String(frame.channel.type),
          after_seq: String(frame.message.messageSeq),
        }
      : {};
  return new Failure({
    reason: 'READER_TOO_SLOW',
    message: `the reader took nothing for ${slowMs / 1000} s: subscribe again, from the last message_seq of each channel`,
    metadata: at,
  });
}

/** Whether a message is for these eyes. */
function sees(eyes: string | undefined, { subscribers, fromUid }: StoredMessage): boolean {
  return eyes === undefined || subscribers.length === 0 || fromUid === eyes || subscribers.includes(eyes);
}

function isAlive({ expire, acceptedAt }: StoredMessage, now: number): boolean {
  return expire === 0 || acceptedAt + expire * 1000 > now;
}
