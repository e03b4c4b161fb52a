import { crc32 } from 'node:zlib';

/** Channel types with rules of their own, as in the proto's ChannelType. */
export const personType = 1;
export const topicType = 5;
export const tempType = 8;
export const agentType = 11;

/**
 * A channel has two sequences: its messages, and its commands (`sync_once`), which are not part of
 * its history.
 */
export const messageSequence = 0;
export const commandSequence = 1;
export type Sequence = typeof messageSequence | typeof commandSequence;

/** A channel in its canonical form: one value for one sequence. */
export interface Channel {
  readonly type: number;
  readonly id: string;
  readonly sequence: Sequence;
  /** Equal for equal channels and for no others. */
  readonly key: string;
  /** CRC-32 of the key, where it is known already. */
  readonly keyCrc?: number;
  /** Members from its creation on: the two peers, or the receivers that it consists of. */
  readonly uids?: readonly string[];
}

/** Creates a channel from a canonical id. */
export function channel(type: number, id: string, sequence: Sequence): Channel {
  return { type, id, sequence, key: `${type}/${sequence}/${id}` };
}

/** CRC-32 of a channel's key: the same in every instance. */
export function keyCrcOf({ key, keyCrc }: Channel): number {
  return keyCrc ?? crc32(key);
}

/** The members of a channel at its creation. */
export function firstUids({ type, id, uids }: Channel): readonly string[] {
  if (uids !== undefined) return uids;
  return (type === personType || type === agentType) && id.includes('@') ? [...new Set(id.split('@'))] : [];
}

/**
 * The canonical id of two users' channel: both uids joined with `@`, the one with the larger
 * CRC32-IEEE (of its UTF-8) first; on a tie the lexicographically larger one, by bytes. Both
 * directions give the same id. Source: WuKongIM.
 */
export function pairId(a: string, b: string): string {
  const crcA = crc32(a);
  const crcB = crc32(b);
  const aFirst = crcA === crcB ? Buffer.compare(Buffer.from(a), Buffer.from(b)) >= 0 : crcA > crcB;
  return aFirst ? `${a}@${b}` : `${b}@${a}`;
}

/** Whether ids of this type are two names joined with `@`. */
export function isJoined(type: number): boolean {
  return type === personType || type === topicType || type === agentType;
}

/**
 * The canonical id of a channel named without a sender: a person channel by the joined pair.
 * Undefined if it is invalid.
 */
export function canonicalId(type: number, id: string): string | undefined {
  if (type === topicType || type === agentType) return /^[^@]+@[^@]+$/.test(id) ? id : undefined;
  if (type !== personType) return id;
  const sides = id.split('@');
  const [a, b] = sides;
  if (sides.length !== 2 || !a || !b) return undefined;
  return pairId(a, b);
}

/**
 * The peer of a sender in a person channel that is named by the peer's uid or by the joined pair.
 */
export function peerOf(fromUid: string, channelId: string): string {
  if (channelId.startsWith(`${fromUid}@`)) return channelId.slice(fromUid.length + 1);
  if (channelId.endsWith(`@${fromUid}`)) return channelId.slice(0, -(fromUid.length + 1));
  return channelId;
}
