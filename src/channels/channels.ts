// Channels and users: their flags (ban, disband, send_ban …) and lists (members, denylist,
// allowlist), and system uids.
//
// Entry point: `createChannels`. Every change is one transaction that locks the owner of the lists,
// so that changes of one owner are serialized; it is in force for senders when its promise
// resolves, since permission is read in the transaction that stores. Listeners (tails) are notified
// after the commit. A user (channel type 1) has no members and cannot be disbanded. Lists and
// flags: messages/member-lists.sql.ts; who may send and read: messages/permission.ts.

import { limits } from '../limits.ts';
import { channel, commandSequence, isJoined, messageSequence, personType } from '../messages/channel.ts';
import { readHeads } from '../messages/channel-heads.sql.ts';
import {
  addMembers,
  addSystemUids,
  addUids,
  createAndLockListOwner,
  disband,
  type Flags,
  type List,
  type Listed,
  type ListOwner,
  listSystemUids,
  listUids,
  lockListOwner,
  readFlags,
  removeSystemUids,
  removeUids,
  setFlags,
} from '../messages/member-lists.sql.ts';
import { pageOf } from '../messages/page.ts';
import { batchTooLarge, invalidField, type ServiceError } from '../messages/service-error.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { onShard } from '../postgres/shards.ts';
import { beginCursors } from '../reading/conversations.sql.ts';
import type { Store } from '../sending/group-context.ts';

/** A channel as a caller names it, or a user (type 1). */
export interface Named {
  readonly channelType: number;
  readonly channelId: string;
}

/** A page of a list. */
export interface ListedPage {
  readonly entries: readonly Listed[];
  /** Cursor of the next page; empty on the last one. */
  readonly next: string;
}

/** A change of a list: removals first. */
export interface ListChange {
  readonly add?: readonly string[];
  readonly remove?: readonly string[] | 'all';
}

/**
 * Channels, users, their flags and lists. Every change is one transaction, in force when its
 * promise resolves.
 */
export interface Channels {
  put(named: Named, flags: Flags, members: ListChange): Promise<void>;
  /** Undefined when it was never created. */
  get(named: Named): Promise<Flags | undefined>;
  disband(named: Named): Promise<void>;
  change(named: Named, list: List, change: ListChange): Promise<void>;
  list(named: Named, list: List, after: string, limit: number): Promise<ListedPage>;
  addSystemUids(uids: readonly string[]): Promise<void>;
  removeSystemUids(uids: readonly string[]): Promise<void>;
  /** System uids of the store, without those of the settings. */
  listSystemUids(): Promise<string[]>;
}

/** Receives changes after their commit. */
export interface ChannelChangeListener {
  membersChanged(uids: readonly string[]): void;
  channelChanged(channelKey: number): void;
}

