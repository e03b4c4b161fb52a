// Reads history: pages of a channel, and single messages by sequence, id or client_msg_no.
//
// Entry points: `createReadChannel` here, `createInbox` in inbox.ts (conversations, read cursors,
// commands of a user). read-access.ts decides who may read. Invariants:
//  1. A page never shows less than the head read before it promises.
//  2. A position above the head or before the first kept message is refused, never skipped
//     silently.
//  3. A page examines messages for at most `scanMs`, whatever a filter passes over, and says where
//     to continue.

import { limits } from '../limits.ts';
import { type Heads, noHeads, type Positions, readHeadsAndFirst } from '../messages/channel-heads.sql.ts';
import { findByKeys, findByNumbers } from '../messages/messages-find.sql.ts';
import { type Filter, type Range, readRange, readRangeAndHeads, seqsOfTimes } from '../messages/messages-read.sql.ts';
import { pageOf, withinBytes } from '../messages/page.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import { onShard } from '../postgres/shards.ts';
import type { Store } from '../sending/group-context.ts';
import { assertReadable, channelToRead, type Reader, viewerOf } from './read-access.ts';

/** A page of the history of a channel. */
export interface Page {
  readonly channelType: number;
  /** The canonical channel. */
  readonly channelId: string;
  readonly messages: readonly StoredMessage[];
  readonly more: boolean;
  /**
   * Where the range continues: after this sequence, or before it when descending. Unset at the end.
   */
  readonly nextSeq: number;
  readonly lastSeq: number;
}

/** A page to read: 0 stands for no bound, and for the default limit. */
export interface ReadCall extends Reader {
  readonly channelType: number;
  readonly channelId: string;
  readonly afterSeq: number;
  readonly beforeSeq: number;
  readonly limit: number;
  readonly descending: boolean;
  readonly filter?: Filter;
  /**
   * For legacy callers: a cursor before the first kept message starts there, and a page is empty
   * only at the end of the range, since their answer has no field to continue from.
   */
  readonly legacy?: boolean;
}

/** Messages to find by number or key. */
export interface FindCall extends Reader {
  readonly channelType: number;
  readonly channelId: string;
  readonly seqs: readonly number[];
  readonly ids: readonly number[];
  readonly keys: readonly string[];
}

/** Reads channels. A channel without sends is empty. */
export interface ReadChannel {
  page(call: ReadCall): Promise<Page>;
  find(call: FindCall): Promise<Page>;
  lastSeq(call: Reader & { readonly channelType: number; readonly channelId: string }): Promise<number>;
}

