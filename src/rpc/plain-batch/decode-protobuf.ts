import { create, fromBinary } from '@bufbuild/protobuf';
import type { MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';
import { type SendBatchRequest, SendBatchRequestSchema } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../limits.ts';
import { flagNoPersist, flagRedDot, flagSyncOnce } from '../../messages/message.ts';
import { asDraft, DraftFields, plainBytes } from './draft.ts';

/** The tag byte of a field: its number and its wire type. */
const varint = (field: number) => field << 3;
const delimited = (field: number) => (field << 3) | 2;

/** SendBatchRequest. */
const messagesTag = delimited(1);
/** MessageDraft; every other field makes a message not plain. */
const headerTag = delimited(1);
const clientMsgNoTag = delimited(2);
const fromUidTag = delimited(3);
const channelIdTag = delimited(4);
const channelTypeTag = varint(5);
const expireTag = varint(6);
const payloadTag = delimited(7);
/** Header: the flag of each tag. */
const flagOfTag: readonly (number | undefined)[] = Object.assign([], {
  [varint(1)]: flagNoPersist,
  [varint(2)]: flagRedDot,
  [varint(3)]: flagSyncOnce,
});

/** Marks bytes that are not plain. */
const notPlain = -1;

/**
 * Decodes a SendBatchRequest whose messages are all plain. Undefined for any other, and for invalid
 * bytes: the general parser then decides. A field that occurs twice in a message is not plain.
 */
export function decodePlainProtobuf(source: Uint8Array): SendBatchRequest | undefined {
  if (source.length > plainBytes) return undefined;
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  return new Decoder(bytes).request();
}

class Decoder {
  readonly #bytes: Buffer;
  readonly #fields: DraftFields;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#fields = new DraftFields(bytes, bytes);
  }

  request(): SendBatchRequest | undefined {
    const bytes = this.#bytes;
    const messages: MessageDraft[] = [];
    /** The fields beside the messages, which the general parser reads. */
    const rest: Uint8Array[] = [];
    while (this.#at < bytes.length) {
      if (bytes[this.#at] !== messagesTag) {
        const start = this.#at;
        if (!this.#skip()) return undefined;
        rest.push(bytes.subarray(start, this.#at));
        continue;
      }
      this.#at++;
      const end = this.#end(bytes.length);
      if (end === notPlain || messages.length === limits.batchMessages || !this.#draft(end)) return undefined;
      const message = this.#fields.message();
      if (message === undefined) return undefined;
      messages.push(asDraft(message));
    }
    const request = messages.length === 0 ? undefined : readRest(rest);
    return request && Object.assign(request, { messages });
  }

  /** Skips a field of the request with a tag of one byte: a text, a varint or a message. */
  #skip(): boolean {
    const wire = (this.#bytes[this.#at++] as number) & 0x87;
    if (wire === 0) return this.#varint(this.#bytes.length) !== notPlain;
    if (wire !== 2) return false;
    this.#at = this.#end(this.#bytes.length);
    return this.#at !== notPlain;
  }

  /** Finds the fields of one message. */
  #draft(end: number): boolean {
    const bytes = this.#bytes;
    const fields = this.#fields;
    fields.reset();
    let seen = 0;
    while (this.#at < end) {
      const tag = bytes[this.#at++] as number;
      const bit = 1 << (tag >>> 3);
      if ((seen & bit) !== 0) return false;
      seen |= bit;
      if (tag === channelTypeTag || tag === expireTag) {
        const value = this.#varint(end);
        if (value === notPlain) return false;
        if (tag === expireTag) fields.expire = value;
        else fields.channelType = value;
        continue;
      }
      const stop = this.#end(end);
      if (stop === notPlain) return false;
      const start = this.#at;
      this.#at = stop;
      if (tag === clientMsgNoTag) {
        fields.keyStart = start;
        fields.keyEnd = stop;
      } else if (tag === fromUidTag) {
        fields.uidStart = start;
        fields.uidEnd = stop;
      } else if (tag === channelIdTag) {
        fields.channelStart = start;
        fields.channelEnd = stop;
      } else if (tag === payloadTag) {
        fields.payloadStart = start;
        fields.payloadEnd = stop;
      } else if (tag !== headerTag || !this.#header(start, stop)) return false;
    }
    return true;
  }

  /** Reads flags of 0 or 1, each a tag and a byte. */
  #header(start: number, end: number): boolean {
    const bytes = this.#bytes;
    if ((end - start) % 2 !== 0) return false;
    let flags = 0;
    for (let index = start; index < end; index += 2) {
      const flag = flagOfTag[bytes[index] as number];
      const value = bytes[index + 1] as number;
      if (flag === undefined || value > 1) return false;
      flags = value === 1 ? flags | flag : flags & ~flag;
    }
    this.#fields.flags = flags;
    return true;
  }

  /** Reads a length; returns where its bytes end. */
  #end(within: number): number {
    const length = this.#varint(within);
    return length === notPlain || length > within - this.#at ? notPlain : this.#at + length;
  }

  /** Reads a varint of up to 32 bits. */
  #varint(end: number): number {
    const bytes = this.#bytes;
    let value = 0;
    for (let scale = 1; scale <= 2 ** 28 && this.#at < end; scale *= 128) {
      const byte = bytes[this.#at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value < 2 ** 32 ? value : notPlain;
    }
    return notPlain;
  }
}

/** Reads the fields beside the messages; undefined when they are invalid. */
function readRest(parts: readonly Uint8Array[]): SendBatchRequest | undefined {
  if (parts.length === 0) return create(SendBatchRequestSchema);
  try {
    return fromBinary(SendBatchRequestSchema, Buffer.concat(parts));
  } catch {
    return undefined;
  }
}
