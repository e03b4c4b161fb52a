import { limits } from '../limits.ts';
import type { Channel } from '../messages/channel.ts';
import { noHeads, readHeads, readManyHeadsAndFirst } from '../messages/channel-keys.sql.ts';
import { type MemberChannel, memberChannels } from '../messages/member-lists.sql.ts';
import type { StoredMessage } from '../messages/messages-read.sql.ts';
import { ServiceError } from '../messages/service-error.ts';
import { assertReadable, channelToRead, type Reader, viewerOf } from '../reading/read-access.ts';
import { assertKept, assertReached } from '../reading/read-channel.ts';
import type { Store } from '../sending/group-context.ts';

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
  /** With `allOfUid`: a channel of the user that `channels` leaves out begins where the user joined it. */
  readonly resume?: boolean;
  /** Aborted when the caller disconnects. */
  readonly signal: AbortSignal;
}

/** A message that is not stored, for who is connected. */
export interface EphemeralMessage {
  readonly channel: Channel;
  readonly message: StoredMessage;
}

export type TailEvent =
  | { readonly kind: 'message'; readonly channel: Channel; readonly message: StoredMessage }
  | { readonly kind: 'caught-up'; readonly channel: Channel; readonly lastSeq: number }
  | { readonly kind: 'all-caught-up' }
  | { readonly kind: 'heartbeat' };

/** Told of each page that a reader was handed; `lagMs`: how old the last message of it was, of a reader that follows. */
export type OnTailRead = (page: { messages: number; lagMs: number | undefined }) => void;

/** Where subscriptions live: who follows what, and the pages that they share. */
export interface SubscriptionHub {
  readonly store: Store;
  readonly now: () => number;
  readonly onRead: OnTailRead | undefined;
  /** The next messages after a sequence, with a service's eyes. */
  pageAfter(channelKey: number, afterSeq: number): Promise<readonly StoredMessage[]>;
  enter(subscription: Subscription): void;
  leave(subscription: Subscription, channelKeys: Iterable<number>, unmade: Iterable<Channel>): void;
  /** The subscription is told by `channelMade` when this channel is created. */
  waitFor(unmade: Channel, subscription: Subscription): void;
  notWaiting(channel: Channel, subscription: Subscription): void;
  follow(channelKey: number, subscription: Subscription): void;
  unfollow(channelKey: number, subscription: Subscription): void;
}

/** From the last frame of a stream to its heartbeat, whatever else is looked at meanwhile. */
const heartbeatMs = 15_000;
/** A reader's rights are asked for again at the latest after this; a change of members says so at once. */
const recheckMs = 60_000;
/** Live messages that wait for a reader at most: it is told by none that it missed one, as the flag has it. */
const liveWaiting = 1000;

/** Channels whose heads are read by one statement. */
const headsAtOnce = 5000;

/** One channel of a subscription. */
interface FollowedChannel {
  readonly channel: Channel;
  /** Undefined while nobody has sent to it. */
  channelKey: number | undefined;
  cursor: number;
  caughtUp: boolean;
  /** There may be something after the cursor. */
  behind: boolean;
}

/** One reader: a cursor a channel, and a loop that reads, hands on and waits. */
export class Subscription {
  readonly viewerUid: string | undefined;
  readonly #call: SubscribeCall;
  readonly #house: SubscriptionHub;
  readonly #places = new Map<string, FollowedChannel>();
  readonly #byKey = new Map<number, FollowedChannel>();
  /** Places to look at. */
  #due = new Set<FollowedChannel>();
  #live: EphemeralMessage[] = [];
  #rechecks = true;
  #hasFollowed = false;
  /** Of `allOfUid`: every channel that the user was in at first was said to be caught up. */
  #saidAll = false;
  #closed: unknown;
  #wait: (() => void) | undefined;
  /** When the last frame was handed on. */
  #framedAt = performance.now();

