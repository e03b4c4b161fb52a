import type { Draft } from './draft.ts';

const personType = 1;

/**
 * Returns a key that is equal for drafts of one channel. A person channel is the pair of uids: ann
 * to `bob`, ann to `ann@bob` and bob to `ann` are one channel.
 *
 * It is only compared, so unlike the service's canonical id it needs no checksum.
 */
export function channelKeyOf({ channelType = 0, channelId = '', fromUid = '', subscribers = [] }: Draft): string {
  if (channelId === '') return `of:${[...new Set(subscribers)].sort().join('\n')}`;
  if (channelType !== personType) return `${channelType}/${channelId}`;
  return `${personType}/${[fromUid, peerOf(fromUid, channelId)].sort().join('@')}`;
}

/** Returns the other uid of a person channel, given as that uid or as the joined pair. */
function peerOf(fromUid: string, channelId: string): string {
  if (channelId.startsWith(`${fromUid}@`)) return channelId.slice(fromUid.length + 1);
  if (channelId.endsWith(`@${fromUid}`)) return channelId.slice(0, -(fromUid.length + 1));
  return channelId;
}
