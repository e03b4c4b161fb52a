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
  #results: SendResult[] | undefined;

  constructor(outcomes: readonly Stored[], { accepted, duplicates }: StoredCounts) {
    this.#outcomes = outcomes;
    this.acceptedCount = accepted;
    this.duplicateCount = duplicates;
  }

  get results(): SendResult[] {
    this.#results ??= this.#outcomes.map(({ kind, message, messageId, messageSeq }) =>
      create(SendResultSchema, {
        messageId: BigInt(messageId),
        messageSeq: BigInt(messageSeq),
        clientMsgNo: message.clientMsgNo,
        duplicate: kind === 'duplicate',
      }),
    );
    return this.#results;
  }

  /** The results as the JSON routes write them: no default except `duplicate` is left out. */
  toJson(): string {
    let size = 2;
    for (const { message } of this.#outcomes) size += jsonBytes + keyJsonBytes(message);
    const writer = new Writer(size);
    let next = '[{"message_id":';
    for (const { kind, message, messageId, messageSeq } of this.#outcomes) {
      writer.ascii(next);
      writer.digits(messageId);
      writer.ascii(',"message_seq":');
      writer.digits(messageSeq);
      writer.ascii(',"client_msg_no":');
      writer.jsonKey(message);
      writer.ascii(kind === 'duplicate' ? ',"duplicate":true}' : '}');
      next = ',{"message_id":';
    }
    writer.ascii(this.#outcomes.length === 0 ? '[]' : ']');
    return writer.text();
  }

  /** The response in Protobuf. */
  toProtobuf(): Uint8Array {
    let total = numberBytes(this.acceptedCount) + numberBytes(this.duplicateCount);
    for (const outcome of this.#outcomes) {
      const size = resultBytes(outcome);
      total += 1 + varintBytes(size) + size;
    }
    const writer = new Writer(total);
    for (const outcome of this.#outcomes) {
      writer.length(resultsTag, resultBytes(outcome));
      writer.number(messageIdTag, outcome.messageId);
      writer.number(messageSeqTag, outcome.messageSeq);
      writer.protobufKey(outcome.message);
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

/** Bytes of a JSON result at most, beside its key: names, two numbers of 16 digits, `duplicate`. */
const jsonBytes = 100;

function keyJsonBytes(message: PreparedMessage): number {
  return message instanceof PlainMessage ? keyBytes(message) : Buffer.byteLength(JSON.stringify(message.clientMsgNo));
}

const zero = 0x30;
const quote = 0x22;
/** Halves of the digits of a number up to 2^53-1, which fit into 32 bits. */
const half = 1e9;

/** Writes into memory of a sufficient size. */
class Writer {
  readonly bytes: Buffer;
  #at = 0;

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafe(size);
  }

  /** What was written, as text. */
  text(): string {
    return this.bytes.toString('utf8', 0, this.#at);
  }

  /** A field that is left out when it is 0. */
  number(tag: number, value: number): void {
    if (value === 0) return;
    this.bytes[this.#at++] = tag;
    this.#varint(value);
  }

  /** The tag and the length of a field. */
  length(tag: number, value: number): void {
    this.bytes[this.#at++] = tag;
    this.#varint(value);
  }

  protobufKey(message: PreparedMessage): void {
    this.length(clientMsgNoTag, keyBytes(message));
    if (message instanceof PlainMessage) this.#plainKey(message);
    else this.#at += this.bytes.write(message.clientMsgNo, this.#at);
  }

  jsonKey(message: PreparedMessage): void {
    if (!(message instanceof PlainMessage)) {
      this.#at += this.bytes.write(JSON.stringify(message.clientMsgNo), this.#at);
      return;
    }
    this.bytes[this.#at++] = quote;
    this.#plainKey(message);
    this.bytes[this.#at++] = quote;
  }

  ascii(text: string): void {
    for (let index = 0; index < text.length; index++) this.bytes[this.#at++] = text.charCodeAt(index);
  }

  /** A whole number up to 2^53-1 in decimal. */
  digits(value: number): void {
    const high = Math.floor(value / half);
    if (high === 0) this.#digits(value, 1);
    else {
      this.#digits(high, 1);
      this.#digits(value - high * half, 9);
    }
  }

  #digits(value: number, least: number): void {
    let count = least;
    for (let rest = (value / 10 ** least) | 0; rest > 0; rest = (rest / 10) | 0) count++;
    let rest = value | 0;
    for (let index = this.#at + count - 1; index >= this.#at; index--) {
      const next = (rest / 10) | 0;
      this.bytes[index] = zero + rest - next * 10;
      rest = next;
    }
    this.#at += count;
  }

  #plainKey({ bytes, keyStart, keyEnd }: PlainMessage): void {
    for (let index = keyStart; index < keyEnd; index++) this.bytes[this.#at++] = bytes[index] as number;
  }

  /** A whole number up to 2^53-1. */
  #varint(value: number): void {
    let rest = value;
    for (; rest >= 2 ** 31; rest = Math.floor(rest / 128)) this.bytes[this.#at++] = (rest % 128) | 0x80;
    for (; rest >= 128; rest >>>= 7) this.bytes[this.#at++] = (rest & 0x7f) | 0x80;
    this.bytes[this.#at++] = rest;
  }
}
