import type { MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type { ChannelCursorSchema } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import type { TailOptions, TailRequest } from './tail.ts';

/** A channel from a cursor on. */
export type ChannelCursor = MessageInitShape<typeof ChannelCursorSchema>;

/** One stream that follows many channels, each for whoever asked for it. */
export interface SharedTail {
  /**
   * Follows a channel until the loop is left or the signal ends it: every message after the cursor once, in order. The stream is opened again when a channel comes or
   * goes; messages that are not stored (`messageSeq` 0) and come meanwhile are missed. Throws what no retry mends, and RESOURCE_EXHAUSTED when 1,000 messages wait and
   * none is taken for ten seconds, in which the others wait too: follow again from the last one.
   */
  follow(channel: ChannelCursor, options?: { readonly signal?: AbortSignal }): AsyncIterable<Message>;
}

type OpenTail = (request: TailRequest, options: TailOptions) => AsyncIterable<Message>;

/** The service's limit for a subscription. */
const mostChannels = 100;
/** Messages that wait for a follower. */
const mostWaiting = 1000;
/** How long the stream waits for one that takes nothing. */
const patienceMs = 10_000;

/** A follower, and what has come for it. */
interface Follower {
  cursor: ChannelCursor;
  readonly waiting: Message[];
  /** Why it ends, once it does. */
  end: { readonly error: unknown } | undefined;
  wake: () => void;
  /** Told when it takes a message, or ends. */
  onTaken: () => void;
  /** Whether the stream has been open with it. */
  settled: boolean;
}

export function createSharedTail(open: OpenTail, uid: string): SharedTail {
  const followers = new Set<Follower>();
  let current: AbortController | undefined;

  /** Opens the stream for those that are there now, in place of the one before. */
  function reopen(): void {
    current?.abort();
    current = undefined;
    if (followers.size === 0) return;
    const mine = new AbortController();
    current = mine;
    void run(mine).catch(async (error: unknown) => {
      if (current !== mine || !(await endFaulty(mine, error))) return;
      reopen();
    });
  }

  /** Ends those whose channel the service refuses, so that one channel that may not be read does not end the others. False: the stream was opened anew meanwhile. */
  async function endFaulty(mine: AbortController, error: unknown): Promise<boolean> {
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

  /** Throws where a channel alone cannot be followed. */
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
        reach(each, lastSeq);
      }
    };
    const channels = earliest([...followers].map((each) => each.cursor));
    for await (const message of open({ channels, uid }, { signal: mine.signal, onCaughtUp })) {
      if (current !== mine) return;
      for (const each of [...followersOf(message.channelType, message.channelId)]) await hand(each, message);
    }
  }

  function* followersOf(channelType: number, channelId: string): Generator<Follower> {
    for (const each of followers) if (isOf(each.cursor, channelType, channelId)) yield each;
  }

  async function hand(follower: Follower, message: Message): Promise<void> {
    if (follower.waiting.length >= mostWaiting) await taken(follower);
    if (!followers.has(follower)) return;
    if (follower.waiting.length >= mostWaiting) {
      finish(follower, new ConnectError(`${mostWaiting} messages wait to be taken`, Code.ResourceExhausted));
      return reopen();
    }
    const { afterSeq = 0n, fromNow } = follower.cursor;
    // Of what another follower of the channel catches up with, it has had or wants nothing.
    if (message.messageSeq > 0n && (fromNow || message.messageSeq <= afterSeq)) return;
    if (message.messageSeq > 0n) reach(follower, message.messageSeq);
    follower.waiting.push(message);
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
      if (channels.length > mostChannels)
        throw new ConnectError(`a stream follows at most ${mostChannels} channels`, Code.InvalidArgument);
      const follower: Follower = {
        cursor,
        waiting: [],
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
          const message = follower.waiting.shift();
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

async function taken(follower: Follower): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await new Promise<void>((resolve) => {
    follower.onTaken = resolve;
    timer = setTimeout(resolve, patienceMs);
  });
  clearTimeout(timer);
  follower.onTaken = () => {};
}

/** A message of a follower is behind its cursor from now on. */
function reach(follower: Follower, seq: bigint): void {
  const { channelType, channelId, afterSeq = 0n } = follower.cursor;
  if (channelType === undefined || channelId === undefined) return;
  const after = seq > afterSeq ? seq : afterSeq;
  follower.cursor = { channelType, channelId, afterSeq: after };
}

/** One cursor per channel: the one that is the furthest behind. */
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

/** The service names a person channel by the pair, whoever asked for it by one uid. */
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
