import { create } from '@bufbuild/protobuf';
import {
  type SendBatchResponse,
  type SendResult,
  SendResultSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import type { Outcome } from '../../messages/append-plan.ts';
import type { PreparedMessage } from '../../messages/message.ts';
import { PlainMessage } from '../../messages/plain-message.ts';
import { numberBytes, varintBytes, WireWriter } from '../wire-writer.ts';

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
    const writer = new ResultWriter(size);
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

  /** The response in Protobuf, behind `room` free bytes. */
  toProtobuf(room: number): Buffer {
    let total = numberBytes(this.acceptedCount) + numberBytes(this.duplicateCount);
    for (const outcome of this.#outcomes) {
      const size = resultBytes(outcome);
      total += 1 + varintBytes(size) + size;
    }
    const writer = new ResultWriter(total, room);
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

/** Bytes of a JSON result at most, beside its key: names, two numbers of 16 digits, `duplicate`. */
const jsonBytes = 100;

function keyJsonBytes(message: PreparedMessage): number {
  return message instanceof PlainMessage ? keyBytes(message) : Buffer.byteLength(JSON.stringify(message.clientMsgNo));
}

const quote = 0x22;

class ResultWriter extends WireWriter {
  protobufKey(message: PreparedMessage): void {
    this.length(clientMsgNoTag, keyBytes(message));
    if (message instanceof PlainMessage) this.copy(message.bytes, message.keyStart, message.keyEnd);
    else this.utf8(message.clientMsgNo);
  }

  jsonKey(message: PreparedMessage): void {
    if (!(message instanceof PlainMessage)) {
      this.utf8(JSON.stringify(message.clientMsgNo));
      return;
    }
    this.byte(quote);
    this.copy(message.bytes, message.keyStart, message.keyEnd);
    this.byte(quote);
  }
}
