import {
  type Channel,
  channel,
  commandSequence,
  messageSequence,
  pairId,
  peerOf,
  personType,
  type Sequence,
} from '../messages/channel.ts';

/** An acknowledged message, and the line that names it. */
export interface JournalEntry {
  readonly line: number;
  readonly channelType: number;
  /** Canonical. */
  readonly channelId: string;
  readonly sequence: Sequence;
  readonly messageSeq: number;
  readonly messageId: number;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  /** SHA-256 of the payload in lower-case hex. */
  readonly payloadSha256: string | undefined;
}

/** `Channel.key` of the channel of an entry. */
export function keyOf({ channelType, channelId, sequence }: JournalEntry): Channel['key'] {
  return channel(channelType, channelId, sequence).key;
}

/** What is stored under an entry's numbers, if anything. */
export interface StoredUnder {
  readonly messageId: number | undefined;
  readonly isOwnKey: boolean;
}

/** A line that is no acknowledged message. */
export class JournalError extends Error {}

/** Parses a line. Undefined for an incomplete last one. Throws for any other that is not valid. */
export function parseEntry(text: string, line: number, file: string, isComplete = true): JournalEntry | undefined {
  const fail = (what: string) => new JournalError(`${file}:${line}: ${what}`);
  let read: unknown;
  try {
    read = JSON.parse(text);
  } catch {
    if (!isComplete) return undefined;
    throw fail('not JSON');
  }
  if (typeof read !== 'object' || read === null || Array.isArray(read)) throw fail('not an object');
  const fields = read as Record<string, unknown>;
  if ('run' in fields && 'tally' in fields)
    throw fail('a progress file of `send`, which has no message numbers: name a journal of acknowledged messages');
  const string = (name: string) => {
    const value = fields[name];
    if (typeof value !== 'string' || value === '' || value.includes('\0')) throw fail(`${name} must be a text`);
    return value;
  };
  const number = (name: string) => {
    const given = fields[name];
    // ProtoJSON writes 64-bit numbers as strings.
    const value = typeof given === 'string' && /^\d{1,16}$/.test(given) ? Number(given) : given;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      throw fail(`${name} must be a whole number from 0 to 2^53-1`);
    return value;
  };
  const { payload_sha256: digest, sync_once: syncOnce = false } = fields;
  if (digest !== undefined && (typeof digest !== 'string' || !/^[0-9a-f]{64}$/.test(digest)))
    throw fail('payload_sha256 must be 64 lower-case hex digits');
  if (![true, false, 0, 1].includes(syncOnce as boolean)) throw fail('sync_once must be true or false');
  const [channelType, fromUid, id] = [number('channel_type'), string('from_uid'), string('channel_id')];
  const sequence = syncOnce ? commandSequence : messageSequence;
  return {
    line,
    channelType,
    channelId: channelType === personType ? pairId(fromUid, peerOf(fromUid, id)) : id,
    sequence,
    messageSeq: number('message_seq'),
    messageId: number('message_id'),
    fromUid,
    clientMsgNo: string('client_msg_no'),
    payloadSha256: digest,
  };
}
