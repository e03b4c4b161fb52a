import { isUtf8 } from 'node:buffer';
import { create } from '@bufbuild/protobuf';
import type { MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';
import { type SendBatchRequest, SendBatchRequestSchema } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../limits.ts';
import { flagNoPersist, flagRedDot, flagSyncOnce } from '../../messages/message.ts';
import { decodeBase64 } from './base64.ts';
import { asDraft, DraftFields, plainBytes } from './draft.ts';

const quote = 0x22;
const comma = 0x2c;
const colon = 0x3a;
const zero = 0x30;
const openArray = 0x5b;
const backslash = 0x5c;
const closeArray = 0x5d;
const openObject = 0x7b;
const closeObject = 0x7d;

/** Names of members, by their length. */
type Names = readonly (readonly { readonly name: Uint8Array; readonly member: number }[] | undefined)[];

const header = 1;
const clientMsgNo = 2;
const fromUid = 3;
const channelId = 4;
const channelType = 5;
const expire = 6;
const payload = 7;
const draftNames = namesOf({
  header,
  client_msg_no: clientMsgNo,
  clientMsgNo,
  from_uid: fromUid,
  fromUid,
  channel_id: channelId,
  channelId,
  channel_type: channelType,
  channelType,
  expire,
  payload,
});
const headerNames = namesOf({
  no_persist: flagNoPersist,
  noPersist: flagNoPersist,
  red_dot: flagRedDot,
  redDot: flagRedDot,
  sync_once: flagSyncOnce,
  syncOnce: flagSyncOnce,
});

function namesOf(members: Readonly<Record<string, number>>): Names {
  const names: { name: Uint8Array; member: number }[][] = [];
  for (const [text, member] of Object.entries(members)) {
    const ofLength = names[text.length] ?? [];
    ofLength.push({ name: Buffer.from(text), member });
    names[text.length] = ofLength;
  }
  return names;
}

/**
 * Decodes a JSON array of plain messages. Undefined for any other body, also for one that is not
 * JSON: the general reader then decides. Strings with escapes, nulls, other members, members that
 * occur twice, and numbers with a sign, a fraction or an exponent are not plain.
 */
export function decodePlainJson(source: Uint8Array): SendBatchRequest | undefined {
  const bytes = Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  if (source.length > plainBytes || bytes[0] !== openArray || !isUtf8(bytes)) return undefined;
  const messages = new Decoder(bytes).messages();
  return messages && Object.assign(create(SendBatchRequestSchema), { messages });
}

/** Thrown inside the decoder for a body that is not plain. */
const notPlain = Symbol('not plain');

class Decoder {
  readonly #bytes: Buffer;
  /** Decoded payloads, which are shorter than their base64. */
  readonly #payloads: Buffer;
  readonly #fields: DraftFields;
  #at = 0;
  #payloadsEnd = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#payloads = Buffer.allocUnsafe(Math.ceil(bytes.length * 0.75));
    this.#fields = new DraftFields(bytes, this.#payloads);
  }

  messages(): MessageDraft[] | undefined {
    try {
      const messages: MessageDraft[] = [];
      this.#take(openArray);
      do {
        if (messages.length === limits.batchMessages) return undefined;
        this.#draft();
        const message = this.#fields.message();
        if (message === undefined) return undefined;
        messages.push(asDraft(message));
      } while (this.#continues(closeArray));
      this.#blank();
      return this.#at === this.#bytes.length ? messages : undefined;
    } catch (error) {
      if (error === notPlain) return undefined;
      throw error;
    }
  }

  #draft(): void {
    const fields = this.#fields;
    fields.reset();
    let seen = 0;
    this.#take(openObject);
    do {
      const member = this.#name(draftNames);
      if ((seen & (1 << member)) !== 0) throw notPlain;
      seen |= 1 << member;
      if (member === header) fields.flags = this.#header();
      else if (member === channelType) fields.channelType = this.#integer();
      else if (member === expire) fields.expire = this.#integer();
      else {
        const start = this.#string();
        const end = this.#at - 1;
        if (member === clientMsgNo) {
          fields.keyStart = start;
          fields.keyEnd = end;
        } else if (member === fromUid) {
          fields.uidStart = start;
          fields.uidEnd = end;
        } else if (member === channelId) {
          fields.channelStart = start;
          fields.channelEnd = end;
        } else {
          fields.payloadStart = this.#payloadsEnd;
          this.#payloadsEnd = decodeBase64(this.#bytes, start, end, this.#payloads, this.#payloadsEnd);
          if (this.#payloadsEnd === -1) throw notPlain;
          fields.payloadEnd = this.#payloadsEnd;
        }
      }
    } while (this.#continues(closeObject));
  }

  #header(): number {
    let flags = 0;
    let seen = 0;
    this.#take(openObject);
    do {
      const flag = this.#name(headerNames);
      if ((seen & flag) !== 0) throw notPlain;
      seen |= flag;
      const value = this.#integer();
      if (value > 1) throw notPlain;
      if (value === 1) flags |= flag;
    } while (this.#continues(closeObject));
    return flags;
  }

  /** Reads a name and its colon. */
  #name(names: Names): number {
    const start = this.#string();
    const length = this.#at - 1 - start;
    this.#take(colon);
    for (const { name, member } of names[length] ?? []) if (matches(this.#bytes, start, name)) return member;
    throw notPlain;
  }

  /** Reads a string without escapes; returns where it starts. It ends before the last byte read. */
  #string(): number {
    this.#take(quote);
    const bytes = this.#bytes;
    const start = this.#at;
    let index = start;
    for (; index < bytes.length; index++) {
      const byte = bytes[index] as number;
      if (byte === quote) break;
      if (byte === backslash || byte < 0x20) throw notPlain;
    }
    if (index === bytes.length) throw notPlain;
    this.#at = index + 1;
    return start;
  }

  /** Reads a whole number of up to 32 bits, written with digits only. */
  #integer(): number {
    this.#blank();
    const bytes = this.#bytes;
    const start = this.#at;
    let value = 0;
    for (;;) {
      const digit = (bytes[this.#at] ?? 0) - zero;
      if (digit < 0 || digit > 9) break;
      value = value * 10 + digit;
      this.#at++;
    }
    const digits = this.#at - start;
    if (digits === 0 || digits > 10 || (digits > 1 && bytes[start] === zero) || value >= 2 ** 32) throw notPlain;
    return value;
  }

  /** Reads a comma, or the end of a container: returns whether another member follows. */
  #continues(close: number): boolean {
    this.#blank();
    const byte = this.#bytes[this.#at++];
    if (byte === comma) return true;
    if (byte === close) return false;
    throw notPlain;
  }

  #take(byte: number): void {
    this.#blank();
    if (this.#bytes[this.#at++] !== byte) throw notPlain;
  }

  #blank(): void {
    const bytes = this.#bytes;
    for (;;) {
      const byte = bytes[this.#at];
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return;
      this.#at++;
    }
  }
}

function matches(bytes: Uint8Array, start: number, name: Uint8Array): boolean {
  for (let index = 0; index < name.length; index++) if (bytes[start + index] !== name[index]) return false;
  return true;
}
