import { LRUCache } from 'lru-cache';
import { Failure } from '../domain/failure.ts';
import { readHeads } from '../storage/channel.ts';
import { readRange, type StoredMessage } from '../storage/history.ts';
import type { Store } from './group.ts';
import { orBusy } from './store-busy.ts';
import {
  type Frame,
  type LiveMessage,
  type OnTailRead,
  type SubscribeCall,
  Subscription,
  type SubscriptionHouse,
} from './subscription.ts';

export type { Frame, LiveMessage, OnTailRead };

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

/** A reader that takes nothing for so long is ended: it would find its way back to the present slower than by subscribing again. */
const slowMs = 60_000;
const pageMessages = 200;
/** Pages that readers of the same channel at the same place share, for this long. */
const sharedPages = 500;
const sharedMs = 2000;

export function createTails(store: Store, now: () => number = Date.now, onRead?: OnTailRead): Tails {
  const { db } = store;
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

  function unfollow(channelKey: number, subscription: Subscription): void {
    const all = byKey.get(channelKey);
    all?.delete(subscription);
    if (all?.size !== 0) return;
    byKey.delete(channelKey);
    turns.delete(channelKey);
  }

  const house: SubscriptionHouse = {
    store,
    now,
    onRead,
    pageAfter,
    enter: (subscription) => subscriptions.add(subscription),
    leave(subscription, keys) {
      subscriptions.delete(subscription);
      for (const key of keys) unfollow(key, subscription);
    },
    follow(channelKey, subscription) {
      const all = byKey.get(channelKey) ?? new Set();
      byKey.set(channelKey, all.add(subscription));
    },
    unfollow,
  };

  return {
    async *subscribe(call) {
      const subscription = new Subscription(call, house);
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
