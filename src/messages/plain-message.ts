// A message that stays in the bytes of its request until it is stored.
//
// Most messages have few fields and plain texts. Such a message needs no object per field: this
// class keeps positions in the request, copies the bytes into the columns of the append statement
// and into the result, and decodes a text only when somebody asks for it. It serves both as a
// `Draft` and, after `prepare`, as a `PreparedMessage`: everything else treats it like any other.
//
// Entry points: `new PlainMessage` for decoders (rpc/plain-batch), `prepare` for sending.
// Invariants, which decoders keep:
//  1. The message obeys the rules of the proto and has no other fields than those below.
//  2. Its texts are valid UTF-8 without control characters, `"` and `\`, so that their bytes are
//     also their JSON; channel ids of other types than persons are not joined with `@`.
//  3. Every value equals that of `prepareMessage` for the same fields: once-only key, content hash.

import { hash } from 'node:crypto';
import {
  type Channel,
  channel,
  commandSequence,
  keyCrcOf,
  messageSequence,
  pairId,
  peerOf,
  personType,
} from './channel.ts';
import { type Draft, flagNoPersist, flagRedDot, flagSyncOnce, type Header, type PreparedMessage } from './message.ts';

/**
 * The fields of a message as a decoder finds them: offsets of the first byte and after the last.
 */
export interface PlainFields {
  /** Holds the texts. */
  readonly bytes: Buffer;
  readonly uidStart: number;
  readonly uidEnd: number;
  /** client_msg_no; empty when the caller gave none. */
  readonly keyStart: number;
  readonly keyEnd: number;
  readonly channelStart: number;
  readonly channelEnd: number;
  readonly channelType: number;
  readonly flags: number;
  readonly expire: number;
  /** Holds the payload. */
  readonly content: Uint8Array;
  readonly payloadStart: number;
  readonly payloadEnd: number;
}

/** Bytes of the once-only key: the first ones of a digest. */
export const dedupeKeyBytes = 16;

const noTexts: readonly string[] = [];

export class PlainMessage implements Draft, PreparedMessage {
  readonly bytes: Buffer;
  readonly keyStart: number;
  readonly keyEnd: number;
  readonly uidStart: number;
  readonly uidEnd: number;
  readonly content: Uint8Array;
  readonly payloadStart: number;
  readonly payloadEnd: number;
  readonly fromUid: string;
  readonly channel: Channel;
  readonly flags: number;
  readonly expire: number;
  /** Digests of sender and key, and of the content, as Latin-1; empty before `prepare`. */
  #keyHash = '';
  #contentHash = '';

  constructor(fields: PlainFields) {
    const { bytes, uidStart, uidEnd, channelStart, channelEnd, channelType, flags } = fields;
    this.bytes = bytes;
    this.keyStart = fields.keyStart;
    this.keyEnd = fields.keyEnd;
    this.uidStart = uidStart;
    this.uidEnd = uidEnd;
    this.content = fields.content;
    this.payloadStart = fields.payloadStart;
    this.payloadEnd = fields.payloadEnd;
    this.flags = flags;
    this.expire = fields.expire;
    this.fromUid = uids.text(bytes, uidStart, uidEnd);
    const sequence = (flags & flagSyncOnce) === 0 ? messageSequence : commandSequence;
    this.channel =
      channelType === personType
        ? channel(personType, pairId(this.fromUid, textOf(bytes, channelStart, channelEnd)), sequence)
        : channels.find(bytes, channelStart, channelEnd, channelType, sequence);
  }

  /** Whether the caller gave a client_msg_no. */
  get hasKey(): boolean {
    return this.keyEnd > this.keyStart;
  }

  /** Computes the digests; needs a key. */
  prepare(): this {
    this.#keyHash = hashKey(this);
    this.#contentHash = hashContent(this);
    return this;
  }

  get clientMsgNo(): string {
    return textOf(this.bytes, this.keyStart, this.keyEnd);
  }

  get payload(): Uint8Array {
    return this.content.subarray(this.payloadStart, this.payloadEnd);
  }

  /** SHA-256 of sender and client_msg_no as Latin-1; the once-only key is its first half. */
  get keyHash(): string {
    return this.#keyHash;
  }

  get dedupeKey(): string {
    return this.#keyHash.slice(0, dedupeKeyBytes);
  }

  get key(): string {
    return `${this.channel.key}#${this.dedupeKey}`;
  }

  get contentHash(): string {
    return this.#contentHash;
  }

  get header(): Header {
    const bit = (flag: number) => ((this.flags & flag) === 0 ? 0 : 1);
    return { noPersist: bit(flagNoPersist), redDot: bit(flagRedDot), syncOnce: bit(flagSyncOnce) };
  }

  /** As the caller gave it: the peer of a person channel. */
  get channelId(): string {
    return this.channelType === personType ? peerOf(this.fromUid, this.channel.id) : this.channel.id;
  }

  get channelType(): number {
    return this.channel.type;
  }

  get isToUids(): false {
    return false;
  }

  get subscribers(): readonly string[] {
    return noTexts;
  }

  get streamNo(): string {
    return '';
  }

