/**
 * Acknowledged messages that a caller wrote down, compared with what is stored. A journal is
 * NDJSON, one acknowledged message per line; it may be larger than memory.
 */
import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { tempType } from '../messages/channel.ts';
import { dedupeKeyOf } from '../messages/message.ts';
import { byShard } from '../postgres/over-shards.ts';
import type { Db } from '../postgres/schema.ts';
import { onShard, type ShardLayout } from '../postgres/shards.ts';
import { channelsOf, findByKey, isAccountedFor, mismatches } from './journal.sql.ts';
import { type JournalEntry, JournalError, keyOf, parseEntry, type StoredUnder } from './journal-entry.ts';
import type { ChannelViolation } from './violations.ts';

/** What `verifyJournal` has read so far, and what it found since the last report. */
export interface JournalStep {
  /** Acknowledged messages compared. */
  readonly entries: number;
  /** Those that are not stored any more because they expired or were older than their retention. */
  readonly removed: number;
  /** Those without a number (`no_persist`), which are never stored. */
  readonly unnumbered: number;
  readonly faults: readonly ChannelViolation[];
}

interface Sharded {
  readonly db: Db;
  readonly shards: ShardLayout;
}

/** Lines compared by one statement. */
const atOnce = 2000;
/** A longer line is no acknowledged message. */
const lineBytes = 64 * 1024;

/** Compares a journal with the store, on `connections` connections. */
export async function* verifyJournal(store: Sharded, file: string, connections: number): AsyncGenerator<JournalStep> {
  const under: Promise<Omit<JournalStep, 'unnumbered'>>[] = [];
  let unnumbered = 0;
  let entries: JournalEntry[] = [];
  const send = () => {
    const compared = compare(store, file, entries);
    compared.catch(() => {});
    under.push(compared);
    entries = [];
  };
  const take = async (): Promise<JournalStep> => {
    const step = await under.shift();
    const counted = { entries: 0, removed: 0, faults: [], ...step, unnumbered };
    unnumbered = 0;
    return counted;
  };
  for await (const { text, line, isComplete } of linesOf(file)) {
    if (text.trim() === '') continue;
    const entry = parseEntry(text, line, file, isComplete);
    if (entry === undefined) continue;
    if (entry.messageSeq === 0) unnumbered++;
    else entries.push(entry);
    if (entries.length < atOnce) continue;
    send();
    if (under.length >= connections) yield await take();
  }
  send();
  while (under.length > 0) yield await take();
}

interface Line {
  readonly text: string;
  readonly line: number;
  /** False for a last line without a line feed: its writer was killed. */
  readonly isComplete: boolean;
}

const lineFeed = 0x0a;

async function* linesOf(file: string): AsyncGenerator<Line> {
  const chunks: AsyncIterable<Buffer> = createReadStream(file, { highWaterMark: 256 * 1024 });
  let rest: Buffer = Buffer.alloc(0);
  let line = 0;
  for await (const chunk of chunks) {
    const bytes = Buffer.concat([rest, chunk]);
    const end = bytes.lastIndexOf(lineFeed) + 1;
    rest = bytes.subarray(end);
    if (end > 0)
      for (const text of decode(bytes.subarray(0, end - 1), file, line).split('\n'))
        yield { text, line: ++line, isComplete: true };
    if (rest.length > lineBytes) throw new JournalError(`${file}:${line + 1}: longer than ${lineBytes} bytes`);
  }
  if (rest.length > 0) yield { text: decode(rest, file, line, { stream: true }), line: line + 1, isComplete: false };
}

/** Decodes lines behind the first `line` ones. With `stream` the last one may end within a character. */
function decode(bytes: Buffer, file: string, line: number, options: { readonly stream?: boolean } = {}): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes, options);
  } catch {
    for (let start = 0, at = line + 1; ; at++) {
      const end = bytes.indexOf(lineFeed, start);
      if (end === -1 || !isUtf8(bytes.subarray(start, end))) throw new JournalError(`${file}:${at}: not valid UTF-8`);
      start = end + 1;
    }
  }
}

async function compare(
  { db, shards }: Sharded,
  file: string,
  entries: readonly JournalEntry[],
): Promise<Omit<JournalStep, 'unnumbered'>> {
  if (entries.length === 0) return { entries: 0, removed: 0, faults: [] };
  const keys = await channelsOf(db, entries);
  const withKey = entries.map((entry) => ({ ...entry, channelKey: keys.get(keyOf(entry)) }));
  const faults: ChannelViolation[] = [];
  let removed = 0;
  const known = withKey.flatMap((entry) =>
    entry.channelKey === undefined ? [] : [{ ...entry, channelKey: entry.channelKey }],
  );
  const ofChannels = { items: known, channelKeyOf: ({ channelKey }: { channelKey: number }) => channelKey };
  const found = await byShard(db, shards, ofChannels, mismatches);
  const differing = new Map(found.flatMap((each) => [...each]));
  for (const entry of withKey) {
    const stored = differing.get(entry.line);
    if (entry.channelKey !== undefined && stored === undefined) continue;
    const fault = await explain({ db, shards }, entry, stored);
    if (fault === undefined) removed++;
    else faults.push({ ...fault, ...placeOf(entry), what: `${file}:${entry.line}: ${fault.what}` });
  }
  return { entries: entries.length, removed, faults };
}

const placeOf = ({ channelType, channelId, sequence }: JournalEntry) => ({ channelType, channelId, sequence });

/** Says how an entry differs from the store; undefined if its message was removed as it should. */
async function explain(
  { db, shards }: Sharded,
  entry: JournalEntry & { readonly channelKey: number | undefined },
  stored: StoredUnder | undefined,
): Promise<Pick<ChannelViolation, 'kind' | 'what'> | undefined> {
  const { channelKey, messageSeq, messageId, fromUid, clientMsgNo } = entry;
  const message = `seq ${messageSeq}, id ${messageId} of ${fromUid} with key ${JSON.stringify(clientMsgNo)}`;
  if (channelKey === undefined) {
    // Temporary channels are removed with their messages.
    if (entry.channelType === tempType) return undefined;
    return { kind: 'ACKNOWLEDGED_LOST', what: `${message} was acknowledged, and its channel does not exist` };
  }
  if (stored?.isOwnKey && stored.messageId === messageId)
    return { kind: 'ACKNOWLEDGED_CHANGED', what: `the payload of ${message} is not the one that was acknowledged` };
  const shard = onShard(db, shards.of(channelKey));
  const now = await findByKey(shard, channelKey, dedupeKeyOf(fromUid, clientMsgNo));
  if (now !== undefined)
    return {
      kind: 'ACKNOWLEDGED_MISNUMBERED',
      what: `${message} was acknowledged, and is stored as seq ${now.messageSeq}, id ${now.messageId}`,
    };
  if (stored?.messageId !== undefined)
    return { kind: 'ACKNOWLEDGED_LOST', what: `${message} was acknowledged, and another message has its seq` };
  if (await isAccountedFor(shard, channelKey, messageSeq)) return undefined;
  return { kind: 'ACKNOWLEDGED_LOST', what: `${message} was acknowledged, and is not stored` };
}
