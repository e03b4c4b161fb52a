import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type ChannelType, type MessageSchema, MessageState } from '../../gen/sendbatch/v1/message_pb.ts';
import { ChangeKind, type LegacyMessageSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { peerOf, personType } from '../messages/channel.ts';
import { flagNoPersist, flagRedDot, flagSyncOnce } from '../messages/message.ts';
import type { MessageChanges } from '../postgres/schema.ts';
import type { Page } from '../reading/read-channel.ts';

type ChannelRef = Pick<Page, 'channelType' | 'channelId'>;
type Stored = Page['messages'][number];

/** Maps a stored message to the public message. */
export function toMessage(page: ChannelRef, message: Stored): MessageInitShape<typeof MessageSchema> {
  return {
    header: headerOf(message),
    messageId: BigInt(message.messageId),
    messageSeq: BigInt(message.messageSeq),
    clientMsgNo: message.clientMsgNo,
    fromUid: message.fromUid,
    channelId: page.channelId,
    channelType: page.channelType as ChannelType,
    expire: message.expire,
    timestamp: timestampFromMs(message.acceptedAt),
    payload: message.payload,
    subscribers: [...message.subscribers],
    streamNo: message.streamNo,
    tagKey: message.tagKey,
    ...(message.changes === undefined ? {} : changesOf(message.changes)),
  };
}

function changesOf({ revision, editedAt, recalledAt, recalledBy }: MessageChanges) {
  return {
    state: recalledAt === undefined ? MessageState.EDITED : MessageState.RECALLED,
    revision,
    ...(editedAt === undefined ? {} : { editedAt: timestampFromMs(editedAt) }),
    ...(recalledAt === undefined ? {} : { recalledAt: timestampFromMs(recalledAt), recalledBy: recalledBy ?? '' }),
  };
}

/**
 * Maps a stored message to the legacy shape. In a person channel, channel_id is the reader's peer.
 */
export function toLegacyMessage(
  page: ChannelRef,
  message: Stored,
  reader: string,
): MessageInitShape<typeof LegacyMessageSchema> {
  return {
    header: headerOf(message),
    messageId: BigInt(message.messageId),
    messageIdstr: String(message.messageId),
    clientMsgNo: message.clientMsgNo,
    messageSeq: BigInt(message.messageSeq),
    fromUid: message.fromUid,
    channelId: page.channelType === personType && reader !== '' ? peerOf(reader, page.channelId) : page.channelId,
    channelType: page.channelType as ChannelType,
    expire: message.expire,
    timestamp: BigInt(Math.floor(message.acceptedAt / 1000)),
    payload: message.payload,
    streamNo: message.streamNo,
    ...(message.changes === undefined ? {} : { state: changesOf(message.changes).state }),
  };
}

export function changeKindOf(change: 'edited' | 'recalled'): ChangeKind {
  return change === 'edited' ? ChangeKind.EDITED : ChangeKind.RECALLED;
}

function headerOf({ flags }: Stored) {
  const bit = (flag: number) => ((flags & flag) === 0 ? 0 : 1);
  return { noPersist: bit(flagNoPersist), redDot: bit(flagRedDot), syncOnce: bit(flagSyncOnce) };
}

/**
 * The range of a legacy page: inclusive start, exclusive end, in reading direction. Without both it
 * is the end of the channel; a range that ends before it begins is empty.
 */
export function legacyRange(
  start: number,
  end: number,
  pullMode: number,
): { afterSeq: number; beforeSeq: number; descending: boolean } {
  const older = pullMode === 0;
  if (start === 0 && end === 0) return { afterSeq: 0, beforeSeq: 0, descending: true };
  if (older) return { afterSeq: end, beforeSeq: start === 0 ? 0 : start + 1, descending: true };
  return { afterSeq: Math.max(0, start - 1), beforeSeq: end, descending: false };
}
