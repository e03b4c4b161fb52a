import { create } from '@bufbuild/protobuf';
import {
  type ChannelType,
  HeaderSchema,
  type MessageDraft,
  MessageDraftSchema,
} from '../../../gen/sendbatch/v1/message_pb.ts';
import { limits } from '../../limits.ts';
import { agentType, personType, topicType } from '../../messages/channel.ts';
import { PlainMessage } from '../../messages/plain-message.ts';
import { lastChannelType } from '../fast-validate.ts';
import { isPlainText } from './text.ts';

/**
 * Larger bodies take the general path, which reads in slices; decoding one of this size takes 2 ms.
 */
export const plainBytes = 1024 * 1024;

/** The fields of one message while a decoder finds them. Reused: nothing is allocated per field. */
export class DraftFields {
  bytes: Buffer;
  /** Where payloads are. */
  content: Uint8Array;
  uidStart = 0;
  uidEnd = 0;
  keyStart = 0;
  keyEnd = 0;
  channelStart = 0;
  channelEnd = 0;
  channelType = 0;
  flags = 0;
  expire = 0;
  payloadStart = 0;
  payloadEnd = 0;

  constructor(bytes: Buffer, content: Uint8Array) {
    this.bytes = bytes;
    this.content = content;
  }

  reset(): void {
    this.uidStart = 0;
    this.uidEnd = 0;
    this.keyStart = 0;
    this.keyEnd = 0;
    this.channelStart = 0;
    this.channelEnd = 0;
    this.channelType = 0;
    this.flags = 0;
    this.expire = 0;
    this.payloadStart = 0;
    this.payloadEnd = 0;
  }

  /** The message; undefined when it is not plain, or breaks a rule of the proto. */
  message(): PlainMessage | undefined {
    const { bytes, uidStart, uidEnd, keyStart, keyEnd, channelStart, channelEnd, channelType } = this;
    const uidBytes = uidEnd - uidStart;
    const channelBytes = channelEnd - channelStart;
    const payloadBytes = this.payloadEnd - this.payloadStart;
    if (uidBytes === 0 || uidBytes > limits.idBytes || keyEnd - keyStart > limits.clientMsgNoBytes) return undefined;
    if (channelBytes === 0 || channelBytes > limits.idBytes) return undefined;
    if (payloadBytes === 0 || payloadBytes > limits.payloadBytes) return undefined;
    if (channelType === 0 || channelType > lastChannelType || channelType === topicType || channelType === agentType)
      return undefined;
    if (
      !isPlainText(bytes, uidStart, uidEnd, channelType === personType) ||
      !isPlainText(bytes, keyStart, keyEnd, false) ||
      !isPlainText(bytes, channelStart, channelEnd, true)
    )
      return undefined;
    return new PlainMessage(this);
  }
}

/** A plain message as other code reads it from the request. */
export function asDraft(message: PlainMessage): MessageDraft {
  return message as unknown as MessageDraft;
}

/** The message of the proto, for code that reads fields by reflection. */
export function toDraft(draft: MessageDraft): MessageDraft {
  const message: unknown = draft;
  if (!(message instanceof PlainMessage)) return draft;
  const { clientMsgNo, fromUid, channelId, channelType, expire, payload, header } = message;
  return create(MessageDraftSchema, {
    header: create(HeaderSchema, { ...header }),
    clientMsgNo,
    fromUid,
    channelId,
    channelType: channelType as ChannelType,
    expire,
    payload,
  });
}
