import { create, type DescMessage, type Message, toBinary } from '@bufbuild/protobuf';
import {
  type SendBatchResponse,
  type SendResult,
  SendResultSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import type { Outcome } from '../../messages/append-plan.ts';
import type { PreparedMessage } from '../../messages/message.ts';
import { PlainMessage } from '../../messages/plain-message.ts';

type Stored = Exclude<Outcome, { readonly kind: 'refused' }>;

/** Whether no message was refused. */
export function allStored(outcomes: readonly Outcome[]): outcomes is readonly Stored[] {
  return outcomes.every(({ kind }) => kind !== 'refused');
}

/** Counts of a batch without refusals. */
export interface StoredCounts {
  readonly accepted: number;
  readonly duplicates: number;
}

/**
 * The response of a batch without refusals. It is encoded straight from the numbers, as Protobuf
 * and as the JSON array of the routes; `results` are created when another encoding reads them.
 */
export class StoredResponse implements SendBatchResponse {
  readonly $typeName = 'sendbatch.v1.SendBatchResponse';
  readonly acceptedCount: number;
  readonly duplicateCount: number;
  readonly refusedCount = 0;
  readonly #outcomes: readonly Stored[];

  constructor(outcomes: readonly Stored[], { accepted, duplicates }: StoredCounts) {
    this.#outcomes = outcomes;
    this.acceptedCount = accepted;
    this.duplicateCount = duplicates;
  }

  get results(): SendResult[] {
    return this.#outcomes.map(({ kind, message, messageId, messageSeq }) =>
      create(SendResultSchema, {
        messageId: BigInt(messageId),
        messageSeq: BigInt(messageSeq),
        clientMsgNo: message.clientMsgNo,
        duplicate: kind === 'duplicate',
      }),
    );
  }

  /** The results as the JSON routes write them: no default except `duplicate` is left out. */
  toJson(): string {
    let text = '[';
    for (const { kind, message, messageId, messageSeq } of this.#outcomes) {
      const key = message instanceof PlainMessage ? `"${message.clientMsgNo}"` : JSON.stringify(message.clientMsgNo);
      if (text !== '[') text += ',';
      text += `{"message_id":${messageId},"message_seq":${messageSeq},"client_msg_no":${key}`;
      text += kind === 'duplicate' ? ',"duplicate":true}' : '}';
    }
    return `${text}]`;
  }

  /** The response in Protobuf. */
  toProtobuf(): Uint8Array {
    const sizes = this.#outcomes.map(resultBytes);
    let total = numberBytes(this.acceptedCount) + numberBytes(this.duplicateCount);
    for (const size of sizes) total += 1 + varintBytes(size) + size;
    const writer = new Writer(total);
    for (const [index, outcome] of this.#outcomes.entries()) {
      writer.length(resultsTag, sizes[index] as number);
      writer.number(messageIdTag, outcome.messageId);
      writer.number(messageSeqTag, outcome.messageSeq);
      writer.key(outcome.message);
      if (outcome.kind === 'duplicate') writer.number(duplicateTag, 1);
    }
    writer.number(acceptedCountTag, this.acceptedCount);
    writer.number(duplicateCountTag, this.duplicateCount);
    return writer.bytes;
  }
}

/** A response of any method in Protobuf. */
export function encodeResponse(desc: DescMessage, response: Message): Uint8Array {
  return response instanceof StoredResponse ? response.toProtobuf() : toBinary(desc, response);
}

/** Tag bytes: the number of a field and its wire type. */
const resultsTag = (1 << 3) | 2;
const acceptedCountTag = 2 << 3;
const duplicateCountTag = 3 << 3;
const messageIdTag = 1 << 3;
const messageSeqTag = 2 << 3;
const clientMsgNoTag = (3 << 3) | 2;
const duplicateTag = 4 << 3;

/** Encoded bytes of one result. */
function resultBytes({ kind, message, messageId, messageSeq }: Stored): number {
  const key = keyBytes(message);
  return numberBytes(messageId) + numberBytes(messageSeq) + 1 + varintBytes(key) + key + (kind === 'duplicate' ? 2 : 0);
}

function keyBytes(message: PreparedMessage): number {
  return message instanceof PlainMessage ? message.keyEnd - message.keyStart : Buffer.byteLength(message.clientMsgNo);
}

/** Bytes of a number with its tag; 0 is left out. */
function numberBytes(value: number): number {
  return value === 0 ? 0 : 1 + varintBytes(value);
}

function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 128; rest /= 128) bytes++;
  return bytes;
}

/** Writes fields with a tag of one byte into memory of a known size. */
class Writer {
  readonly bytes: Buffer;
  #at = 0;

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafe(size);
  }

  /** A number that is left out when it is 0. */
  number(tag: number, value: number): void {
    if (value === 0) return;
    this.bytes[this.#at++] = tag;
    this.#varint(value);
  }

  length(tag: number, value: number): void {
    this.bytes[this.#at++] = tag;
    this.#varint(value);
  }

  key(message: PreparedMessage): void {
    const { bytes } = this;
    const length = keyBytes(message);
    this.length(clientMsgNoTag, length);
    if (message instanceof PlainMessage) {
      const { bytes: source, keyStart, keyEnd } = message;
      for (let index = keyStart; index < keyEnd; index++) bytes[this.#at++] = source[index] as number;
    } else this.#at += bytes.write(message.clientMsgNo, this.#at);
  }

  /** A whole number up to 2^53-1. */
  #varint(value: number): void {
    let rest = value;
    for (; rest >= 2 ** 31; rest = Math.floor(rest / 128)) this.bytes[this.#at++] = (rest % 128) | 0x80;
    for (; rest >= 128; rest >>>= 7) this.bytes[this.#at++] = (rest & 0x7f) | 0x80;
    this.bytes[this.#at++] = rest;
  }
}