  constructor(call: SubscribeCall, house: SubscriptionHub) {
    this.#call = call;
    this.#house = house;
    this.viewerUid = viewerOf(call);
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
    place.behind = true;
    this.#due.add(place);
    this.#wait?.();
  }

  /** A channel that it waits for was created, or one that its user is in from the beginning. */
  channelMade(created: Channel, channelKey: number): void {
    const place = this.#places.get(created.key);
    if (place === undefined) {
      // What is created before the user's channels are read is among them.
      if (!this.isForAll || !this.#hasFollowed) return;
      this.#add({ channel: created, channelKey, cursor: 0, caughtUp: false, behind: true });
    } else {
      if (place.channelKey !== undefined) return;
      this.#register(place, channelKey);
      place.behind = true;
      this.#due.add(place);
    }
    this.#wait?.();
  }

  /** A channel's head is below what this reader was handed: the database was restored, or another one took over. */
  wentBack(channelKey: number, head: number): void {
    const place = this.#byKey.get(channelKey);
    if (place === undefined) return;
    try {
      assertReached(place.cursor, { lastSeq: head }, placeOf(place.channel));
    } catch (error) {
      this.end(error);
    }
  }

  recheck(): void {
    this.#rechecks = true;
    this.#wait?.();
  }

  follows(channel: Channel): boolean {
    return this.#places.has(channel.key);
  }

  deliver(live: EphemeralMessage): void {
    if (!sees(this.viewerUid, live.message)) return;
    if (this.#live.length === liveWaiting) this.#live.shift();
    this.#live.push(live);
    this.#wait?.();
  }

  end(reason: unknown): void {
    this.#closed ??= reason;
    this.#wait?.();
  }

  async *frames(): AsyncGenerator<TailEvent> {
    const { signal } = this.#call;
    const left = () => this.end(signal.reason);
    signal.addEventListener('abort', left, { once: true });
    if (signal.aborted) left();
    this.#house.enter(this);
    let checked = 0;
    try {
      if (!this.isForAll) await this.#open(this.#call.channels);
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
        else if (this.isForAll && !this.#saidAll) {
          this.#saidAll = true;
          yield this.#framed({ kind: 'all-caught-up' });
        } else if (this.#live.length === 0 && !this.#rechecks && !(await this.#woken()))
          yield this.#framed({ kind: 'heartbeat' });
      }
    } finally {
      signal.removeEventListener('abort', left);
      const unmade = [...this.#places.values()].filter((place) => place.channelKey === undefined);
      this.#house.leave(
        this,
        this.#byKey.keys(),
        unmade.map((place) => place.channel),
      );
    }
  }

  *#takeLive(): Iterable<TailEvent> {
    const live = this.#live;
    this.#live = [];
    if (live.length > 0) this.#house.onRead?.({ messages: live.length, lagMs: undefined });
    for (const { channel, message } of live) yield this.#framed({ kind: 'message', channel, message });
  }

  #framed(frame: TailEvent): TailEvent {
    this.#framedAt = performance.now();
    return frame;
  }

