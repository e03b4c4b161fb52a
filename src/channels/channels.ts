// Channels and users: their flags (ban, disband, send_ban …) and lists (members, denylist,
// allowlist), and system uids.
//
// Entry point: `createChannels`. Every change is one transaction that locks the owner of the lists,
// so that changes of one owner are serialized; it is in force for senders when its promise
// resolves, since permission is read in the transaction that stores. Listeners (tails) are notified
// after the commit. A user (channel type 1) has no members and cannot be disbanded. Lists and
// flags: messages/member-lists.sql.ts; who may send and read: messages/permission.ts.

import { channel, isJoined, messageSequence, personType } from '../messages/channel.ts';
import {
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
import { invalidField } from '../messages/service-error.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import type { Tx } from '../postgres/schema.ts';
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
  const { db } = store;
  const change = async (named: Named, work: (tx: Tx, owner: ListOwner) => Promise<void>) =>
    await orBusy(async () => {
      const owner = await ownerOf(store, named, 'created if missing');
      await db.transaction().execute(async (tx) => {
        await createAndLockListOwner(tx, owner, now());
        await work(tx, owner);
      });
      if (owner.kind === 'channel') listener.channelChanged(owner.channelKey);
    });
  const changeList = async (tx: Tx, owner: ListOwner, list: List, { add = [], remove = [] }: ListChange) => {
    if (remove === 'all' || remove.length > 0) await removeUids(tx, owner, list, remove, now());
    if (add.length > 0) await addUids(tx, owner, list, add, now());
    if (list === 'member' && owner.kind === 'channel') await beginCursors(tx, owner.channelKey, add);
  };
  /** Removes entries without creating a missing channel or user. */
  const removeOnly = async (named: Named, list: List, remove: readonly string[] | 'all') =>
    await orBusy(async () => {
      const owner = await ownerOf(store, named);
      if (owner === undefined) return;
      await db.transaction().execute(async (tx) => {
        await lockListOwner(tx, owner, now());
        await removeUids(tx, owner, list, remove, now());
      });
      if (owner.kind === 'channel') listener.channelChanged(owner.channelKey);
    });
  return {
    async put(named, flags, members) {
      if (named.channelType === personType) assertUserFlags(flags);
      if (named.channelType === personType && (members.add?.length ?? 0) > 0) throw hasNoMembers();
      await change(named, async (tx, owner) => {
        await setFlags(tx, owner, flags);
        if (owner.kind === 'channel') await changeList(tx, owner, 'member', members);
      });
      listener.membersChanged(members.add ?? []);
    },
    get: (named) =>
      orBusy(async () => {
        const owner = await ownerOf(store, named);
        return owner && (await readFlags(db, owner));
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
      else await change(named, (tx, owner) => changeList(tx, owner, list, listChange));
      if (list === 'member') listener.membersChanged(remove === 'all' ? add : [...add, ...remove]);
    },
    list: (named, list, after, limit) =>
      orBusy(async () => {
        if (named.channelType === personType && list === 'member') throw hasNoMembers();
        const owner = await ownerOf(store, named);
        if (owner === undefined) return { entries: [], next: '' };
        const { page, last } = pageOf(await listUids(db, owner, list, after, limit + 1), limit);
        return { entries: page, next: last?.uid ?? '' };
      }),
    addSystemUids: (uids) => orBusy(() => addSystemUids(db, uids)),
    removeSystemUids: (uids) => orBusy(() => removeSystemUids(db, uids)),
    listSystemUids: () => orBusy(() => listSystemUids(db)),
  };
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
