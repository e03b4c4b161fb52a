import type { ReactNode } from 'react';
import { Link } from 'wouter';
import { useHasScope } from '../shell/use-session.ts';
import { pathOf } from '../ui/address.ts';
import type { ChannelAddress } from './channel.ts';

export interface ChannelLinkProps extends ChannelAddress {
  /** The message to choose. */
  readonly seq: bigint;
  readonly children: ReactNode;
}

/** Leads to a message in its channel; a plain text for a caller who may not read channels. */
export function ChannelLink({ channelType, channelId, seq, children }: ChannelLinkProps) {
  const mayRead = useHasScope('read');
  if (!mayRead) return children;
  return <Link href={`${pathOf('channels', channelType, channelId)}?seq=${seq}`}>{children}</Link>;
}
