// A page of history in Protobuf or in JSON, written from the bytes of PostgreSQL's rows.
//
// Messages as they were sent to a whole channel, which nearly all are, are copied column by column
// into the answer, without an object or a text per field. Each other one takes the general path
// (`toMessage`), and so does a page in JSON with one of those. An answer has the same bytes on both
// paths, held by test/unit/rpc/page-response.test.ts on random rows.

import { create, toBinary } from '@bufbuild/protobuf';
import { type Message, MessageSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import type { ListMessagesResponse } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { flagNoPersist, flagRedDot, flagSyncOnce } from '../messages/message.ts';
import { StoredRow } from '../messages/stored-row.ts';
import type { Page } from '../reading/read-channel.ts';
import { toMessage } from './message-mapping.ts';
import { lastMs } from './timestamps.ts';
import { numberBytes, rangeBytes, varintBytes, WireWriter } from './wire-writer.ts';

const varint = (field: number) => field << 3;
const delimited = (field: number) => (field << 3) | 2;

/** Tag bytes of ListMessagesResponse. */
const messagesTag = delimited(1);
const moreTag = varint(2);
const lastSeqTag = varint(3);
const nextSeqTag = varint(4);
/** Tag bytes of Message. */
const headerTag = delimited(1);
const messageIdTag = varint(2);
const messageSeqTag = varint(3);
const clientMsgNoTag = delimited(4);
const fromUidTag = delimited(5);
const channelIdTag = delimited(6);
const channelTypeTag = varint(7);
const expireTag = varint(8);
const timestampTag = delimited(9);
const payloadTag = delimited(10);
const streamNoTag = delimited(12);
const tagKeyTag = delimited(13);
/** Tag bytes of Timestamp. */
const secondsTag = varint(1);
const nanosTag = varint(2);

/** Headers by their flags, each with its tag and length. */
const headers: readonly Buffer[] = Array.from({ length: 8 }, (_, flags) => {
  const fields = [flagNoPersist, flagRedDot, flagSyncOnce].flatMap((flag, index) =>
    (flags & flag) === 0 ? [] : [varint(index + 1), 1],
  );
  return Buffer.from([headerTag, fields.length, ...fields]);
});
const headerOf = ({ flags }: StoredRow): Buffer => headers[flags & (headers.length - 1)] as Buffer;

/** The response of ListMessages; `messages` are created when another encoding reads them. */
export class PageResponse implements ListMessagesResponse {
  readonly $typeName = 'sendbatch.v1.ListMessagesResponse';
  readonly more: boolean;
  readonly lastSeq: bigint;
  readonly nextSeq?: bigint;
  readonly #page: Page;
  #messages: Message[] | undefined;

  constructor(page: Page) {
    this.#page = page;
    this.more = page.more;
    this.lastSeq = BigInt(page.lastSeq);
    if (page.more) this.nextSeq = BigInt(page.nextSeq);
  }

  get messages(): Message[] {
    this.#messages ??= this.#page.messages.map((message) => create(MessageSchema, toMessage(this.#page, message)));
    return this.#messages;
  }

  /** The response as the JSON routes write it; undefined unless all messages are plain. */
  toJson(): string | undefined {
    const { channelId, channelType, messages, more, lastSeq, nextSeq } = this.#page;
    const channel = `"channel_id":${JSON.stringify(channelId)},"channel_type":${channelType}`;
    let text = '{"messages":[';
    for (const [index, message] of messages.entries()) {
      if (!isPlain(message) || message.acceptedAt > lastMs) return undefined;
      text += `${index === 0 ? '' : ','}${jsonOf(message, channel)}`;
    }
    return `${text}],"more":${more},"last_seq":${lastSeq}${more ? `,"next_seq":${nextSeq}` : ''}}`;
  }

  /** The response in Protobuf, behind `room` free bytes. */
  toProtobuf(room: number): Buffer {
    const page = this.#page;
    const channelId = Buffer.from(page.channelId);
    const channelBytes = rangeBytes(channelId.length) + numberBytes(page.channelType);
    let total = (page.more ? 3 + varintBytes(page.nextSeq) : 0) + numberBytes(page.lastSeq);
    /** Each message: its bytes if it was encoded, or how many it will have. */
    const parts = page.messages.map((message): Uint8Array | number => {
      const part = isPlain(message)
        ? channelBytes + fieldBytes(message)
        : toBinary(MessageSchema, create(MessageSchema, toMessage(page, message)));
      total += rangeBytes(typeof part === 'number' ? part : part.length);
      return part;
    });
    const writer = new WireWriter(total, room);
    for (const [index, part] of parts.entries()) {
      const message = page.messages[index];
      if (typeof part !== 'number') writer.range(messagesTag, part, 0, part.length);
      else if (message instanceof StoredRow) {
        writer.length(messagesTag, part);
        write(writer, message, channelId, page.channelType);
      }
    }
    writer.number(moreTag, page.more ? 1 : 0);
    writer.number(lastSeqTag, page.lastSeq);
    // With presence: written also when it is 0.
    if (page.more) writer.length(nextSeqTag, page.nextSeq);
    return writer.bytes;
  }
}

/** Whether a message has nothing beside the fields that `write` knows. */
function isPlain(message: Page['messages'][number]): message is StoredRow {
  return (
    message instanceof StoredRow &&
    message.subscribers.length === 0 &&
    message.changes === undefined &&
    message.acceptedAt >= 0
  );
}

/** A message in JSON. `channel`: the members with its channel. */
function jsonOf(row: StoredRow, channel: string): string {
  const bit = (flag: number) => ((row.flags & flag) === 0 ? 0 : 1);
  const timestamp = new Date(row.acceptedAt).toISOString().replace('.000Z', 'Z');
  return (
    `{"header":{"no_persist":${bit(flagNoPersist)},"red_dot":${bit(flagRedDot)},"sync_once":${bit(flagSyncOnce)}}` +
    `,"message_id":${row.messageId},"message_seq":${row.messageSeq}` +
    `,"client_msg_no":${JSON.stringify(row.clientMsgNo)},"from_uid":${JSON.stringify(row.fromUid)},${channel}` +
    `,"expire":${row.expire},"timestamp":"${timestamp}"` +
    `,"payload":"${row.bytes.toString('base64', row.payloadStart, row.payloadEnd)}","subscribers":[]` +
    `,"stream_no":${JSON.stringify(row.streamNo)},"tag_key":${JSON.stringify(row.tagKey)}}`
  );
}

/** Encoded bytes of the fields of a message beside those of its channel. */
function fieldBytes(row: StoredRow): number {
  return (
    headerOf(row).length +
    numberBytes(row.messageId) +
    numberBytes(row.messageSeq) +
    rangeBytes(row.keyEnd - row.keyStart) +
    rangeBytes(row.uidEnd - row.uidStart) +
    numberBytes(row.expire) +
    2 +
    timestampBytes(row.acceptedAt) +
    rangeBytes(row.payloadEnd - row.payloadStart) +
    rangeBytes(row.streamEnd - row.streamStart) +
    rangeBytes(row.tagEnd - row.tagStart)
  );
}

const secondsOf = (milliseconds: number) => Math.floor(milliseconds / 1000);
const nanosOf = (milliseconds: number) => (milliseconds % 1000) * 1e6;

/** Encoded bytes of a Timestamp without its tag and length. */
function timestampBytes(milliseconds: number): number {
  return numberBytes(secondsOf(milliseconds)) + numberBytes(nanosOf(milliseconds));
}

function write(writer: WireWriter, row: StoredRow, channelId: Buffer, channelType: number): void {
  const { bytes, acceptedAt } = row;
  const header = headerOf(row);
  writer.copy(header, 0, header.length);
  writer.number(messageIdTag, row.messageId);
  writer.number(messageSeqTag, row.messageSeq);
  writer.range(clientMsgNoTag, bytes, row.keyStart, row.keyEnd);
  writer.range(fromUidTag, bytes, row.uidStart, row.uidEnd);
  writer.range(channelIdTag, channelId, 0, channelId.length);
  writer.number(channelTypeTag, channelType);
  writer.number(expireTag, row.expire);
  writer.length(timestampTag, timestampBytes(acceptedAt));
  writer.number(secondsTag, secondsOf(acceptedAt));
  writer.number(nanosTag, nanosOf(acceptedAt));
  writer.range(payloadTag, bytes, row.payloadStart, row.payloadEnd);
  writer.range(streamNoTag, bytes, row.streamStart, row.streamEnd);
  writer.range(tagKeyTag, bytes, row.tagStart, row.tagEnd);
}
