import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  type MessageService,
  SubscribeRequestSchema,
  type SubscribeResponse,
  SubscribeResponseSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../limits.ts';
import { peerOf, personType } from '../../messages/channel.ts';
import { pageOf } from '../../messages/page.ts';
import { invalidField } from '../../messages/service-error.ts';
import type { StoredMessage } from '../../messages/stored-row.ts';
import type { Inbox } from '../../reading/inbox.ts';
import { viewerOf } from '../../reading/read-access.ts';
import type { Frame, Tails } from '../../tailing/tails.ts';
import { type CredentialWatch, streamCredential } from '../credential-watch.ts';
import { checkRules } from '../interceptors/validate.ts';
import { mapIterable } from '../map-iterable.ts';
import { changeKindOf, toLegacyMessage, toMessage } from '../message-mapping.ts';
import { parsePageToken } from '../page-token.ts';
import { callerOf } from '../request-context.ts';

export interface TailParts {
  readonly tails: Tails;
  readonly inbox: Inbox;
  readonly credentials: CredentialWatch;
}

type Methods = Pick<
  ServiceImpl<typeof MessageService>,
  'subscribe' | 'listConversations' | 'markRead' | 'syncCommands' | 'ackCommands'
>;

/** Implements the RPCs of MessageService for live tails, conversations and commands. */
export function createTailMethods({ tails, inbox, credentials }: TailParts): Methods {
  return {
    subscribe(request, context) {
      // The interceptor sees a stream, not its one request message.
      const failure = checkRules(SubscribeRequestSchema, request);
      if (failure !== undefined) throw failure;
      if (!request.allOfUid && request.channels.length === 0)
        throw invalidField('channels', 'must have at least one entry, unless all_of_uid is set');
      if (!request.allOfUid && request.channels.length > limits.subscribeChannels)
        throw invalidField('channels', `must have at most ${limits.subscribeChannels} entries without all_of_uid`);
      const reader = { caller: callerOf(context), uid: request.uid };
      if (request.allOfUid && viewerOf(reader) === undefined)
        throw invalidField('uid', 'is required with all_of_uid; a service is not a member of channels itself');
      const frames = credentials.whileValid(streamCredential(context), (signal) =>
        tails.subscribe({
          ...reader,
          channels: request.channels.map((each) => ({
            ...each,
            afterSeq: Number(each.afterSeq),
            afterChange: each.afterChange === undefined ? undefined : Number(each.afterChange),
          })),
          allOfUid: request.allOfUid,
          resume: request.resume,
          signal,
        }),
      );
      return mapIterable(frames, toFrame);
    },

    async listConversations({ uid, pageSize, pageToken }, context) {
      const [place, channelKey] = parsePageToken(pageToken);
      const before = channelKey === undefined || place === undefined ? undefined : { place, channelKey };
      const limit = pageSize || limits.pageMessagesDefault;
      const reader = { caller: callerOf(context), uid };
      const { page, last } = pageOf(await inbox.conversations(reader, before, limit + 1), limit);
      return {
        conversations: page.map((each) => ({
          channelId: each.channelType === personType ? peerOf(uid, each.channelId) : each.channelId,
          channelType: each.channelType as ChannelType,
          unreadCount: each.unread,
          readSeq: BigInt(each.readSeq),
          lastSeq: BigInt(each.lastSeq),
          ...(each.last === undefined ? {} : { lastMessage: toMessage(each, each.last) }),
        })),
        nextPageToken: last === undefined ? '' : `${last.place}-${last.channelKey}`,
      };
    },

    async markRead({ uid, channelType, channelId, readSeq }, context) {
      await inbox.markRead({ caller: callerOf(context), uid }, channelType, channelId, Number(readSeq));
      return {};
    },

    async syncCommands({ uid, messageSeq, limit }, context) {
      const reader = { caller: callerOf(context), uid };
      const { commands, more } = await inbox.commands(reader, Number(messageSeq), limit);
      return {
        more,
        messages: commands.map((each) => ({
          ...toLegacyMessage(each, each.message, uid),
          messageSeq: BigInt(each.commandSeq),
        })),
      };
    },

    async ackCommands({ uid, lastMessageSeq }, context) {
      await inbox.acknowledge({ caller: callerOf(context), uid }, Number(lastMessageSeq));
      return {};
    },
  };
}

/**
 * The answers of stored messages, for the last change that most readers have received. Readers of a
 * channel share both, so that each is encoded once.
 */
const answers = new WeakMap<StoredMessage, SubscribeResponse>();

function toFrame(frame: Frame): MessageInitShape<typeof SubscribeResponseSchema> {
  if (frame.kind === 'heartbeat') return { frame: { case: 'heartbeat', value: {} } };
  if (frame.kind === 'all-caught-up') return { frame: { case: 'allCaughtUp', value: {} } };
  const { id: channelId, type } = frame.channel;
  if (frame.kind === 'message') {
    const known = answers.get(frame.message);
    if (known !== undefined && known.lastChange === BigInt(frame.lastChange)) return known;
    const value = toMessage({ channelId, channelType: type }, frame.message);
    const lastChange = BigInt(frame.lastChange);
    const answer = create(SubscribeResponseSchema, { frame: { case: 'message', value }, lastChange });
    answers.set(frame.message, answer);
    return answer;
  }
  const lastChange = BigInt(frame.lastChange);
  if (frame.kind === 'changed') {
    const message = toMessage({ channelId, channelType: type }, frame.message);
    return {
      frame: { case: 'changed', value: { changeNo: lastChange, kind: changeKindOf(frame.change), message } },
      lastChange,
    };
  }
  return {
    frame: { case: 'caughtUp', value: { channelId, channelType: type as ChannelType, lastSeq: BigInt(frame.lastSeq) } },
    lastChange,
  };
}