/** Creates the use cases of channels and users. */
export function createChannels(store: Store, listener: ChannelChangeListener, now: () => number = Date.now): Channels {
  const { db, shards, channelKeys } = store;
  /** Where the flags and lists of an owner are. */
  const listsOf = (owner: ListOwner): Db => (owner.kind === 'channel' ? onShard(db, shards.of(owner.channelKey)) : db);
  const lockedListsOf = (tx: Tx, owner: ListOwner): Tx =>
    owner.kind === 'channel' ? onShard(tx, shards.of(owner.channelKey)) : tx;
  const change = async (named: Named, work: (lists: Tx, owner: ListOwner, tx: Tx) => Promise<void>) =>
    await orBusy(async () => {
      const owner = await ownerOf(store, named, 'created if missing');
      await db.transaction().execute(async (tx) => {
        const lists = lockedListsOf(tx, owner);
        await createAndLockListOwner(lists, owner, now());
        await work(lists, owner, tx);
      });
      if (owner.kind === 'channel') listener.channelChanged(owner.channelKey);
    });
  /** Removes entries without creating a missing channel or user. */
  const removeOnly = async (named: Named, list: List, remove: readonly string[] | 'all') =>
    await orBusy(async () => {
      const owner = await ownerOf(store, named);
      if (owner === undefined) return;
      await listsOf(owner)
        .transaction()
        .execute(async (lists) => {
          await lockListOwner(lists, owner, now());
          await removeUids(lists, owner, list, remove, now());
        });
      if (owner.kind === 'channel') listener.channelChanged(owner.channelKey);
    });
  const changeList = async (lists: Tx, owner: ListOwner, list: Exclude<List, 'member'>, listChange: ListChange) => {
    const { add = [], remove = [] } = listChange;
    if (remove === 'all' || remove.length > 0) await removeUids(lists, owner, list, remove, now());
    if (add.length > 0) await addUids(lists, owner, list, add, now());
  };
  /** Prepares a change of members: finds the channel's commands, which have a head of their own. */
  const memberChange = async ({ channelType, channelId }: Named, { add = [], remove = [] }: ListChange) => {
    const commands = channel(channelType, channelId, commandSequence);
    const commandKey = add.length === 0 ? undefined : (await channelKeys.find([commands])).get(commands.key);
    return async (lists: Tx, owner: ListOwner, tx: Tx) => {
      if (owner.kind !== 'channel') return;
      const { channelKey } = owner;
      if (remove === 'all' || remove.length > 0) await removeUids(lists, owner, 'member', remove, now());
      if (add.length === 0) return;
      const keys = commandKey === undefined ? [channelKey] : [channelKey, commandKey];
      const heads = await mapByShard(tx, shards, keys, readHeads);
      const seq = heads.get(channelKey) ?? 0;
      const commandSeq = commandKey === undefined ? 0 : (heads.get(commandKey) ?? 0);
      await addMembers(lists, channelKey, add, { seq, commandSeq }, now());
      await beginCursors(tx, channelKey, add, seq);
    };
  };
  return {
    async put(named, flags, members) {
      if (named.channelType === personType) assertUserFlags(flags);
      if (named.channelType === personType && (members.add?.length ?? 0) > 0) throw hasNoMembers();
      await orBusy(async () => {
        const changeMembers = await memberChange(named, members);
        await change(named, async (lists, owner, tx) => {
          await setFlags(lists, owner, flags);
          await changeMembers(lists, owner, tx);
        });
      });
      listener.membersChanged(members.add ?? []);
    },
    get: (named) =>
      orBusy(async () => {
        const owner = await ownerOf(store, named);
        return owner && (await readFlags(listsOf(owner), owner));
      }),
    async disband(named) {
      if (named.channelType === personType)
        throw invalidField('channel_type', 'must not be 1 (person); a user cannot be disbanded, set send_ban instead');
      await change(named, disband);
    },
    async change(named, list, listChange) {
      if (named.channelType === personType && list === 'member') throw hasNoMembers();
      const { add = [], remove = [] } = listChange;
      if (add.length === 0) await removeOnly(named, list, remove);
      else if (list === 'member') await orBusy(async () => change(named, await memberChange(named, listChange)));
      else await change(named, (lists, owner) => changeList(lists, owner, list, listChange));
      if (list === 'member') listener.membersChanged(remove === 'all' ? add : [...add, ...remove]);
    },
    list: (named, list, after, limit) =>
      orBusy(async () => {
        if (named.channelType === personType && list === 'member') throw hasNoMembers();
        const owner = await ownerOf(store, named);
        if (owner === undefined) return { entries: [], next: '' };
        const { page, last } = pageOf(await listUids(listsOf(owner), owner, list, after, limit + 1), limit);
        return { entries: page, next: last?.uid ?? '' };
      }),
    addSystemUids: (uids) =>
      orBusy(() =>
        db.transaction().execute(async (tx) => {
          const count = await addSystemUids(tx, uids);
          if (count > limits.systemUids) throw tooManySystemUids(count);
        }),
      ),
    removeSystemUids: (uids) => orBusy(() => removeSystemUids(db, uids)),
    listSystemUids: () => orBusy(() => listSystemUids(db)),
  };
}

function tooManySystemUids(actual: number): ServiceError {
  const limit = limits.systemUids;
  return batchTooLarge('uids', `must be at most ${limit} in all, not ${actual}; remove some`, { limit, actual });
}

async function ownerOf(store: Store, named: Named, missing: 'created if missing'): Promise<ListOwner>;
async function ownerOf(store: Store, named: Named): Promise<ListOwner | undefined>;
async function ownerOf(
  { channelKeys }: Store,
  { channelType, channelId }: Named,
  missing?: 'created if missing',
): Promise<ListOwner | undefined> {
  const fault = idFault(channelType, channelId);
  if (fault !== undefined) throw invalidField('channel_id', fault);
  if (channelType === personType) return { kind: 'person', uid: channelId };
  const wanted = channel(channelType, channelId, messageSequence);
  const keys = await (missing === undefined ? channelKeys.find([wanted]) : channelKeys.findOrCreate([wanted]));
  const channelKey = keys.get(wanted.key);
  if (channelKey === undefined && missing !== undefined)
    throw storeBusy(new Error('the channel was removed after it was found'));
  return channelKey === undefined ? undefined : { kind: 'channel', channelKey };
}

/**
 * Why a text is no valid id of a channel of this type (a uid for type 1); undefined if it is valid.
 */
function idFault(channelType: number, id: string): string | undefined {
  if (/[#&\0]/.test(id)) return 'must not contain # or &';
  if (channelType !== personType && isJoined(channelType))
    return /^[^@]+@[^@]+$/.test(id) ? undefined : `must be two names joined with @ for channel_type ${channelType}`;
  return id.includes('@') ? 'must not contain @' : undefined;
}

/** Refuses flags that have no effect on users. */
function assertUserFlags({ ban, disband }: Flags): void {
  const wayOut = 'must be 0 for a user (channel_type 1); set send_ban to stop the user from sending, or use its lists';
  if (ban) throw invalidField('ban', wayOut);
  if (disband) throw invalidField('disband', wayOut);
}

const hasNoMembers = () =>
  invalidField('channel_type', 'must not be 1 (person); a user has a denylist and an allowlist, but no members');
