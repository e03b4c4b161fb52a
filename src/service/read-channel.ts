import type { Caller } from '../domain/caller.ts';
import { canonicalId, channel, messageSequence } from '../domain/channel.ts';
import { Failure, invalidField } from '../domain/failure.ts';
import { readingPair, unreadable } from '../domain/permission.ts';
import { limits } from '../limits.ts';
import { readHeads } from '../storage/channel.ts';
import { troubleOf } from '../storage/failure.ts';
import { readRange, type StoredMessage } from '../storage/message.ts';
import { readPairFacts } from '../storage/permission.ts';
import { storeBusy } from './append.ts';
import type { Store } from './group.ts';

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
export interface ReadCall {
  readonly channelType: number;
  readonly channelId: string;
  readonly afterSeq: number;
  readonly beforeSeq: number;
  readonly limit: number;
  readonly descending: boolean;
  /** Who calls: a user reads only what is its own to read. */
  readonly caller: Caller;
}

/** Reads a page; a channel that nobody has sent to is an empty one. */
export type ReadChannel = (call: ReadCall) => Promise<Page>;

/** The use case over the store. */
export function createReadChannel({ db, channelKeys, rules }: Store): ReadChannel {
  return async (call) => {
    const channelId = canonicalId(call.channelType, call.channelId);
    if (channelId === undefined)
      throw invalidField('channel_id', 'of a person channel must be the two uids joined with @');
    const named = channel(call.channelType, channelId, messageSequence);
    const limit = call.limit || limits.pageMessagesDefault;
    try {
      if (call.caller.kind === 'user') {
        const pair = readingPair(call.caller.name, named);
        const facts = (await readPairFacts(db, [pair])).get(pair.key);
        const refusal = facts && unreadable(pair, facts, rules);
        if (refusal !== undefined) throw new Failure(refusal);
      }
      const channelKey = (await channelKeys.find([named])).get(named.key);
      const empty = { channelType: call.channelType, channelId, messages: [], more: false, lastSeq: 0 };
      if (channelKey === undefined) return empty;
      // The head first: a page read after it never shows less than the head says.
      const heads = await readHeads(db, [channelKey]);
      const range = {
        afterSeq: call.afterSeq,
        beforeSeq: call.beforeSeq || Number.MAX_SAFE_INTEGER,
        // One more than asked tells whether there is more.
        limit: limit + 1,
        descending: call.descending,
      };
      const messages = await readRange(db, channelKey, range, Date.now());
      return {
        ...empty,
        messages: messages.slice(0, limit),
        more: messages.length > limit,
        lastSeq: heads.get(channelKey) ?? 0,
      };
    } catch (error) {
      if (error instanceof Failure || troubleOf(error) === 'defect') throw error;
      throw storeBusy(error);
    }
  };
}
