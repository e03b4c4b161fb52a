// What a reader of live tails asks for, and what it gets.
import type { Channel } from '../messages/channel.ts';
import type { ChangeKind } from '../messages/message.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import type { Reader } from '../reading/read-access.ts';

/** Where a reader starts in a channel. */
export interface Cursor {
  readonly channelType: number;
  readonly channelId: string;
  readonly afterSeq: number;
  readonly fromNow: boolean;
  /** The last change received; unset: changes from now on. */
  readonly afterChange?: number | undefined;
}

export interface SubscribeCall extends Reader {
  readonly channels: readonly Cursor[];
  readonly allOfUid: boolean;
  /**
   * With `allOfUid`: a channel of the user that `channels` leaves out begins where the user joined
   * it.
   */
  readonly resume?: boolean;
  /** Aborted when the caller disconnects. */
  readonly signal: AbortSignal;
}

/** A message that is not stored, for connected readers. */
export interface EphemeralMessage {
  readonly channel: Channel;
  readonly message: StoredMessage;
}

/** `lastChange`: the last change that the reader has received, for its next cursor. */
export type TailEvent =
  | {
      readonly kind: 'message';
      readonly channel: Channel;
      readonly message: StoredMessage;
      readonly lastChange: number;
    }
  | { readonly kind: 'caught-up'; readonly channel: Channel; readonly lastSeq: number; readonly lastChange: number }
  | ChangedEvent
  | { readonly kind: 'all-caught-up' }
  | { readonly kind: 'heartbeat' };

/** A message was edited or recalled. */
export interface ChangedEvent {
  readonly kind: 'changed';
  readonly channel: Channel;
  /** The last sequence and the last change that the reader has received. */
  readonly lastSeq: number;
  readonly lastChange: number;
  /** What was done. */
  readonly change: ChangeKind;
  readonly message: StoredMessage;
}

/**
 * Receives each page that a reader was given; `lagMs`: the age of its last message, for a reader
 * that has caught up.
 */
export type OnTailRead = (page: { messages: number; lagMs: number | undefined }) => void;