  /** One page of one channel. It is registered before it reads, so that nothing is stored between the two unseen. */
  async *#read(place: FollowedChannel): AsyncGenerator<TailEvent> {
    this.#due.delete(place);
    const { channel, channelKey } = place;
    if (channelKey === undefined || !place.behind) {
      if (!place.caughtUp) yield this.#framed({ kind: 'caught-up', channel, lastSeq: place.cursor });
      place.caughtUp = true;
      return;
    }
    place.behind = false;
    const messages = await this.#house.pageAfter(channelKey, place.cursor);
    const last = messages.at(-1);
    if (last !== undefined)
      this.#house.onRead?.({
        messages: messages.length,
        lagMs: place.caughtUp ? this.#house.now() - last.acceptedAt : undefined,
      });
    for (const message of messages) {
      place.cursor = message.messageSeq;
      if (isAlive(message, this.#house.now()) && sees(this.viewerUid, message))
        yield this.#framed({ kind: 'message', channel, message });
    }
    // There may be more, also when it was somebody else's page, read a moment ago.
    if (messages.length > 0) {
      place.behind = true;
      this.#due.add(place);
    } else if (!place.caughtUp) {
      place.caughtUp = true;
      yield this.#framed({ kind: 'caught-up', channel, lastSeq: place.cursor });
    }
  }

  /** Whether there is something to do before a heartbeat is due. */
  async #woken(): Promise<boolean> {
    // It may have ended while its rights were checked.
    if (this.#closed !== undefined) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), this.#framedAt + heartbeatMs - performance.now());
    this.#wait = () => resolve(true);
    const woken = await promise;
    this.#wait = undefined;
    clearTimeout(timer);
    return woken;
  }

  /** The channels that the call names. */
  async #open(cursors: readonly Cursor[]): Promise<void> {
    const { store } = this.#house;
    const named = new Map<string, { readonly channel: Channel; readonly cursor: Cursor }>();
    for (const cursor of cursors) {
      const channel = channelToRead(cursor.channelType, cursor.channelId, this.viewerUid);
      if (!named.has(channel.key)) named.set(channel.key, { channel, cursor });
    }
    const channels = [...named.values()].map((each) => each.channel);
    await assertReadable(store, this.viewerUid, channels);
    // Waiting before looking: what is created between the two is not missed.
    for (const channel of channels)
      this.#add({ channel, channelKey: undefined, cursor: 0, caughtUp: false, behind: false });
    const keys = await store.channelKeys.find(channels);
    const heads = await readManyHeadsAndFirst(store.db, [...keys.values()]);
    for (const { channel, cursor } of named.values()) {
      const place = this.#places.get(channel.key);
      if (place === undefined) continue;
      const channelKey = keys.get(channel.key);
      const stands = (channelKey === undefined ? undefined : heads.get(channelKey)) ?? noHeads;
      if (!cursor.fromNow) {
        assertReached(cursor.afterSeq, stands, placeOf(channel));
        assertKept(cursor.afterSeq, stands, placeOf(channel));
      }
      place.cursor = cursor.fromNow ? stands.lastSeq : cursor.afterSeq;
      if (channelKey === undefined) continue;
      if (place.channelKey === undefined) this.#register(place, channelKey);
      place.behind = true;
      this.#due.add(place);
    }
  }

  #add(place: FollowedChannel): void {
    this.#places.set(place.channel.key, place);
    this.#due.add(place);
    if (place.channelKey === undefined) this.#house.waitFor(place.channel, this);
    else this.#register(place, place.channelKey);
  }

  #register(place: FollowedChannel, channelKey: number): void {
    if (place.channelKey === undefined) this.#house.notWaiting(place.channel, this);
    place.channelKey = channelKey;
    this.#byKey.set(channelKey, place);
    this.#house.follow(channelKey, this);
  }

  #remove(place: FollowedChannel): void {
    this.#places.delete(place.channel.key);
    this.#due.delete(place);
    if (place.channelKey === undefined) {
      this.#house.notWaiting(place.channel, this);
      return;
    }
    this.#byKey.delete(place.channelKey);
    this.#house.unfollow(place.channelKey, this);
  }

  /** Rights, and the channels that the user is in. */
  async #check(): Promise<void> {
    if (this.isForAll) {
      if (this.viewerUid !== undefined) await this.#followUid(this.viewerUid);
      return;
    }
    const named = [...this.#places.values()].map((place) => place.channel);
    if (named.length > 0) await assertReadable(this.#house.store, this.viewerUid, named);
  }

  async #followUid(uid: string): Promise<void> {
    const { store } = this.#house;
    const isFirst = !this.#hasFollowed;
    this.#hasFollowed = true;
    const before = new Set(this.#places.keys());
    const mine = await memberChannels(store.db, uid, limits.subscribedChannels + 1);
    if (mine.length > limits.subscribedChannels) throw tooManyChannels(uid);
    const keep = new Set(mine.map((each) => each.channel.key));
    // What was created while they were read is not among them, and stays.
    for (const place of [...this.#places.values()])
      if (before.has(place.channel.key) && !keep.has(place.channel.key)) this.#remove(place);
    const cursors = isFirst ? await this.#cursorsOf(mine) : new Map<string, number>();
    const added: (FollowedChannel & { readonly channelKey: number })[] = [];
    for (const { channel, channelKey, lastSeq, joinedAfterSeq } of mine) {
      const known = this.#places.get(channel.key);
      if (known !== undefined && !isFirst) continue;
      // At first from now on, or, of a stream that resumes, from where the user joined; later always from there.
      const begin = isFirst && this.#call.resume !== true ? lastSeq : joinedAfterSeq;
      const cursor = cursors.get(channel.key) ?? begin;
      if (known !== undefined) {
        // Reported as created while the channels were read. The report may be late: the call may resume this channel.
        known.cursor = cursor;
        continue;
      }
      const place = { channel, channelKey, cursor, caughtUp: false, behind: !isFirst };
      this.#add(place);
      added.push(place);
    }
    // They are registered: what is stored from here on wakes them. Most have nothing new, which one statement tells.
    for (let start = 0; start < added.length; start += headsAtOnce) {
      const part = added.slice(start, start + headsAtOnce);
      const heads = await readHeads(
        store.db,
        part.map((place) => place.channelKey),
      );
      for (const place of part) if (heads.get(place.channelKey) !== place.cursor) place.behind = true;
    }
  }

  /** Where the call's cursors begin, by channel text. One for a channel that the user is not in any more does not count. */
  async #cursorsOf(mine: readonly MemberChannel[]): Promise<Map<string, number>> {
    const { store } = this.#house;
    const known = new Map(mine.map((each) => [each.channel.key, each]));
    const cursors = new Map<string, number>();
    const named: { readonly channel: Channel; readonly afterSeq: number }[] = [];
    for (const { channelType, channelId, afterSeq, fromNow } of this.#call.channels) {
      const channel = channelToRead(channelType, channelId, this.viewerUid);
      if (cursors.has(channel.key)) continue;
      cursors.set(channel.key, fromNow ? (known.get(channel.key)?.lastSeq ?? 0) : afterSeq);
      if (!fromNow && afterSeq > 0) named.push({ channel, afterSeq });
    }
    const keys = await store.channelKeys.find(named.map((each) => each.channel));
    const heads = await readManyHeadsAndFirst(store.db, [...keys.values()]);
    for (const { channel, afterSeq } of named) {
      const channelKey = keys.get(channel.key);
      const stands = (channelKey === undefined ? undefined : heads.get(channelKey)) ?? noHeads;
      assertReached(afterSeq, stands, placeOf(channel));
      if (known.has(channel.key)) assertKept(afterSeq, stands, placeOf(channel));
    }
    return cursors;
  }
}

/** A channel, as an error about one of many names it. */
const placeOf = ({ type, id }: Channel) => ({ channel: { type, id } });

function tooManyChannels(uid: string): ServiceError {
  const limit = limits.subscribedChannels;
  return new ServiceError({
    reason: 'TOO_MANY_CHANNELS',
    message:
      `${JSON.stringify(uid)} is in more than ${limit} channels, the maximum for all_of_uid; ` +
      `list those to follow in channels, at most ${limits.subscribeChannels} per call`,
    metadata: { limit: String(limit), uid },
  });
}

/** Whether a message is for these eyes. */
function sees(viewerUid: string | undefined, { subscribers, fromUid }: StoredMessage): boolean {
  return (
    viewerUid === undefined || subscribers.length === 0 || fromUid === viewerUid || subscribers.includes(viewerUid)
  );
}

function isAlive({ expire, acceptedAt }: StoredMessage, now: number): boolean {
  return expire === 0 || acceptedAt + expire * 1000 > now;
}
