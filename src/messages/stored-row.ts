import type { RowReader } from '../postgres/binary-rows.ts';
import type { MessageChanges } from '../postgres/schema.ts';

/** A stored message, as history reads it. */
export interface StoredMessage {
  readonly messageId: number;
  readonly messageSeq: number;
  readonly acceptedAt: number;
  readonly flags: number;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  readonly payload: Buffer;
  readonly expire: number;
  readonly streamNo: string;
  readonly tagKey: string;
  readonly subscribers: readonly string[];
  /** Unset: the message is as it was sent. */
  readonly changes?: MessageChanges | undefined;
}

const noTexts: readonly string[] = [];

/**
 * A stored message as a binary row of `messageColumnNames`: fields are decoded when they are read.
 * An answer in Protobuf is written from the bytes (rpc/page-response.ts).
 */
export class StoredRow implements StoredMessage {
  readonly bytes: Buffer;
  readonly messageId: number;
  readonly messageSeq: number;
  readonly acceptedAt: number;
  readonly flags: number;
  readonly uidStart: number;
  readonly uidEnd: number;
  readonly keyStart: number;
  readonly keyEnd: number;
  readonly payloadStart: number;
  readonly payloadEnd: number;
  readonly expire: number;
  readonly streamStart: number;
  readonly streamEnd: number;
  readonly tagStart: number;
  readonly tagEnd: number;
  readonly subscribers: readonly string[];
  readonly changes: MessageChanges | undefined;

  /** Reads the columns of a row behind its message_id; `isWhole` is false without a payload. */
  constructor(reader: RowReader, messageId: number) {
    this.bytes = reader.bytes;
    this.messageId = messageId;
    this.messageSeq = reader.bigint() ?? 0;
    this.acceptedAt = reader.bigint() ?? 0;
    this.flags = reader.smallint() ?? 0;
    reader.skip();
    this.uidStart = reader.start;
    this.uidEnd = reader.end;
    reader.skip();
    this.keyStart = reader.start;
    this.keyEnd = reader.end;
    const hasPayload = reader.skip();
    this.payloadStart = hasPayload ? reader.start : -1;
    this.payloadEnd = reader.end;
    this.expire = reader.bigint() ?? 0;
    reader.skip();
    this.streamStart = reader.start;
    this.streamEnd = reader.end;
    reader.skip();
    this.tagStart = reader.start;
    this.tagEnd = reader.end;
    this.subscribers = reader.skip() ? jsonOf(reader) : noTexts;
    this.changes = reader.skip() ? jsonOf(reader) : undefined;
  }

  /** Whether the row has its payload. */
  get isWhole(): boolean {
    return this.payloadStart >= 0;
  }

  get fromUid(): string {
    return this.bytes.toString('utf8', this.uidStart, this.uidEnd);
  }

  get clientMsgNo(): string {
    return this.bytes.toString('utf8', this.keyStart, this.keyEnd);
  }

  get payload(): Buffer {
    return this.bytes.subarray(this.payloadStart, this.payloadEnd);
  }

  get streamNo(): string {
    return this.bytes.toString('utf8', this.streamStart, this.streamEnd);
  }

  get tagKey(): string {
    return this.bytes.toString('utf8', this.tagStart, this.tagEnd);
  }

  /** Bytes of all texts and of the payload. */
  get contentBytes(): number {
    const { uidStart, uidEnd, keyStart, keyEnd, payloadStart, payloadEnd } = this;
    const { streamStart, streamEnd, tagStart, tagEnd } = this;
    return (
      uidEnd -
      uidStart +
      (keyEnd - keyStart) +
      (payloadEnd - payloadStart) +
      (streamEnd - streamStart) +
      tagEnd -
      tagStart
    );
  }
}

/** A jsonb in binary is a byte for the version of its format, and its text. */
function jsonOf<T>({ bytes, start, end }: RowReader): T {
  return JSON.parse(bytes.toString('utf8', start + 1, end)) as T;
}