export function createReadChannel(store: Store, now: () => number = Date.now, scanMs = usualScanMs): ReadChannel {
  const { shards, channelKeys } = store;
  /** The tables of a channel. */
  const on = (channelKey: number) => onShard(store.db, shards.of(channelKey));

  /** The key of a channel, once the reader may read it; undefined for a channel without sends. */
  async function open(call: Reader & { readonly channelType: number; readonly channelId: string }) {
    const viewerUid = viewerOf(call);
    const named = channelToRead(call.channelType, call.channelId, viewerUid);
    await assertReadable(store, viewerUid, [named]);
    const channelKey = (await channelKeys.find([named])).get(named.key);
    const page = { channelType: named.type, channelId: named.id, messages: [], more: false, nextSeq: 0, lastSeq: 0 };
    return { viewerUid: viewerUid, channelKey, empty: page };
  }

  /**
   * Reads at most `limit` messages of a range. Messages that a filter passes over cost as much as
   * those it finds: a range is examined slice by slice, for at most `scanMs`; `reached` says how
   * far.
   */
  async function scan(
    channelKey: number,
    heads: Heads,
    call: ReadCall & { readonly viewerUid: string | undefined },
  ): Promise<{ found: StoredMessage[]; reached: number | undefined }> {
    const { descending, limit, filter = {}, viewerUid } = call;
    const db = on(channelKey);
    const times =
      filter.since === undefined && filter.until === undefined ? undefined : await seqsOfTimes(db, channelKey, filter);
    let afterSeq = Math.max(call.afterSeq, times?.afterSeq ?? 0);
    let beforeSeq = Math.min(call.beforeSeq || Number.MAX_SAFE_INTEGER, times?.beforeSeq ?? Number.MAX_SAFE_INTEGER);
    const read = (range: Pick<Range, 'afterSeq' | 'beforeSeq' | 'limit'>) =>
      readRange(
        db,
        channelKey,
        { ...range, descending, viewerUid, withoutRecalled: call.legacy === true, ...filter },
        now(),
      );
    const slice = sliceOf(filter, viewerUid);
    if (slice === undefined) return { found: await read({ afterSeq, beforeSeq, limit }), reached: undefined };
    afterSeq = Math.max(afterSeq, heads.firstSeq - 1);
    beforeSeq = Math.min(beforeSeq, heads.lastSeq + 1);
    const began = performance.now();
    const found: StoredMessage[] = [];
    // Ends, since each slice shortens the range.
    while (afterSeq + 1 < beforeSeq) {
      const part = descending
        ? { afterSeq: Math.max(afterSeq, beforeSeq - 1 - slice), beforeSeq }
        : { afterSeq, beforeSeq: Math.min(beforeSeq, afterSeq + 1 + slice) };
      const wanted = limit - found.length;
      const messages = await read({ ...part, limit: wanted });
      for (const message of messages) found.push(message);
      // Cut by count or by bytes: the range continues after the last message.
      if (found.length >= limit || (messages.length > 0 && withinBytes(found).length < found.length)) break;
      if (descending) beforeSeq = part.afterSeq + 1;
      else afterSeq = part.beforeSeq - 1;
      if (afterSeq + 1 < beforeSeq && !call.legacy && performance.now() - began > scanMs)
        return { found, reached: descending ? beforeSeq : afterSeq };
    }
    return { found, reached: undefined };
  }

  /**
   * Reads a page and the heads of its channel: in one statement, or the heads first, so that a page
   * never shows less than they promise.
   */
  async function readPage(
    channelKey: number,
    call: ReadCall & { readonly viewerUid: string | undefined },
  ): Promise<{ heads: Heads; found: StoredMessage[]; reached: number | undefined }> {
    const db = on(channelKey);
    if (call.viewerUid === undefined && !call.legacy && Object.keys(call.filter ?? {}).length === 0) {
      const range = { ...call, beforeSeq: call.beforeSeq || Number.MAX_SAFE_INTEGER };
      const { heads, messages } = await readRangeAndHeads(db, channelKey, range, now());
      assertPosition(call, heads);
      return { heads, found: messages, reached: undefined };
    }
    const heads = await readHeadsAndFirst(db, channelKey);
    assertPosition(call, heads);
    return { heads, ...(await scan(channelKey, heads, call)) };
  }

  return {
    page: (call) =>
      orBusy(async () => {
        const { viewerUid, channelKey, empty } = await open(call);
        if (channelKey === undefined) {
          assertPosition(call, noHeads);
          return empty;
        }
        const limit = call.limit || limits.pageMessagesDefault;
        const { heads, found, reached } = await readPage(channelKey, { ...call, viewerUid, limit: limit + 1 });
        const { page, last } = pageOf(found, limit);
        const nextSeq = last?.messageSeq ?? reached;
        return { ...empty, messages: page, more: nextSeq !== undefined, nextSeq: nextSeq ?? 0, lastSeq: heads.lastSeq };
      }),

    find: (call) =>
      orBusy(async () => {
        const { viewerUid, channelKey, empty } = await open(call);
        if (channelKey === undefined) return empty;
        const db = on(channelKey);
        const found = new Map<number, StoredMessage>();
        const add = (messages: readonly StoredMessage[]) => {
          for (const message of messages) found.set(message.messageSeq, message);
        };
        if (call.seqs.length + call.ids.length > 0)
          add(await findByNumbers(db, channelKey, { seqs: call.seqs, ids: call.ids, viewerUid }, now()));
        if (call.keys.length > 0) {
          const { lastSeq } = await readHeadsAndFirst(db, channelKey);
          add(
            await findByKeys(
              db,
              channelKey,
              { keys: call.keys, afterSeq: lastSeq - limits.keySearchMessages, viewerUid },
              now(),
            ),
          );
        }
        const sorted = [...found.values()].sort((a, b) => a.messageSeq - b.messageSeq);
        const messages = withinBytes(sorted);
        return { ...empty, messages, more: messages.length < sorted.length };
      }),

    lastSeq: (call) =>
      orBusy(async () => {
        const { channelKey } = await open(call);
        return channelKey === undefined ? 0 : (await readHeadsAndFirst(on(channelKey), channelKey)).lastSeq;
      }),
  };
}

