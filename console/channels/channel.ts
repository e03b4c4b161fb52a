import { ChannelType } from '../../src/client/index.ts';
import { useSegments } from '../ui/address.ts';

/** A channel as its address names it. */
export interface ChannelAddress {
  readonly channelType: ChannelType;
  readonly channelId: string;
}

/** The channel of `/channels/<type>/<id>`. */
export function useChannelAddress(): ChannelAddress {
  const [, type = '', channelId = ''] = useSegments();
  return { channelType: (/^\d{1,2}$/.test(type) ? Number(type) : ChannelType.UNSPECIFIED) as ChannelType, channelId };
}

/** Whether it is a conversation of two people; a user's own lists have a single uid as their id. */
export function isPair({ channelType, channelId }: ChannelAddress): boolean {
  return channelType === ChannelType.PERSON && channelId.includes('@');
}
