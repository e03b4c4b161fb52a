import { Failure } from '../domain/failure.ts';
import { limits } from '../limits.ts';
import { type Heads, readHeadsAndFirst } from '../storage/channel.ts';
import { type Filter, findByKeys, findByNumbers, readRange, type StoredMessage } from '../storage/history.ts';
import type { Store } from './group.ts';
import { assertReadable, channelToRead, eyesOf, type Reader } from './reading.ts';
import { orBusy } from './store-busy.ts';

/** A page of a channel's history. */
export interface Page {
  readonly channelType: number;
  /** Canonical. */
  readonly channelId: string;
  readonly messages: readonly StoredMessage[];
  readonly more: boolean;
  readonly lastSeq: number;
}

/** Which page: 0 stands for no bound, and for the default limit. */
export interface ReadCall extends Reader {
  readonly channelType: number;
  readonly channelId: string;
  readonly afterSeq: number;
  readonly beforeSeq: number;
  readonly limit: number;
  readonly descending: boolean;
  readonly filter?: Filter;
  /** A cursor before what is kept begins with what is, as legacy callers expect it. */
  readonly lenient?: boolean;
}

/** Messages by their numbers or keys. */
export interface FindCall extends Reader {
  readonly channelType: number;
  readonly channelId: string;
  readonly seqs: readonly number[];
  readonly ids: readonly number[];
  readonly keys: readonly string[];
}

/** Reads channels; one that nobody has sent to is empty. */
export interface ReadChannel {
  page(call: ReadCall): Promise<Page>;
  find(call: FindCall): Promise<Page>;
  lastSeq(call: Reader & { readonly channelType: number; readonly channelId: string }): Promise<number>;
}

export function createReadChannel(store: Store, now: () => number = Date.now): ReadChannel {
  const { db, channelKeys } = store;

  /** The key of a channel that the reader may read; undefined when nobody has sent to it. */
  async function open(call: Reader & { readonly channelType: number; readonly channelId: string }) {
    const eyes = eyesOf(call);
    const named = channelToRead(call.channelType, call.channelId, eyes);
    await assertReadable(store, eyes, [named]);
    const channelKey = (await channelKeys.find([named])).get(named.key);
    const page = { channelType: named.type, channelId: named.id, messages: [], more: false, lastSeq: 0 };
    return { eyes, channelKey, empty: page };
  }

  return {
    page: (call) =>
      orBusy(async () => {
        const { eyes, channelKey, empty } = await open(call);
        if (channelKey === undefined) return empty;
        // The head first: a page read after it never shows less than the head says.
        const heads = await readHeadsAndFirst(db, channelKey);
        if (!call.descending && !call.lenient) assertKept(call.afterSeq, heads);
        const limit = call.limit || limits.pageMessagesDefault;
        const range = {
          afterSeq: call.afterSeq,
          beforeSeq: call.beforeSeq || Number.MAX_SAFE_INTEGER,
          // One more than asked tells whether there is more.
          limit: limit + 1,
          descending: call.descending,
          eyes,
          ...call.filter,
        };
        const found = await readRange(db, channelKey, range, now());
        const messages = withinBytes(found.slice(0, limit));
        return { ...empty, messages, more: found.length > messages.length, lastSeq: heads.lastSeq };
      }),

    find: (call) =>
      orBusy(async () => {
        const { eyes, channelKey, empty } = await open(call);
        if (channelKey === undefined) return empty;
        const found = new Map<number, StoredMessage>();
        const add = (messages: readonly StoredMessage[]) => {
          for (const message of messages) found.set(message.messageSeq, message);
        };
        if (call.seqs.length + call.ids.length > 0)
          add(await findByNumbers(db, channelKey, { seqs: call.seqs, ids: call.ids, eyes }, now()));
        if (call.keys.length > 0) {
          const { lastSeq } = await readHeadsAndFirst(db, channelKey);
          add(
            await findByKeys(
              db,
              channelKey,
              { keys: call.keys, afterSeq: lastSeq - limits.keySearchMessages, eyes },
              now(),
            ),
          );
        }
        return { ...empty, messages: [...found.values()].sort((a, b) => a.messageSeq - b.messageSeq) };
      }),

    lastSeq: (call) =>
      orBusy(async () => {
        const { channelKey } = await open(call);
        return channelKey === undefined ? 0 : (await readHeadsAndFirst(db, channelKey)).lastSeq;
      }),
  };
}

/** A cursor before what is kept would skip what is gone without a word. */
export function assertKept(afterSeq: number, { firstSeq }: Heads): void {
  if (afterSeq === 0 || afterSeq + 1 >= firstSeq) return;
  throw new Failure({
    reason: 'SEQ_EXPIRED',
    message: `messages up to ${firstSeq - 1} are not kept any more; go on after ${firstSeq - 1}, or from the start with 0`,
    metadata: { first_seq: String(firstSeq), after_seq: String(afterSeq) },
  });
}

/** As many as fit a page, at least one. */
export function withinBytes(messages: readonly StoredMessage[]): readonly StoredMessage[] {
  let bytes = 0;
  const last = messages.findIndex((message, index) => {
    bytes += message.payload.length;
    return index > 0 && bytes > limits.pageBytes;
  });
  return last === -1 ? messages : messages.slice(0, last);
}
