import type { Change } from '../changes/read-changes.sql.ts';
import { limits } from '../limits.ts';
import type { Channel } from '../messages/channel.ts';
import { noHeads, type Positions, readManyHeadsAndFirst, readPositions } from '../messages/channel-heads.sql.ts';
import { memberChannels } from '../messages/member-lists.sql.ts';
import type { PageAfter } from '../messages/messages-read.sql.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import { assertReadable, viewerOf } from '../reading/read-access.ts';
import { assertChangeReached, assertKept, assertReached } from '../reading/read-channel.ts';
import type { Store } from '../sending/group-context.ts';
import { assertChangesKept, byChannel, cursorsOf, type OwnCursor, positionOf } from './cursors.ts';
import type { Cursor, EphemeralMessage, OnTailRead, SubscribeCall, TailEvent } from './tail-event.ts';
import { changedFor, isAlive, isVisible } from './visibility.ts';

/** What subscriptions share: the index of followers, and pages. */
export interface SubscriptionHub {
  readonly store: Store;
  readonly now: () => number;
  readonly onRead: OnTailRead | undefined;
  /** Reads the next messages after a sequence, without regard to a viewer. */
  pageAfter(channelKey: number, afterSeq: number): Promise<PageAfter>;
  /** Reads the next changes after one, without regard to a viewer. */
  changesAfter(channelKey: number, afterChange: number): Promise<readonly Change[]>;
  enter(subscription: Subscription): void;
  leave(subscription: Subscription, channelKeys: Iterable<number>, unmade: Iterable<Channel>): void;
  /** Registers for `channelCreated` of a channel that does not exist yet. */
  waitFor(unmade: Channel, subscription: Subscription): void;
  notWaiting(channel: Channel, subscription: Subscription): void;
  follow(channelKey: number, subscription: Subscription): void;
  unfollow(channelKey: number, subscription: Subscription): void;
}

/** Time from the last event of a stream to its heartbeat. */
const heartbeatMs = 15_000;
/**
 * A reader that accepts nothing for this long is ended: subscribing again is quicker than catching
 * up.
 */
const slowMs = 60_000;
/** Longest time between checks of a reader's rights; a change of members triggers one at once. */
const recheckMs = 60_000;
/**
 * Ephemeral messages that wait for a reader at most; more are dropped without notice, as the flag
 * defines.
 */
const liveWaiting = 1000;

/** Channels whose heads are read per statement. */
const headsAtOnce = 5000;

/** A channel of a subscription. */
interface FollowedChannel {
  readonly channel: Channel;
  /** Undefined until the channel is created. */
  channelKey: number | undefined;
  cursor: number;
  caughtUp: boolean;
  /** Whether there may be messages after the cursor. */
  behind: boolean;
  /** The number of the last change that was sent, or of the last one at the start. */
  changeCursor: number;
  /** Whether there may be changes after it. */
  changesBehind: boolean;
}

/** A channel that does not exist yet. */
const unmadeCursor = { cursor: 0, caughtUp: false, behind: false, changeCursor: 0, changesBehind: false };

/**
 * One reader: a cursor per channel, and a loop that reads, yields and waits.
 *
 * Per channel: behind ── page is empty ──> caught up ── wake ──> behind. Wake-ups only say when to read; the cursor is
 * the truth, so that a lost or repeated wake-up neither skips nor repeats a message.
 */
export class Subscription {
  readonly viewerUid: string | undefined;
  readonly #call: SubscribeCall;
  readonly #hub: SubscriptionHub;
  readonly #followed = new Map<string, FollowedChannel>();
  readonly #byKey = new Map<number, FollowedChannel>();
  /** Channels to read. */
  #due = new Set<FollowedChannel>();
  #live: EphemeralMessage[] = [];
  #rechecks = true;
  #hasFollowed = false;
  /** With `allOfUid`: whether `all-caught-up` was sent. */
  #sentAllCaughtUp = false;
  #closed: unknown;
  #wait: ((isWoken: boolean) => void) | undefined;
  /** When rights were checked. */
  #checkedAt = 0;
  /** When the last event was yielded. */
  #eventAt = performance.now();
  #heartbeat: NodeJS.Timeout | undefined;

  constructor(call: SubscribeCall, hub: SubscriptionHub) {
    this.#call = call;
    this.#hub = hub;
    this.viewerUid = viewerOf(call);
  }

  get isForAll(): boolean {
    return this.#call.allOfUid;
  }

  cursorOf(channelKey: number): { readonly seq: number; readonly change: number } {
    const followed = this.#byKey.get(channelKey);
    return { seq: followed?.cursor ?? 0, change: followed?.changeCursor ?? 0 };
  }

