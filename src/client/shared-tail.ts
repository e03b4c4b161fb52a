import type { MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type { ChannelCursorSchema } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import type { TailOptions, TailRequest } from './tail.ts';

/** A channel and the position to start from. */
export type ChannelCursor = MessageInitShape<typeof ChannelCursorSchema>;

/** One stream that follows many channels for many followers. */
export interface SharedTail {
  /**
   * Follows a channel until the loop ends or the signal aborts it: every message after the cursor
   * once, in order.
   *
   * The stream is reopened when a channel is added or removed; unstored messages (`messageSeq` 0)
   * sent meanwhile are missed. Throws an error that no retry can fix, and RESOURCE_EXHAUSTED when
   * 1,000 messages wait and none is taken for ten seconds, which delays the other followers too:
   * follow again from the last message.
   */
  follow(channel: ChannelCursor, options?: { readonly signal?: AbortSignal }): AsyncIterable<Message>;
}

type OpenTail = (request: TailRequest, options: TailOptions) => AsyncIterable<Message>;

/** The service's limit per subscription. */
const maxChannels = 100;
/** Messages that may wait for a follower. */
const maxPending = 1000;
/** How long the stream waits for a follower that takes no messages. */
const maxStallMs = 10_000;

/** A follower and its pending messages. */
interface Follower {
  cursor: ChannelCursor;
  readonly pending: Message[];
  /** Why it ended; undefined while it follows. */
  end: { readonly error: unknown } | undefined;
  wake: () => void;
  /** Called when it takes a message, or ends. */
  onTaken: () => void;
  /** Whether a stream has been open with it. */
  settled: boolean;
}

export function createSharedTail(open: OpenTail, uid: string): SharedTail {
  const followers = new Set<Follower>();
  let current: AbortController | undefined;

  /** Replaces the stream by one for the current followers. */
  function reopen(): void {
    current?.abort();
    current = undefined;
    if (followers.size === 0) return;
    const mine = new AbortController();
    current = mine;
    void run(mine).catch(async (error: unknown) => {
      if (current !== mine || !(await endRefused(mine, error))) return;
      reopen();
    });
  }

  /**
   * Ends the followers whose channel the service refuses, so that one unreadable channel does not
   * end the others. Returns false when the stream was reopened meanwhile.
   */
  async function endRefused(mine: AbortController, error: unknown): Promise<boolean> {
    let ended = 0;
    for (const each of [...followers].filter(({ settled }) => !settled)) {
      try {
        await probe(each.cursor, mine.signal);
        each.settled = true;
      } catch (own) {
        if (current !== mine) return false;
        finish(each, own);
        ended++;
      }
      if (current !== mine) return false;
    }
    if (ended === 0) for (const each of [...followers]) finish(each, error);
    return true;
  }

  /** Throws when the channel cannot be followed by itself. */
  async function probe(cursor: ChannelCursor, signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const options: TailOptions = {
      signal: AbortSignal.any([signal, stop.signal]),
      onCaughtUp: () => stop.abort(),
    };
    for await (const _ of open({ channels: [cursor], uid }, options)) return;
  }

  async function run(mine: AbortController): Promise<void> {
    const onCaughtUp: TailOptions['onCaughtUp'] = (channelType, channelId, lastSeq) => {
      for (const each of followersOf(channelType, channelId)) {
        each.settled = true;
        advance(each, lastSeq);
      }
    };
    const channels = earliest([...followers].map((each) => each.cursor));
    for await (const message of open({ channels, uid }, { signal: mine.signal, onCaughtUp })) {
      if (current !== mine) return;
      for (const each of [...followersOf(message.channelType, message.channelId)]) await deliver(each, message);
    }
  }

  function* followersOf(channelType: number, channelId: string): Generator<Follower> {
    for (const each of followers) if (isOf(each.cursor, channelType, channelId)) yield each;
  }

  async function deliver(follower: Follower, message: Message): Promise<void> {
    if (follower.pending.length >= maxPending) await waitUntilTaken(follower);
    if (!followers.has(follower)) return;
    if (follower.pending.length >= maxPending) {
      finish(follower, new ConnectError(`${maxPending} messages wait to be taken`, Code.ResourceExhausted));
      return reopen();
    }
    const { afterSeq = 0n, fromNow } = follower.cursor;
    // Skips messages that another follower of the channel catches up with.
    if (message.messageSeq > 0n && (fromNow || message.messageSeq <= afterSeq)) return;
    if (message.messageSeq > 0n) advance(follower, message.messageSeq);
    follower.pending.push(message);
    follower.wake();
  }

  function finish(follower: Follower, error: unknown): void {
    follower.end ??= { error };
    followers.delete(follower);
    follower.wake();
    follower.onTaken();
  }

  return {
    async *follow(cursor, { signal } = {}) {
      const channels = earliest([...[...followers].map((each) => each.cursor), cursor]);
      if (channels.length > maxChannels)
        throw new ConnectError(`a stream follows at most ${maxChannels} channels`, Code.InvalidArgument);
      const follower: Follower = {
        cursor,
        pending: [],
        end: undefined,
        wake: () => {},
        onTaken: () => {},
        settled: false,
      };
      const stop = () => follower.wake();
      signal?.addEventListener('abort', stop, { once: true });
      followers.add(follower);
      reopen();
      try {
        while (!signal?.aborted) {
          const message = follower.pending.shift();
          follower.onTaken();
          if (message !== undefined) yield message;
          else if (follower.end !== undefined) throw follower.end.error;
          else
            await new Promise<void>((resolve) => {
              follower.wake = resolve;
            });
        }
      } finally {
        signal?.removeEventListener('abort', stop);
        follower.onTaken();
        if (followers.delete(follower)) reopen();
      }
    },
  };
}

async function waitUntilTaken(follower: Follower): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await new Promise<void>((resolve) => {
    follower.onTaken = resolve;
    timer = setTimeout(resolve, maxStallMs);
  });
  clearTimeout(timer);
  follower.onTaken = () => {};
}

/** Moves a follower's cursor to a message. */
function advance(follower: Follower, seq: bigint): void {
  const { channelType, channelId, afterSeq = 0n } = follower.cursor;
  if (channelType === undefined || channelId === undefined) return;
  const after = seq > afterSeq ? seq : afterSeq;
  follower.cursor = { channelType, channelId, afterSeq: after };
}

/** Returns one cursor per channel, the earliest. */
function earliest(cursors: readonly ChannelCursor[]): ChannelCursor[] {
  const byChannel = new Map<string, ChannelCursor>();
  for (const each of cursors) {
    const key = `${each.channelType}/${each.channelId}`;
    const other = byChannel.get(key);
    if (other === undefined || isBehind(each, other)) byChannel.set(key, each);
  }
  return [...byChannel.values()];
}

function isBehind(one: ChannelCursor, other: ChannelCursor): boolean {
  if (one.fromNow || other.fromNow) return !one.fromNow && other.fromNow === true;
  return (one.afterSeq ?? 0n) < (other.afterSeq ?? 0n);
}

/** The service names a person channel by its pair, even when it was requested by one uid. */
function isOf(cursor: ChannelCursor, channelType: number, channelId: string): boolean {
  if (cursor.channelType !== channelType) return false;
  return cursor.channelId === channelId || (channelType === 1 && samePair(cursor.channelId ?? '', channelId));
}

function samePair(asked: string, pair: string): boolean {
  const sides = pair.split('@');
  return asked.includes('@')
    ? asked.split('@').sort().join('@') === [...sides].sort().join('@')
    : sides.includes(asked);
}
