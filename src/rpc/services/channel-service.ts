import type { ServiceImpl } from '@connectrpc/connect';
import type { ChannelService } from '../../../gen/sendbatch/v1/channel_service_pb.ts';
import { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import type { Channels, ListChange, Named } from '../../channels/channels.ts';
import { limits } from '../../limits.ts';
import { invalidField, ServiceError } from '../../messages/service-error.ts';
import { wholeAllowlist } from './legacy-methods.ts';

/** What ChannelService needs. */
export interface ChannelServiceParts {
  readonly channels: Channels;
  /** Configured by SYSTEM_UIDS. */
  readonly systemUids: readonly string[];
}

interface FlagFields {
  readonly large: number;
  readonly ban: number;
  readonly disband: number;
  readonly sendBan: number;
  readonly allowStranger: number;
}

interface PageFields extends Named {
  readonly pageSize: number;
  readonly pageToken: string;
}

/** Implements sendbatch.v1.ChannelService: each RPC converts between the proto and a use case. */
export function createChannelService({
  channels,
  systemUids,
}: ChannelServiceParts): ServiceImpl<typeof ChannelService> {
  const change = async (named: Named, list: 'member' | 'denied' | 'allowed', listChange: ListChange) => {
    await channels.change(named, list, listChange);
    return {};
  };
  /** Legacy bodies omit the type of groups. */
  const ofGroup = ({ channelId, channelType }: Named): Named => ({
    channelId,
    channelType: channelType || ChannelType.GROUP,
  });
  const page = async (request: PageFields, list: 'member' | 'denied' | 'allowed') => {
    const { entries, next } = await channels.list(
      request,
      list,
      request.pageToken,
      request.pageSize || limits.listPageDefault,
    );
    return {
      entries: entries.map(({ uid, createdAt, updatedAt }) => ({
        uid,
        createdAt: BigInt(createdAt),
        updatedAt: BigInt(updatedAt),
      })),
      nextPageToken: next,
    };
  };
  return {
    async putChannel(request) {
      await channels.put(request, flagsOf(request), {
        add: request.subscribers,
        ...(request.reset === 1 ? { remove: 'all' } : {}),
      });
      return {};
    },

    async getChannel(request) {
      const flags = await channels.get(request);
      if (flags === undefined) {
        const metadata = { channel_id: request.channelId, channel_type: String(request.channelType) };
        throw new ServiceError({ reason: 'CHANNEL_NOT_EXIST', message: 'the channel does not exist', metadata });
      }
      const bit = (flag: boolean) => (flag ? 1 : 0);
      return {
        channel: {
          channelId: request.channelId,
          channelType: request.channelType,
          large: bit(flags.large),
          ban: bit(flags.ban),
          disband: bit(flags.disband),
          sendBan: bit(flags.sendBan),
          allowStranger: bit(flags.allowStranger),
        },
      };
    },

    async deleteChannel(request) {
      await channels.disband(request);
      return {};
    },

    async addMembers(request) {
      if (request.tempSubscriber === 1)
        throw invalidField('temp_subscriber', 'must be 0; members for one connection are not supported');
      return await change(ofGroup(request), 'member', {
        add: request.subscribers,
        ...(request.reset === 1 ? { remove: 'all' } : {}),
      });
    },
    removeMembers: (request) => change(ofGroup(request), 'member', { remove: request.subscribers }),
    removeAllMembers: (request) => change(ofGroup(request), 'member', { remove: 'all' }),
    listMembers: (request) => page(request, 'member'),

    addToDenylist: (request) => change(request, 'denied', { add: request.uids }),
    setDenylist: (request) => change(request, 'denied', { remove: 'all', add: request.uids }),
    removeFromDenylist: (request) => change(request, 'denied', { remove: request.uids }),
    clearDenylist: (request) => change(request, 'denied', { remove: 'all' }),
    listDenylist: (request) => page(request, 'denied'),

    addToAllowlist: (request) => change(request, 'allowed', { add: request.uids }),
    setAllowlist: (request) => change(request, 'allowed', { remove: 'all', add: request.uids }),
    removeFromAllowlist: (request) => change(request, 'allowed', { remove: request.uids }),
    clearAllowlist: (request) => change(request, 'allowed', { remove: 'all' }),
    getAllowlist: (request) => wholeAllowlist(channels, request),
    listAllowlist: (request) => page(request, 'allowed'),

    setUserToken: () => ({}),

    async addSystemUids({ uids }) {
      await channels.addSystemUids(uids);
      return {};
    },
    async removeSystemUids({ uids }) {
      await channels.removeSystemUids(uids);
      return {};
    },
    async listSystemUids() {
      return { uids: [...new Set([...systemUids, ...(await channels.listSystemUids())])].sort() };
    },
  };
}

function flagsOf({ large, ban, disband, sendBan, allowStranger }: FlagFields) {
  return {
    large: large === 1,
    ban: ban === 1,
    disband: disband === 1,
    sendBan: sendBan === 1,
    allowStranger: allowStranger === 1,
  };
}