  wake(channelKey: number): void {
    const followed = this.#byKey.get(channelKey);
    if (followed === undefined) return;
    followed.behind = true;
    this.#due.add(followed);
    this.#wait?.(true);
  }

  messagesChanged(channelKey: number): void {
    const followed = this.#byKey.get(channelKey);
    if (followed === undefined) return;
    followed.changesBehind = true;
    this.#due.add(followed);
    this.#wait?.(true);
  }

  /**
   * Called when a channel was created that this reader waits for, or whose first members include
   * its user.
   */
  channelCreated(created: Channel, channelKey: number): void {
    const followed = this.#followed.get(created.key);
    if (followed === undefined) {
      // Channels created before the user's channels are read are among those.
      if (!this.isForAll || !this.#hasFollowed) return;
      this.#add({ ...unmadeCursor, channel: created, channelKey, behind: true });
    } else {
      if (followed.channelKey !== undefined) return;
      this.#register(followed, channelKey);
      followed.behind = true;
      this.#due.add(followed);
    }
    this.#wait?.(true);
  }

  /**
   * Ends the stream when a head is below the cursor: the database was restored, or another one took
   * over.
   */
  headWentBack(channelKey: number, head: Pick<Positions, 'lastSeq' | 'lastChange'>): void {
    const followed = this.#byKey.get(channelKey);
    if (followed === undefined) return;
    try {
      assertReached(followed.cursor, head, positionOf(followed.channel));
      assertChangeReached(followed.changeCursor, head, positionOf(followed.channel));
    } catch (error) {
      this.end(error);
    }
  }

  recheck(): void {
    this.#rechecks = true;
    this.#wait?.(true);
  }

  follows(channel: Channel): boolean {
    return this.#followed.has(channel.key);
  }

  deliver(live: EphemeralMessage): void {
    if (!isVisible(this.viewerUid, live.message)) return;
    if (this.#live.length === liveWaiting) this.#live.shift();
    this.#live.push(live);
    this.#wait?.(true);
  }

  end(reason: unknown): void {
    this.#closed ??= reason;
    this.#wait?.(true);
  }

  async *frames(): AsyncGenerator<TailEvent> {
    const { signal } = this.#call;
    const left = () => this.end(signal.reason);
    signal.addEventListener('abort', left, { once: true });
    if (signal.aborted) left();
    this.#hub.enter(this);
    try {
      if (!this.isForAll) await orBusy(() => this.#open(this.#call.channels));
      for (;;) {
        for (const event of await this.#nextEvents()) {
          if (event.kind === 'message' && !isAlive(event.message, this.#hub.now())) continue;
          this.#eventAt = performance.now();
          yield event;
          if (performance.now() - this.#eventAt > slowMs) throw tooSlow(event);
        }
      }
    } finally {
      signal.removeEventListener('abort', left);
      clearTimeout(this.#heartbeat);
      const unmade = [...this.#followed.values()].filter((followed) => followed.channelKey === undefined);
      this.#hub.leave(
        this,
        this.#byKey.keys(),
        unmade.map((followed) => followed.channel),
      );
    }
  }

  /** The next events of this reader: those of one page, or none after a wake-up or a check. */
  async #nextEvents(): Promise<readonly TailEvent[]> {
    if (this.#closed !== undefined) throw this.#closed;
    if (this.#rechecks || performance.now() - this.#checkedAt > recheckMs) {
      this.#rechecks = false;
      this.#checkedAt = performance.now();
      await orBusy(() => this.#check());
    }
    if (this.#live.length > 0) return this.#takeLive();
    const [followed] = this.#due;
    if (followed !== undefined) return await this.#read(followed);
    if (this.isForAll && !this.#sentAllCaughtUp) {
      this.#sentAllCaughtUp = true;
      return [{ kind: 'all-caught-up' }];
    }
    return this.#rechecks || (await this.#woken()) ? [] : [{ kind: 'heartbeat' }];
  }

  #takeLive(): readonly TailEvent[] {
    const live = this.#live;
    this.#live = [];
    this.#hub.onRead?.({ messages: live.length, lagMs: undefined });
    return live.map(({ channel, message }) => ({ kind: 'message', channel, message, lastChange: 0 }));
  }

  /**
   * Reads one page of one channel. The reader is registered first, so that a message stored
   * meanwhile wakes it.
   */
  async #read(followed: FollowedChannel): Promise<readonly TailEvent[]> {
    this.#due.delete(followed);
    const { channel, channelKey } = followed;
    if (channelKey === undefined) return this.#caughtUp(followed);
    if (!followed.behind) return await this.#readChanges(followed, channelKey);
    followed.behind = false;
    const { messages, isLast } = await orBusy(() => this.#hub.pageAfter(channelKey, followed.cursor));
    const last = messages.at(-1);
    if (last === undefined) return await this.#readChanges(followed, channelKey);
    this.#hub.onRead?.({
      messages: messages.length,
      lagMs: followed.caughtUp ? this.#hub.now() - last.acceptedAt : undefined,
    });
    followed.cursor = last.messageSeq;
    // A page may be older than the reader. One that has caught up was woken, by a wake-up that the
    // page is younger than: what was stored later wakes it again.
    if (!isLast || !followed.caughtUp) {
      followed.behind = true;
      this.#due.add(followed);
    } else if (followed.changesBehind) this.#due.add(followed);
    const events: TailEvent[] = [];
    for (const message of messages)
      if (isVisible(this.viewerUid, message))
        events.push({ kind: 'message', channel, message, lastChange: followed.changeCursor });
    return events;
  }

  /**
   * Reads one page of a channel's changes, once its messages were read: a change comes after its
   * message. Without changes this reads nothing.
   */
  async #readChanges(followed: FollowedChannel, channelKey: number): Promise<readonly TailEvent[]> {
    if (!followed.changesBehind) return this.#caughtUp(followed);
    followed.changesBehind = false;
    const changes = await orBusy(() => this.#hub.changesAfter(channelKey, followed.changeCursor));
    const { channel } = followed;
    const events: TailEvent[] = [];
    for (const { changeNo, kind, message } of changes) {
      if (message !== undefined && message.messageSeq > followed.cursor) {
        // The message was stored after the last page.
        followed.behind = true;
        break;
      }
      followed.changeCursor = changeNo;
      if (message === undefined) continue;
      const seen = changedFor(this.viewerUid, message);
      const at = { lastSeq: followed.cursor, lastChange: changeNo };
      if (seen !== undefined) events.push({ kind: 'changed', channel, ...at, change: kind, message: seen });
    }
    if (changes.length === 0) return this.#caughtUp(followed);
    // Reads on until a page is empty.
    followed.changesBehind = true;
    this.#due.add(followed);
    return events;
  }

  #caughtUp(followed: FollowedChannel): readonly TailEvent[] {
    if (followed.caughtUp) return [];
    followed.caughtUp = true;
    const { channel, cursor: lastSeq, changeCursor: lastChange } = followed;
    return [{ kind: 'caught-up', channel, lastSeq, lastChange }];
  }

  /** Waits for work; false when a heartbeat is due first. */
  async #woken(): Promise<boolean> {
    // The stream may have ended while rights were checked.
    if (this.#closed !== undefined) return true;
    this.#heartbeat ??= this.#heartbeatIn(this.#eventAt + heartbeatMs - performance.now());
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#wait = resolve;
    const woken = await promise;
    this.#wait = undefined;
    return woken;
  }

  /**
   * One timer per heartbeat, not per wake-up: a timer that fires after an event waits for the rest.
   */
  #heartbeatIn(ms: number): NodeJS.Timeout {
    return setTimeout(() => {
      const rest = this.#eventAt + heartbeatMs - performance.now();
      this.#heartbeat = rest > 0 ? this.#heartbeatIn(rest) : undefined;
      if (rest <= 0) this.#wait?.(false);
    }, ms);
  }

  /** Opens the channels that the call names. */
  async #open(cursors: readonly Cursor[]): Promise<void> {
    const { store } = this.#hub;
    const named = byChannel(cursors, this.viewerUid);
    const channels = [...named.values()].map((each) => each.channel);
    await assertReadable(store, this.viewerUid, channels);
    // Registers before reading, so that a channel created, or a message changed, in between is not
    // missed.
    for (const channel of channels) this.#add({ ...unmadeCursor, channel, channelKey: undefined });
    const keys = await store.channelKeys.find(channels);
    for (const channel of channels) {
      const followed = this.#followed.get(channel.key);
      const channelKey = keys.get(channel.key);
      if (followed !== undefined && followed.channelKey === undefined && channelKey !== undefined)
        this.#register(followed, channelKey);
    }
    const heads = await mapByShard(store.db, store.shards, keys.values(), readManyHeadsAndFirst);
    for (const { channel, cursor } of named.values()) {
      const followed = this.#followed.get(channel.key);
      if (followed === undefined) continue;
      const channelKey = keys.get(channel.key);
      const positions = (channelKey === undefined ? undefined : heads.get(channelKey)) ?? noHeads;
      if (!cursor.fromNow) {
        assertReached(cursor.afterSeq, positions, positionOf(channel));
        assertKept(cursor.afterSeq, positions, positionOf(channel));
      }
      followed.cursor = cursor.fromNow ? positions.lastSeq : cursor.afterSeq;
      followed.changeCursor = cursor.afterChange ?? positions.lastChange;
      followed.changesBehind ||= followed.changeCursor < positions.lastChange;
      await assertChangesKept(store, followed.changeCursor, positions, { channel, channelKey });
      if (channelKey === undefined) continue;
      followed.behind = true;
      this.#due.add(followed);
    }
  }

  #add(followed: FollowedChannel): void {
    this.#followed.set(followed.channel.key, followed);
    this.#due.add(followed);
    if (followed.channelKey === undefined) this.#hub.waitFor(followed.channel, this);
    else this.#register(followed, followed.channelKey);
  }

  #register(followed: FollowedChannel, channelKey: number): void {
    if (followed.channelKey === undefined) this.#hub.notWaiting(followed.channel, this);
    followed.channelKey = channelKey;
    this.#byKey.set(channelKey, followed);
    this.#hub.follow(channelKey, this);
  }

  #remove(followed: FollowedChannel): void {
    this.#followed.delete(followed.channel.key);
    this.#due.delete(followed);
    if (followed.channelKey === undefined) {
      this.#hub.notWaiting(followed.channel, this);
      return;
    }
    this.#byKey.delete(followed.channelKey);
    this.#hub.unfollow(followed.channelKey, this);
  }

