import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Client } from '@connectrpc/connect';
import type { ChannelType, Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type {
  ChannelCursorSchema,
  MessageChanged,
  MessageService,
  SubscribeResponse,
} from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { endedEarly, type Retry } from './retry.ts';

/** What to follow: channels from their cursors, or all channels of a user. */
export interface TailRequest {
  readonly channels?: readonly MessageInitShape<typeof ChannelCursorSchema>[];
  /** The user that a service reads for. */
  readonly uid?: string;
  readonly allOfUid?: boolean;
}

export interface TailOptions {
  readonly signal?: AbortSignal;
  /** Called once per connection and channel, when all stored messages have arrived. */
  readonly onCaughtUp?: (channelType: number, channelId: string, lastSeq: bigint) => void;
  /**
   * Called when a message that was yielded before, or an earlier one, was edited or recalled: once
   * per change and in their order, across reconnects.
   */
  readonly onChanged?: (change: MessageChanged) => void;
  /** Called for each interruption that the client resumes from. */
  readonly onResume?: (error: unknown) => void;
}

/** A position that was reached; without `afterSeq` the sequence stays. */
interface Position {
  readonly afterSeq?: bigint;
  readonly afterChange: bigint;
}

/** Heartbeats arrive every 15 seconds: a longer silence is a lost connection. */
const silentMs = 45_000;

/** Follows channels and resumes from the last message of each. */
export async function* tail(
  rpc: Client<typeof MessageService>,
  { channels = [], uid = '', allOfUid = false }: TailRequest,
  { signal, onCaughtUp, onChanged, onResume }: TailOptions,
  retry: Retry,
): AsyncGenerator<Message> {
  const cursors = new Map(channels.map((each) => [`${each.channelType}/${each.channelId}`, each]));
  const cursorOf = (channelType: ChannelType, channelId: string) =>
    [...cursors.values()].find(
      (each) =>
        each.channelType === channelType && (each.channelId === channelId || isSideOf(each.channelId, channelId)),
    );
  /** The service answers with a channel's canonical id, which may differ from the requested one. */
  const reached = new Map<string, MessageInitShape<typeof ChannelCursorSchema>>();
  const advance = (channelType: ChannelType, channelId: string, { afterSeq, afterChange }: Position) => {
    const key = `${channelType}/${channelId}`;
    const seq = afterSeq ?? reached.get(key)?.afterSeq ?? cursorOf(channelType, channelId)?.afterSeq ?? 0n;
    for (const [key, each] of cursors)
      if (each.channelType === channelType && (each.channelId === channelId || isSideOf(each.channelId, channelId)))
        cursors.delete(key);
    reached.set(key, { channelType, channelId, afterSeq: seq, afterChange });
  };
  /** Whether the cursors cover all channels of the user: a missing one was joined since. */
  let resume = false;
  const retries = retry.begin(signal);
  for (;;) {
    const watch = new AbortController();
    const all = signal === undefined ? watch.signal : AbortSignal.any([signal, watch.signal]);
    let timer = setTimeout(() => watch.abort(new Error('the stream is silent')), silentMs);
    try {
      const request = { channels: [...cursors.values(), ...reached.values()], uid, allOfUid, resume };
      for await (const { frame, lastChange: afterChange } of rpc.subscribe(request, {
        signal: all,
      }) as AsyncIterable<SubscribeResponse>) {
        clearTimeout(timer);
        timer = setTimeout(() => watch.abort(new Error('the stream is silent')), silentMs);
        retries.onProgress();
        if (frame.case === 'message') {
          const { messageSeq, channelType, channelId } = frame.value;
          if (messageSeq > 0n) advance(channelType, channelId, { afterSeq: messageSeq, afterChange });
          yield frame.value;
        } else if (frame.case === 'caughtUp') {
          const { channelType, channelId, lastSeq } = frame.value;
          advance(channelType, channelId, { afterSeq: lastSeq, afterChange });
          onCaughtUp?.(channelType, channelId, lastSeq);
        } else if (frame.case === 'changed') {
          const { message } = frame.value;
          if (message !== undefined) advance(message.channelType, message.channelId, { afterChange });
          onChanged?.(frame.value);
        } else if (frame.case === 'allCaughtUp') resume = true;
      }
      throw endedEarly();
    } catch (error) {
      const silent = watch.signal.aborted ? { askedMs: 0 } : {};
      await retries.after(error, { onRetry: onResume, ...silent });
    } finally {
      clearTimeout(timer);
      watch.abort();
    }
  }
}

function isSideOf(side: string | undefined, pair: string): boolean {
  return side !== undefined && pair.split('@').includes(side);
}
