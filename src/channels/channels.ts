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
import { orBusy } from '../messages/store-busy.ts';
import type { Tx } from '../postgres/schema.ts';
import { beginCursors } from '../reading/conversations.sql.ts';
import type { Store } from '../sending/group-context.ts';

/** A channel as a caller names it, and a user (type 1). */
export interface Named {
  readonly channelType: number;
  readonly channelId: string;
}

/** A page of a list. */
export interface ListedPage {
  readonly entries: readonly Listed[];
  /** Empty on the last one. */
  readonly next: string;
}

/** How a list is to change: these come, these go, `all` leave first. */
export interface ListChange {
  readonly add?: readonly string[];
  readonly remove?: readonly string[] | 'all';
}

/** Channels, users, their flags and lists. Every change is one transaction, and in force when its promise resolves. */
export interface Channels {
  put(named: Named, flags: Flags, members: ListChange): Promise<void>;
  /** Undefined when it was never made. */
  get(named: Named): Promise<Flags | undefined>;
  disband(named: Named): Promise<void>;
  change(named: Named, list: List, change: ListChange): Promise<void>;
  list(named: Named, list: List, after: string, limit: number): Promise<ListedPage>;
  addSystemUids(uids: readonly string[]): Promise<void>;
  removeSystemUids(uids: readonly string[]): Promise<void>;
  /** Of the store, without those of the settings. */
  listSystemUids(): Promise<string[]>;
}

/** Told of changes after their commit. */
export interface ChannelChangeListener {
  membersChanged(uids: readonly string[]): void;
  channelChanged(channelKey: number): void;
}

export function createChannels(store: Store, told: ChannelChangeListener, now: () => number = Date.now): Channels {
  const { db } = store;
  const change = async (named: Named, work: (tx: Tx, place: ListOwner) => Promise<void>) =>
    await orBusy(async () => {
      const place = await placeOf(store, named, 'made when missing');
      await db.transaction().execute(async (tx) => {
        await createAndLockListOwner(tx, place, now());
        await work(tx, place);
      });
      if (place.kind === 'channel') told.channelChanged(place.channelKey);
    });
  const changeList = async (tx: Tx, place: ListOwner, list: List, { add = [], remove = [] }: ListChange) => {
    if (remove === 'all' || remove.length > 0) await removeUids(tx, place, list, remove, now());
    if (add.length > 0) await addUids(tx, place, list, add, now());
    if (list === 'member' && place.kind === 'channel') await beginCursors(tx, place.channelKey, add);
  };
  /** Takes off lists, and makes nothing: neither a channel nor a user that is not there. */
  const takeOff = async (named: Named, list: List, remove: readonly string[] | 'all') =>
    await orBusy(async () => {
      const place = await placeOf(store, named);
      if (place === undefined) return;
      await db.transaction().execute(async (tx) => {
        await lockListOwner(tx, place, now());
        await removeUids(tx, place, list, remove, now());
      });
      if (place.kind === 'channel') told.channelChanged(place.channelKey);
    });
  return {
    async put(named, flags, members) {
      if (named.channelType === personType) assertUserFlags(flags);
      if (named.channelType === personType && (members.add?.length ?? 0) > 0) throw hasNoMembers();
      await change(named, async (tx, place) => {
        await setFlags(tx, place, flags);
        if (place.kind === 'channel') await changeList(tx, place, 'member', members);
      });
      told.membersChanged(members.add ?? []);
    },
    get: (named) =>
      orBusy(async () => {
        const place = await placeOf(store, named);
        return place && (await readFlags(db, place));
      }),
    async disband(named) {
      if (named.channelType === personType)
        throw invalidField('channel_type', 'must not be 1 (person): a user cannot be disbanded; set send_ban instead');
      await change(named, disband);
    },
    async change(named, list, listChange) {
      if (named.channelType === personType && list === 'member') throw hasNoMembers();
      const { add = [], remove = [] } = listChange;
      if (add.length === 0) await takeOff(named, list, remove);
      else await change(named, (tx, place) => changeList(tx, place, list, listChange));
      if (list === 'member') told.membersChanged(remove === 'all' ? add : [...add, ...remove]);
    },
    list: (named, list, after, limit) =>
      orBusy(async () => {
        if (named.channelType === personType && list === 'member') throw hasNoMembers();
        const place = await placeOf(store, named);
        if (place === undefined) return { entries: [], next: '' };
        const { page, last } = pageOf(await listUids(db, place, list, after, limit + 1), limit);
        return { entries: page, next: last?.uid ?? '' };
      }),
    addSystemUids: (uids) => orBusy(() => addSystemUids(db, uids)),
    removeSystemUids: (uids) => orBusy(() => removeSystemUids(db, uids)),
    listSystemUids: () => orBusy(() => listSystemUids(db)),
  };
}

async function placeOf(store: Store, named: Named, missing: 'made when missing'): Promise<ListOwner>;
async function placeOf(store: Store, named: Named): Promise<ListOwner | undefined>;
async function placeOf(
  { channelKeys }: Store,
  { channelType, channelId }: Named,
  missing?: 'made when missing',
): Promise<ListOwner | undefined> {
  const fault = idFault(channelType, channelId);
  if (fault !== undefined) throw invalidField('channel_id', fault);
  if (channelType === personType) return { kind: 'person', uid: channelId };
  const wanted = channel(channelType, channelId, messageSequence);
  const keys = await (missing === undefined ? channelKeys.find([wanted]) : channelKeys.findOrCreate([wanted]));
  const channelKey = keys.get(wanted.key);
  return channelKey === undefined ? undefined : { kind: 'channel', channelKey };
}

/** Why a text cannot be the id of a channel of this type; of type 1 it is a uid. */
function idFault(channelType: number, id: string): string | undefined {
  if (/[#&\0]/.test(id)) return 'must not contain # or &';
  if (channelType !== personType && isJoined(channelType))
    return /^[^@]+@[^@]+$/.test(id) ? undefined : `of channel_type ${channelType} must be two names joined with @`;
  return id.includes('@') ? 'must not contain @' : undefined;
}

/** A user is no channel: nothing would obey these flags. */
function assertUserFlags({ ban, disband }: Flags): void {
  const wayOut = 'must be 0 of a user (channel_type 1); set send_ban to stop the user from sending, or use lists';
  if (ban) throw invalidField('ban', wayOut);
  if (disband) throw invalidField('disband', wayOut);
}

const hasNoMembers = () =>
  invalidField('channel_type', 'must not be 1 (person): a user has a denylist and an allowlist, but no members');