/** Refuses a page that begins above the head, or before the first kept message. */
function assertPosition({ afterSeq, descending, legacy = false }: ReadCall, heads: Heads): void {
  if (descending) return;
  if (legacy) {
    assertReached(afterSeq, heads, { field: 'start_message_seq', given: afterSeq + 1 });
    return;
  }
  assertReached(afterSeq, heads);
  assertKept(afterSeq, heads);
}

/** How long a page examines messages that it passes over: 250 ms for about 300,000. */
const usualScanMs = 250;

/** Sequences examined per statement at most; undefined if it reads only what it returns. */
function sliceOf({ tagKey, streamNo, fromUid }: Filter, viewerUid: string | undefined): number | undefined {
  if (fromUid !== undefined || viewerUid !== undefined) return 20_000;
  // Tags and streams have indexes.
  return tagKey !== undefined && streamNo !== undefined ? 20_000 : undefined;
}

/**
 * The position of a call that an error is about: its field, and its channel if the call has many.
 */
interface At {
  readonly field?: string;
  /** The position as the caller gave it. */
  readonly given?: number;
  readonly channel?: { readonly type: number; readonly id: string };
}

const namesOf = ({ channel }: At): Record<string, string> =>
  channel === undefined ? {} : { channel_id: channel.id, channel_type: String(channel.type) };
const wordsOf = ({ channel }: At): string =>
  channel === undefined ? '' : ` of channel ${channel.type}/${JSON.stringify(channel.id)}`;

/**
 * Refuses a position above the head: it belongs to another database, or to this one before it was
 * restored, and everything up to it would be skipped.
 */
export function assertReached(seq: number, { lastSeq }: Pick<Heads, 'lastSeq'>, at: At = {}): void {
  if (seq <= lastSeq) return;
  const { field = 'after_seq', given = seq } = at;
  throw new ServiceError({
    reason: 'SEQ_AHEAD',
    message:
      `${field} ${given}${wordsOf(at)} is above the last sequence ${lastSeq}: it belongs to another database, or to ` +
      `this one before a restore; continue after ${lastSeq}, or from the start with 0`,
    metadata: { ...namesOf(at), last_seq: String(lastSeq), [field]: String(given) },
  });
}

/** Refuses a change above the channel's last one, as `assertReached` does a sequence. */
export function assertChangeReached(change: number, { lastChange }: Pick<Positions, 'lastChange'>, at: At = {}): void {
  if (change <= lastChange) return;
  throw new ServiceError({
    reason: 'SEQ_AHEAD',
    message:
      `after_change ${change}${wordsOf(at)} is above the last change ${lastChange}: it belongs to another database, ` +
      `or to this one before a restore; read the messages again and continue after change ${lastChange}`,
    metadata: { ...namesOf(at), last_change: String(lastChange), after_change: String(change) },
  });
}

/** Refuses a change before the first that is kept. */
export function assertChangeKept(afterChange: number, firstChange: number, at: At = {}): void {
  if (afterChange === 0 || afterChange + 1 >= firstChange) return;
  throw new ServiceError({
    reason: 'SEQ_EXPIRED',
    message: `changes up to ${firstChange - 1}${wordsOf(at)} are no longer kept; continue after change ${firstChange - 1}, or with all that are kept with 0`,
    metadata: { ...namesOf(at), first_change: String(firstChange), after_change: String(afterChange) },
  });
}

/** Refuses a cursor before the first kept message: it would silently skip removed ones. */
export function assertKept(afterSeq: number, { firstSeq }: Pick<Heads, 'firstSeq'>, at: At = {}): void {
  if (afterSeq === 0 || afterSeq + 1 >= firstSeq) return;
  throw new ServiceError({
    reason: 'SEQ_EXPIRED',
    message: `messages up to ${firstSeq - 1}${wordsOf(at)} are no longer kept; continue after ${firstSeq - 1}, or from the start with 0`,
    metadata: { ...namesOf(at), first_seq: String(firstSeq), after_seq: String(afterSeq) },
  });
}
