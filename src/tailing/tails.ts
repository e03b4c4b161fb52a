// Live tails: streams of messages that follow channels, or all channels of a user.
//
// Entry point: `createTails`. A reader (subscription.ts) keeps a cursor per channel and reads pages
// after it:
//
//   behind ── page is empty ──> caught up ── wake-up ──> behind
//
// Wake-ups come from commits of this instance, from NOTIFY of other instances (notifier.ts) and
// from a poll every 5 s. They only say when to read: the cursor is the truth, so that a lost or
// repeated wake-up neither skips nor repeats a message. Readers of one channel share pages per
// wake-up generation, and readers of several channels a statement (gathered-reads.ts).
// Messages with no_persist (ephemeral.ts) pass through once.

import { LRUCache } from 'lru-cache';
import { type Change, readChangesAfter } from '../changes/read-changes.sql.ts';
import { type Channel, channel, firstUids, messageSequence } from '../messages/channel.ts';
import { readPositions } from '../messages/channel-heads.sql.ts';
import type { CreatedChannel } from '../messages/channel-keys.sql.ts';
import { type PageAfter, readNextOfEach } from '../messages/messages-read.sql.ts';
import { ServiceError } from '../messages/service-error.ts';
import { byShard, mapByShard, merged } from '../postgres/over-shards.ts';
import { onShard } from '../postgres/shards.ts';
import type { Store } from '../sending/group-context.ts';
import { type After, gatherReads } from './gathered-reads.ts';
import { Subscription, type SubscriptionHub } from './subscription.ts';
import type { EphemeralMessage, OnTailRead, SubscribeCall, TailEvent } from './tail-event.ts';

export type { EphemeralMessage as LiveMessage, OnTailRead, TailEvent as Frame };

/** Tails of this instance. Cursors are the truth; wake-ups only say when to read. */
export interface Tails {
  subscribe(call: SubscribeCall): AsyncIterable<TailEvent>;
  /** Messages were stored in these channels. */
  wake(channelKeys: Iterable<number>): void;
  /** Messages of these channels were edited or recalled. */
  messagesChanged(channelKeys: Iterable<number>): void;
  /**
   * Compares the heads of all followed channels with the cursors, and wakes readers that are
   * behind.
   */
  poll(): Promise<void>;
  /** These users joined or left channels. */
  membersChanged(uids: Iterable<string>): void;
  /** Channels were created: wakes readers that wait for one of them. */
  channelsCreated(made: Iterable<CreatedChannel>): void;
  /**
   * Searches the channels that readers wait for, after more were created than a notification names.
   */
  findCreated(): Promise<void>;
  /** The members, lists or flags of these channels have changed. */
  channelsChanged(channelKeys: Iterable<number>): void;
  deliver(live: EphemeralMessage): void;
  /** Counts readers and followed channels. */
  counts(): { readonly readers: number; readonly channels: number };
  /** Ends all streams. */
  close(): void;
}

const pageMessages = 200;
/** Changes per statement: each brings its message, of up to 64 KiB. */
const pageChanges = 50;
/** How long readers of one channel at one cursor share a page. */
const sharedPages = 500;
const sharedMs = 2000;
/** Channels per statement of a poll. */
const pollAtOnce = 5000;