  /** Checks rights, and updates the channels of the user. */
  async #check(): Promise<void> {
    if (this.isForAll) {
      if (this.viewerUid !== undefined) await this.#followUid(this.viewerUid);
      return;
    }
    const named = [...this.#followed.values()].map((followed) => followed.channel);
    if (named.length > 0) await assertReadable(this.#hub.store, this.viewerUid, named);
  }

  async #followUid(uid: string): Promise<void> {
    const { store } = this.#hub;
    const isFirst = !this.#hasFollowed;
    this.#hasFollowed = true;
    const before = new Set(this.#followed.keys());
    const mine = await memberChannels(store, uid, limits.subscribedChannels + 1);
    if (mine.length > limits.subscribedChannels) throw tooManyChannels(uid);
    const keep = new Set(mine.map((each) => each.channel.key));
    // Channels created while they were read are not among them, and stay.
    for (const followed of [...this.#followed.values()])
      if (before.has(followed.channel.key) && !keep.has(followed.channel.key)) this.#remove(followed);
    const cursors = isFirst
      ? await cursorsOf(store, { channels: this.#call.channels, viewerUid: this.viewerUid }, mine)
      : new Map<string, OwnCursor>();
    const added: (FollowedChannel & { readonly channelKey: number })[] = [];
    for (const { channel, channelKey, lastSeq, lastChange, joinedAfterSeq } of mine) {
      const known = this.#followed.get(channel.key);
      if (known !== undefined && !isFirst) continue;
      // At first from the head, or with `resume` from where the user joined; later always from
      // there.
      const begin = isFirst && this.#call.resume !== true ? lastSeq : joinedAfterSeq;
      const own = cursors.get(channel.key);
      const cursor = own?.seq ?? begin;
      const changeCursor = own?.change ?? lastChange;
      if (known !== undefined) {
        // Reported as created while the channels were read. The report may be late: the call may
        // resume this channel.
        known.cursor = cursor;
        known.changeCursor = changeCursor;
        continue;
      }
      const followed = {
        channel,
        channelKey,
        cursor,
        caughtUp: false,
        behind: !isFirst,
        changeCursor,
        changesBehind: changeCursor < lastChange,
      };
      this.#add(followed);
      added.push(followed);
    }
    // They are registered: new messages wake them. Most have none, which one statement shows.
    for (let start = 0; start < added.length; start += headsAtOnce) {
      const part = added.slice(start, start + headsAtOnce);
      const keys = part.map((followed) => followed.channelKey);
      const heads = await mapByShard(store.db, store.shards, keys, readPositions);
      for (const followed of part) {
        const head = heads.get(followed.channelKey);
        if (head?.lastSeq !== followed.cursor) followed.behind = true;
        if ((head?.lastChange ?? 0) > followed.changeCursor) followed.changesBehind = true;
      }
    }
  }
}

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

function tooSlow(event: TailEvent): ServiceError {
  const at: Record<string, string> =
    event.kind === 'message'
      ? {
          channel_id: event.channel.id,
          channel_type: String(event.channel.type),
          after_seq: String(event.message.messageSeq),
        }
      : {};
  return new ServiceError({
    reason: 'READER_TOO_SLOW',
    message: `the reader accepted nothing for ${slowMs / 1000} s; subscribe again from the last message_seq of each channel`,
    metadata: at,
  });
}
