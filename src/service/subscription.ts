import type { Channel } from '../domain/channel.ts';
import { limits } from '../limits.ts';
import { readHeadsAndFirst } from '../storage/channel.ts';
import type { StoredMessage } from '../storage/history.ts';
import { memberChannels } from '../storage/roster.ts';
import type { Store } from './group.ts';
import { assertKept } from './read-channel.ts';
import { assertReadable, channelToRead, eyesOf, type Reader } from './reading.ts';

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

/** Told of each page that a reader was handed; `lagMs`: how old the last message of it was, of a reader that follows. */
export type OnTailRead = (page: { messages: number; lagMs: number | undefined }) => void;

/** Where subscriptions live: who follows what, and the pages that they share. */
export interface SubscriptionHouse {
  readonly store: Store;
  readonly now: () => number;
  readonly onRead: OnTailRead | undefined;
  /** The next messages after a sequence, with a service's eyes. */
  pageAfter(channelKey: number, afterSeq: number): Promise<readonly StoredMessage[]>;
  enter(subscription: Subscription): void;
  leave(subscription: Subscription, channelKeys: Iterable<number>): void;
  follow(channelKey: number, subscription: Subscription): void;
  unfollow(channelKey: number, subscription: Subscription): void;
}

/** From the last frame of a stream to its heartbeat, whatever else is looked at meanwhile. */
const heartbeatMs = 15_000;
/** A reader's rights are asked for again at the latest after this; a change of members says so at once. */
const recheckMs = 60_000;
/** Live messages that wait for a reader at most: it is told by none that it missed one, as the flag has it. */
const liveWaiting = 1000;

/** One channel of a subscription. */
interface Place {
  readonly channel: Channel;
  /** Undefined while nobody has sent to it. */
  channelKey: number | undefined;
  cursor: number;
  caughtUp: boolean;
}

/** One reader: a cursor a channel, and a loop that reads, hands on and waits. */
export class Subscription {
  readonly eyes: string | undefined;
  readonly #call: SubscribeCall;
  readonly #house: SubscriptionHouse;
  readonly #places = new Map<string, Place>();
  readonly #byKey = new Map<number, Place>();
  /** Places to look at. */
  #due = new Set<Place>();
  #live: LiveMessage[] = [];
  #rechecks = true;
  #hasFollowed = false;
  #closed: unknown;
  #wait: (() => void) | undefined;
  /** When the last frame was handed on. */
  #framedAt = performance.now();

  constructor(call: SubscribeCall, house: SubscriptionHouse) {
    this.#call = call;
    this.#house = house;
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
    this.#house.enter(this);
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
        else if (this.#live.length === 0 && !this.#rechecks && !(await this.#woken()))
          yield this.#framed({ kind: 'heartbeat' });
      }
    } finally {
      signal.removeEventListener('abort', left);
      this.#house.leave(this, this.#byKey.keys());
    }
  }

  *#takeLive(): Iterable<Frame> {
    const live = this.#live;
    this.#live = [];
    if (live.length > 0) this.#house.onRead?.({ messages: live.length, lagMs: undefined });
    for (const { channel, message } of live) yield this.#framed({ kind: 'message', channel, message });
  }

  #framed(frame: Frame): Frame {
    this.#framedAt = performance.now();
    return frame;
  }

  /** One page of one channel. It is registered before it reads, so that nothing is stored between the two unseen. */
  async *#read(place: Place): AsyncGenerator<Frame> {
    this.#due.delete(place);
    const { channel, channelKey } = place;
    if (channelKey === undefined) {
      if (!place.caughtUp) yield this.#framed({ kind: 'caught-up', channel, lastSeq: 0 });
      place.caughtUp = true;
      return;
    }
    const messages = await this.#house.pageAfter(channelKey, place.cursor);
    const last = messages.at(-1);
    if (last !== undefined)
      this.#house.onRead?.({
        messages: messages.length,
        lagMs: place.caughtUp ? this.#house.now() - last.acceptedAt : undefined,
      });
    for (const message of messages) {
      place.cursor = message.messageSeq;
      if (isAlive(message, this.#house.now()) && sees(this.eyes, message))
        yield this.#framed({ kind: 'message', channel, message });
    }
    // There may be more, also when it was somebody else's page, read a moment ago.
    if (messages.length > 0) this.#due.add(place);
    else if (!place.caughtUp) {
      place.caughtUp = true;
      yield this.#framed({ kind: 'caught-up', channel, lastSeq: place.cursor });
    }
  }

  /** Whether there is something to do before a heartbeat is due. */
  async #woken(): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), this.#framedAt + heartbeatMs - performance.now());
    this.#wait = () => resolve(true);
    const woken = await promise;
    this.#wait = undefined;
    clearTimeout(timer);
    return woken;
  }

  async #open({ channelType, channelId, afterSeq, fromNow }: Cursor): Promise<void> {
    const named = channelToRead(channelType, channelId, this.eyes);
    if (this.#places.has(named.key)) return;
    const { store } = this.#house;
    await assertReadable(store, this.eyes, [named]);
    const channelKey = (await store.channelKeys.find([named])).get(named.key);
    const place: Place = { channel: named, channelKey, cursor: afterSeq, caughtUp: false };
    this.#add(place);
    if (channelKey === undefined) return;
    const heads = await readHeadsAndFirst(store.db, channelKey);
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
    this.#house.follow(channelKey, this);
  }

  #remove(place: Place): void {
    this.#places.delete(place.channel.key);
    this.#due.delete(place);
    if (place.channelKey === undefined) return;
    this.#byKey.delete(place.channelKey);
    this.#house.unfollow(place.channelKey, this);
  }

  /** Rights, channels that were made meanwhile, and the channels that the user is in. */
  async #check(): Promise<void> {
    const { store } = this.#house;
    const unmade = [...this.#places.values()].filter((place) => place.channelKey === undefined);
    const keys =
      unmade.length === 0
        ? new Map<string, number>()
        : await store.channelKeys.find(unmade.map((place) => place.channel));
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
    const mine = await memberChannels(this.#house.store.db, uid, limits.subscribedChannels);
    const keep = new Set(mine.map((each) => each.channel.key));
    for (const place of [...this.#places.values()]) if (!keep.has(place.channel.key)) this.#remove(place);
    for (const { channel, channelKey, lastSeq, joinedAfterSeq } of mine) {
      if (this.#places.has(channel.key)) continue;
      // At the beginning from now on; a channel that it comes into later from when it came in.
      this.#add({ channel, channelKey, cursor: isFirst ? lastSeq : joinedAfterSeq, caughtUp: false });
    }
  }
}

/** Whether a message is for these eyes. */
function sees(eyes: string | undefined, { subscribers, fromUid }: StoredMessage): boolean {
  return eyes === undefined || subscribers.length === 0 || fromUid === eyes || subscribers.includes(eyes);
}

function isAlive({ expire, acceptedAt }: StoredMessage, now: number): boolean {
  return expire === 0 || acceptedAt + expire * 1000 > now;
}