export function createTails(store: Store, now: () => number = Date.now, onRead?: OnTailRead): Tails {
  const { db, shards } = store;
  const on = (channelKey: number) => onShard(db, shards.of(channelKey));
  const subscriptions = new Set<Subscription>();
  const byKey = new Map<number, Set<Subscription>>();
  /** Readers that wait for a channel that does not exist yet, by channel key text. */
  const waiting = new Map<string, { readonly channel: Channel; readonly subscriptions: Set<Subscription> }>();
  /** Readers that follow all channels of a user. */
  const byUid = new Map<string, Set<Subscription>>();
  /**
   * Generation of each channel's last wake-up. A page fetched before a wake-up is never reused
   * after it.
   */
  const generations = new Map<number, number>();
  let generation = 0;
  const wakeFollowers = (key: number, wake: (subscription: Subscription) => void) => {
    const followers = byKey.get(key);
    if (followers === undefined) return;
    generations.set(key, ++generation);
    for (const subscription of followers) wake(subscription);
  };
  const wake = (key: number) => wakeFollowers(key, (subscription) => subscription.wake(key));
  const wakeForChanges = (key: number) => wakeFollowers(key, (subscription) => subscription.messagesChanged(key));

  /**
   * Shares pages: readers of a channel ask for the same one at the same moment, and one statement
   * serves all of them. A single reader needs none of that. Empty pages are not shared: a wake-up
   * ends them.
   */
  function sharing<Page>(
    read: (channelKey: number, after: number) => Promise<Page>,
    isEmpty: (page: Page) => boolean,
  ): (channelKey: number, after: number) => Promise<Page> {
    const pages = new LRUCache<string, { page: Promise<Page> }>({ max: sharedPages, ttl: sharedMs });
    return (channelKey, after) => {
      if (byKey.get(channelKey)?.size === 1) return read(channelKey, after);
      const key = `${channelKey} ${after} ${generations.get(channelKey) ?? 0}`;
      const known = pages.get(key);
      if (known !== undefined) return known.page;
      const page = read(channelKey, after);
      const entry = { page };
      pages.set(key, entry);
      const forget = () => {
        if (pages.peek(key) === entry) pages.delete(key);
      };
      page.then((answer) => isEmpty(answer) && forget(), forget);
      return page;
    };
  }
  async function readPages(wanted: readonly After[]): Promise<PageAfter[]> {
    const items = { items: wanted, channelKeyOf: ({ channelKey }: After) => channelKey };
    const pages = merged(
      await byShard(db, shards, items, async (on, part) => {
        const read = await readNextOfEach(on, part, pageMessages, now());
        return new Map(part.map((after, index) => [after, read[index] as PageAfter]));
      }),
    );
    return wanted.map((after) => pages.get(after) as PageAfter);
  }
  const pageAfter = sharing<PageAfter>(gatherReads(readPages), ({ messages }) => messages.length === 0);
  const changesAfter = sharing<readonly Change[]>(
    (channelKey, afterChange) =>
      readChangesAfter(on(channelKey), channelKey, { afterChange, limit: pageChanges }, now()),
    (changes) => changes.length === 0,
  );

  function unfollow(channelKey: number, subscription: Subscription): void {
    const all = byKey.get(channelKey);
    all?.delete(subscription);
    if (all?.size !== 0) return;
    byKey.delete(channelKey);
    generations.delete(channelKey);
  }

  function notWaiting({ key: text }: Channel, subscription: Subscription): void {
    const entry = waiting.get(text);
    entry?.subscriptions.delete(subscription);
    if (entry?.subscriptions.size === 0) waiting.delete(text);
  }

  function made(created: Channel, channelKey: number): void {
    for (const subscription of waiting.get(created.key)?.subscriptions ?? [])
      subscription.channelCreated(created, channelKey);
    for (const uid of firstUids(created))
      for (const subscription of byUid.get(uid) ?? []) subscription.channelCreated(created, channelKey);
  }

  /** Searches all awaited channels by one statement per `pollAtOnce`. */
  async function findCreated(): Promise<void> {
    const wanted = [...waiting.values()].map((entry) => entry.channel);
    for (let start = 0; start < wanted.length; start += pollAtOnce) {
      const part = wanted.slice(start, start + pollAtOnce);
      const keys = await store.channelKeys.find(part);
      for (const each of part) {
        const key = keys.get(each.key);
        if (key !== undefined) made(each, key);
      }
    }
  }

  const hub: SubscriptionHub = {
    store,
    now,
    onRead,
    pageAfter,
    changesAfter,
    enter(subscription) {
      subscriptions.add(subscription);
      if (subscription.isForAll && subscription.viewerUid !== undefined)
        byUid.set(subscription.viewerUid, (byUid.get(subscription.viewerUid) ?? new Set()).add(subscription));
    },
    leave(subscription, keys, unmade) {
      subscriptions.delete(subscription);
      for (const key of keys) unfollow(key, subscription);
      for (const each of unmade) notWaiting(each, subscription);
      const uid = subscription.viewerUid ?? '';
      const all = byUid.get(uid);
      all?.delete(subscription);
      if (all?.size === 0) byUid.delete(uid);
    },
    waitFor(unmade, subscription) {
      const entry = waiting.get(unmade.key) ?? { channel: unmade, subscriptions: new Set() };
      entry.subscriptions.add(subscription);
      waiting.set(unmade.key, entry);
    },
    notWaiting,
    follow(channelKey, subscription) {
      const all = byKey.get(channelKey) ?? new Set();
      byKey.set(channelKey, all.add(subscription));
    },
    unfollow,
  };

  return {
    subscribe: (call) => new Subscription(call, hub).frames(),
    wake(keys) {
      for (const key of keys) wake(key);
    },
    messagesChanged(keys) {
      for (const key of keys) wakeForChanges(key);
    },
    async poll() {
      await findCreated();
      const keys = [...byKey.keys()];
      for (let start = 0; start < keys.length; start += pollAtOnce) {
        const part = keys.slice(start, start + pollAtOnce);
        // Cursors first: each came from the database, so that a head read now and below it was set
        // back.
        const cursors = part.flatMap((key) =>
          [...(byKey.get(key) ?? [])].map((reader) => ({ key, reader, cursor: reader.cursorOf(key) })),
        );
        const positions = await mapByShard(db, shards, part, readPositions);
        for (const { key, reader, cursor } of cursors) {
          const { lastSeq, lastChange } = positions.get(key) ?? { lastSeq: 0, lastChange: 0 };
          if (cursor.seq > lastSeq || cursor.change > lastChange) reader.headWentBack(key, { lastSeq, lastChange });
          else {
            const { seq, change } = reader.cursorOf(key);
            if (seq < lastSeq) wake(key);
            if (change < lastChange) wakeForChanges(key);
          }
        }
      }
    },
    membersChanged(uids) {
      const changed = new Set(uids);
      for (const subscription of subscriptions)
        if (subscription.viewerUid !== undefined && changed.has(subscription.viewerUid)) subscription.recheck();
    },
    channelsCreated(all) {
      for (const { type, id, channelKey } of all) made(channel(type, id, messageSequence), channelKey);
    },
    findCreated: findCreated,
    channelsChanged(keys) {
      for (const key of keys) for (const subscription of byKey.get(key) ?? []) subscription.recheck();
    },
    deliver(live) {
      const uids = new Set(live.channel.uids ?? []);
      for (const subscription of subscriptions)
        if (
          subscription.follows(live.channel) ||
          (subscription.isForAll && subscription.viewerUid !== undefined && uids.has(subscription.viewerUid))
        )
          subscription.deliver(live);
    },
    counts: () => ({ readers: subscriptions.size, channels: byKey.size }),
    close() {
      for (const subscription of subscriptions)
        subscription.end(
          new ServiceError({
            reason: 'STOPPING',
            message: 'this instance is stopping; subscribe again from the last message_seq of each channel',
            metadata: {},
            retryAfterMs: 1000,
          }),
        );
    },
  };
}