  get tagKey(): string {
    return '';
  }

  get template(): undefined {
    return undefined;
  }

  get sendAt(): undefined {
    return undefined;
  }
}

/** The bytes of a payload, without a view of it. */
export function payloadBytesOf(message: PreparedMessage): number {
  return message instanceof PlainMessage ? message.payloadEnd - message.payloadStart : message.payload.length;
}

function textOf(bytes: Buffer, start: number, end: number): string {
  return bytes.toString('utf8', start, end);
}

/** Bytes of scratch memory. Longer contents are hashed from memory of their own. */
const scratchBytes = 1024;

/** Memory for hashing with a view per length: a view takes as long as a third of the hash. */
class Scratch {
  readonly bytes = Buffer.allocUnsafeSlow(scratchBytes);
  readonly #views: Uint8Array[] = [];

  view(length: number): Uint8Array {
    const known = this.#views[length];
    if (known !== undefined) return known;
    const view = this.bytes.subarray(0, length);
    this.#views[length] = view;
    return view;
  }
}

const keyScratch = new Scratch();
keyScratch.bytes.write('["');

/** Hashes sender and key as `prepareMessage` does: `JSON.stringify` escapes none of their bytes. */
function hashKey({ bytes, uidStart, uidEnd, keyStart, keyEnd }: PlainMessage): string {
  const into = keyScratch.bytes;
  let end = 2;
  for (let index = uidStart; index < uidEnd; index++) into[end++] = bytes[index] as number;
  into[end++] = 0x22;
  into[end++] = 0x2c;
  into[end++] = 0x22;
  for (let index = keyStart; index < keyEnd; index++) into[end++] = bytes[index] as number;
  into[end++] = 0x22;
  into[end++] = 0x5d;
  return hash('sha256', keyScratch.view(end), 'binary');
}

const contentScratch = new Scratch();
/** What the scratch memory begins with: nearly all messages of a caller have the same flags. */
let head = { flags: -1, expire: -1, bytes: 0 };

function hashContent({ flags, expire, content, payloadStart, payloadEnd }: PlainMessage): string {
  const into = contentScratch.bytes;
  if (head.flags !== flags || head.expire !== expire)
    head = { flags, expire, bytes: into.write(`[${flags},${expire},"","",[]]\n`, 'latin1') };
  const length = head.bytes + payloadEnd - payloadStart;
  if (length > scratchBytes)
    return hash(
      'sha256',
      Buffer.concat([contentScratch.view(head.bytes), content.subarray(payloadStart, payloadEnd)]),
      'binary',
    );
  let end = head.bytes;
  for (let index = payloadStart; index < payloadEnd; index++) into[end++] = content[index] as number;
  return hash('sha256', contentScratch.view(length), 'binary');
}

/** Slots of a cache: with ids of 20 bytes both caches take 5 MB, with the longest ids 20 MB. */
const cacheSlots = 1 << 14;

/**
 * Finds the slot of a text by its bytes (FNV-1a). A cache has one entry per slot; another text of
 * the same slot replaces it.
 */
function slotOf(bytes: Uint8Array, start: number, end: number, salt: number): number {
  let hash = 0x811c9dc5 ^ salt;
  for (let index = start; index < end; index++) hash = Math.imul(hash ^ (bytes[index] as number), 0x01000193);
  return (hash ^ (hash >>> 15)) & (cacheSlots - 1);
}

/** Whether a text that was decoded from so many bytes of UTF-8 is ASCII. Only those are cached. */
function isAscii(text: string, start: number, end: number): boolean {
  return text.length === end - start;
}

/** Whether an ASCII text has these bytes. */
function equals(text: string, bytes: Uint8Array, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let index = 0; index < text.length; index++) if (text.charCodeAt(index) !== bytes[start + index]) return false;
  return true;
}

/** Texts that recur: equal bytes give the same string, which maps then find by its pointer. */
class TextCache {
  readonly #slots: string[] = new Array(cacheSlots).fill('');

  text(bytes: Buffer, start: number, end: number): string {
    const slot = slotOf(bytes, start, end, 0);
    const known = this.#slots[slot] as string;
    if (equals(known, bytes, start, end)) return known;
    const text = textOf(bytes, start, end);
    if (isAscii(text, start, end)) this.#slots[slot] = text;
    return text;
  }
}

/** Channels that recur: equal channels are the same object. */
class ChannelCache {
  readonly #slots: (Channel | undefined)[] = new Array(cacheSlots).fill(undefined);

  find(bytes: Buffer, start: number, end: number, type: number, sequence: Channel['sequence']): Channel {
    const slot = slotOf(bytes, start, end, type * 2 + sequence);
    const known = this.#slots[slot];
    if (known?.type === type && known.sequence === sequence && equals(known.id, bytes, start, end)) return known;
    const created = channel(type, textOf(bytes, start, end), sequence);
    const found = { ...created, keyCrc: keyCrcOf(created) };
    if (isAscii(found.id, start, end)) this.#slots[slot] = found;
    return found;
  }
}

const uids = new TextCache();
const channels = new ChannelCache();
