import { hash } from 'node:crypto';
import {
  type Channel,
  channel,
  commandSequence,
  messageSequence,
  pairId,
  peerOf,
  personType,
  tempType,
} from './channel.ts';

/** Bits of `flags` as stored. */
export const flagNoPersist = 1;
export const flagRedDot = 2;
export const flagSyncOnce = 4;
/** Recalled: the content is gone. */
export const flagRecalled = 8;
/** Recalled, and had named its receivers: only the sender and services may see what remains. */
export const flagWasRestricted = 16;

/** Kinds of changes as stored. */
export const changeKinds = { edited: 1, recalled: 2 } as const;
export type ChangeKind = keyof typeof changeKinds;

export function changeKindOf(stored: number): ChangeKind {
  return stored === changeKinds.edited ? 'edited' : 'recalled';
}

/** Flags of a message, each 0 or 1. */
export interface Header {
  readonly noPersist: number;
  readonly redDot: number;
  readonly syncOnce: number;
}

/**
 * A message as a caller submits it, validated against the rules of the proto. The generated
 * MessageDraft has this shape.
 */
export interface Draft {
  readonly header?: Header | undefined;
  readonly clientMsgNo: string;
  readonly fromUid: string;
  readonly channelId: string;
  readonly channelType: number;
  readonly expire: number;
  readonly payload: Uint8Array;
  readonly subscribers: readonly string[];
  readonly streamNo: string;
  readonly tagKey: string;
}

/** A draft with its channel, once-only key and content hash: ready for a decision. */
export interface PreparedMessage {
  readonly channel: Channel;
  /** Whether it names receivers instead of a channel. */
  readonly isToUids: boolean;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  /**
   * 16 bytes of a digest of sender and client_msg_no, as Latin-1: a Buffer is six times as much
   * garbage.
   */
  readonly dedupeKey: string;
  /** The once-only key: equal for the same channel, sender and client_msg_no. */
  readonly key: string;
  /** SHA-256 over every field of the content, without channel, sender and key; bytes as Latin-1. */
  readonly contentHash: string;
  readonly flags: number;
  readonly expire: number;
  readonly payload: Uint8Array;
  /** Sorted, without duplicates. */
  readonly subscribers: readonly string[];
  readonly streamNo: string;
  readonly tagKey: string;
  /** The moderation rules that flag it for review; 0 is the moderation hook. */
  readonly flaggedBy?: readonly number[];
}

/** Prepares a draft. `clientMsgNo`: the caller's, or the one that the service generated. */
export function prepareMessage(draft: Draft, clientMsgNo: string): PreparedMessage {
  const flags = flagsOf(draft.header);
  const subscribers = draft.subscribers.length === 0 ? draft.subscribers : [...new Set(draft.subscribers)].sort();
  const channel = channelOf(draft, subscribers, flags);
  const dedupeKey = dedupeKeyOf(draft.fromUid, clientMsgNo);
  return {
    channel,
    isToUids: draft.channelId === '',
    fromUid: draft.fromUid,
    clientMsgNo,
    dedupeKey,
    key: `${channel.key}#${dedupeKey}`,
    contentHash: contentHash(draft, flags, subscribers),
    flags,
    expire: draft.expire,
    payload: draft.payload,
    subscribers,
    streamNo: draft.streamNo,
    tagKey: draft.tagKey,
  };
}

/** A copy with other content or flags. A spread would miss fields that a class computes. */
export function changed(
  message: PreparedMessage,
  change: Partial<Pick<PreparedMessage, 'payload' | 'flaggedBy'>>,
): PreparedMessage {
  const { channel, isToUids, fromUid, clientMsgNo, dedupeKey, key, contentHash } = message;
  const { flags, expire, payload, subscribers, streamNo, tagKey, flaggedBy } = message;
  return {
    ...{ channel, isToUids, fromUid, clientMsgNo, dedupeKey, key, contentHash },
    ...{ flags, expire, payload, subscribers, streamNo, tagKey },
    ...(flaggedBy === undefined ? {} : { flaggedBy }),
    ...change,
  };
}

/** The once-only key of a message within its channel: 16 bytes of a digest, as latin1. */
export function dedupeKeyOf(fromUid: string, clientMsgNo: string): string {
  return hash('sha256', JSON.stringify([fromUid, clientMsgNo]), 'binary').slice(0, 16);
}

/** Whether a message is numbered and stored. */
export function isPersistent(message: PreparedMessage): boolean {
  return (message.flags & flagNoPersist) === 0;
}

function flagsOf(header: Header | undefined): number {
  if (header === undefined) return 0;
  return (
    (header.noPersist ? flagNoPersist : 0) | (header.redDot ? flagRedDot : 0) | (header.syncOnce ? flagSyncOnce : 0)
  );
}

function channelOf(draft: Draft, subscribers: readonly string[], flags: number): Channel {
  const sequence = (flags & flagSyncOnce) === 0 ? messageSequence : commandSequence;
  if (draft.channelId === '') return { ...channel(tempType, receiversId(subscribers), sequence), uids: subscribers };
  if (draft.channelType !== personType) return channel(draft.channelType, draft.channelId, sequence);
  return channel(personType, pairId(draft.fromUid, peerOf(draft.fromUid, draft.channelId)), sequence);
}

/**
 * The channel id of a command that names only receivers: the same set of uids is the same channel.
 */
function receiversId(subscribers: readonly string[]): string {
  return hash('sha256', JSON.stringify(subscribers), 'hex').slice(0, 32);
}

/** Memory for hashing that is reused: most messages fit with their payload. */
const scratch = Buffer.allocUnsafe(4096);

/**
 * Hashes the content. The text part is JSON, which has no raw line feed: the line feed ends it, so
 * that no two contents are alike. Reused memory: joining two buffers per message took as long as
 * the hash.
 */
function contentHash(draft: Draft, flags: number, subscribers: readonly string[]): string {
  const { expire, streamNo, tagKey, payload } = draft;
  const isPlain = streamNo === '' && tagKey === '' && subscribers.length === 0;
  const text = isPlain
    ? `[${flags},${expire},"","",[]]\n`
    : `${JSON.stringify([flags, expire, streamNo, tagKey, subscribers])}\n`;
  if (text.length * 3 + payload.length > scratch.length)
    return hash('sha256', Buffer.concat([Buffer.from(text), payload]), 'binary');
  const length = scratch.write(text);
  scratch.set(payload, length);
  return hash('sha256', scratch.subarray(0, length + payload.length), 'binary');
}
