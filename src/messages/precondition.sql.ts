/**
 * The precondition of an optimistic append (`preconditionsFor`) in SQL.
 *
 * With one shard the storing statement asserts all of it. With several shards that statement
 * asserts what its own shard holds, and the rest is asked for right before it: what a shard holds
 * on the same connection, the tables of users where they are.
 */
import { BinaryArray, bigintArray } from '../postgres/binary-array.ts';
import { byShard } from '../postgres/over-shards.ts';
import type { Db } from '../postgres/schema.ts';
import type { Shard, ShardLayout } from '../postgres/shards.ts';
import { all, Statement } from '../postgres/sql.ts';
import type { PermissionPrecondition } from './permission.ts';

/**
 * Parts of a precondition as SQL expressions over parameters, the first of which is `$first`.
 * `offset 0`: one probe per row. PostgreSQL may otherwise read the whole list at once, of all
 * channels.
 */
const holds = {
  open: (first: number) => `
  not exists (
    select from unnest($${first}::bigint[]) as w(channel_key) join sendbatch.channel_info i on i.channel_key = w.channel_key
    where i.disband or i.ban or i.send_ban)`,
  senders: (first: number) => `
  not exists (
    select from unnest($${first}::text[]) as w(uid) join sendbatch.person p on p.uid = w.uid where p.send_ban)`,
  members: (first: number) => `
  not exists (
    select from unnest($${first}::bigint[], $${first + 1}::text[]) as w(channel_key, uid)
    where not exists (
      select from sendbatch.channel_uid u
      where u.channel_key = w.channel_key and u.uid = w.uid and u.member and not u.denied
        and (u.allowed or not exists (select from sendbatch.channel_uid a where a.channel_key = u.channel_key and a.allowed offset 0))))`,
  peers: (first: number) => `
  not exists (
    select from unnest($${first}::text[], $${first + 1}::text[]) as w(owner, uid)
    join sendbatch.person_uid d on d.owner = w.owner and d.uid = w.uid where d.denied)`,
  guests: (first: number) => `
  not exists (
    select from unnest($${first}::bigint[], $${first + 1}::text[]) as w(channel_key, uid)
    where exists (select from sendbatch.channel_uid u where u.channel_key = w.channel_key and u.uid = w.uid and u.denied offset 0)
      or (exists (select from sendbatch.channel_uid a where a.channel_key = w.channel_key and a.allowed offset 0)
        and not exists (select from sendbatch.channel_uid u where u.channel_key = w.channel_key and u.uid = w.uid and u.allowed offset 0)))`,
};

/** A precondition within a statement: a SQL expression, and how many parameters it has. */
export interface PreconditionText {
  readonly parameters: number;
  readonly holds: (first: number) => string;
}

/** The whole precondition; its parameters are `preconditionValues`. */
export const wholePrecondition: PreconditionText = {
  parameters: 8,
  holds: (first) =>
    [
      holds.open(first),
      holds.senders(first + 1),
      holds.members(first + 2),
      holds.peers(first + 4),
      holds.guests(first + 6),
    ].join(' and '),
};

/** What a shard holds of the precondition; its parameters are `shardValues`. */
export const shardPrecondition: PreconditionText = {
  parameters: 5,
  holds: (first) => [holds.open(first), holds.members(first + 1), holds.guests(first + 3)].join(' and '),
};

interface HoldsRow {
  readonly holds: boolean;
}

const usersStatement = new Statement<HoldsRow>({
  name: 'precondition of users',
  byKey: true,
  text: `select ${holds.senders(1)} and ${holds.peers(2)} as holds`,
});

const shardStatement = new Statement<HoldsRow>({
  name: 'precondition of a shard',
  byKey: true,
  text: `select ${shardPrecondition.holds(1)} as holds`,
});

/** A uid on the lists of a channel. */
interface Listed {
  readonly channelKey: number;
  readonly uid: string;
}

/** A precondition with the keys of its channels. */
interface KeyedPrecondition {
  readonly open: readonly number[];
  readonly members: readonly Listed[];
  readonly guests: readonly Listed[];
}

/** Undefined when the channel of a member has no row: then it has no members. */
function withKeys(
  { openChannels, members, guests }: PermissionPrecondition,
  channelKeys: ReadonlyMap<string, number>,
): KeyedPrecondition | undefined {
  const listed = (all: PermissionPrecondition['members']) =>
    all.flatMap(({ channel, uid }) => {
      const channelKey = channelKeys.get(channel.key);
      return channelKey === undefined ? [] : [{ channelKey, uid }];
    });
  const keyedMembers = listed(members);
  if (keyedMembers.length < members.length) return undefined;
  return {
    // A channel without a row was never created, is open, and has no lists.
    open: openChannels.flatMap(({ key }) => channelKeys.get(key) ?? []),
    members: keyedMembers,
    guests: listed(guests),
  };
}

function textsValue(texts: readonly string[]): Buffer | null {
  const array = new BinaryArray('text', texts.length * 24);
  for (const text of texts) array.text(text);
  return array.value();
}

const listedValues = (listed: readonly Listed[]) => [
  bigintArray(listed.map((each) => each.channelKey)),
  textsValue(listed.map((each) => each.uid)),
];
const userValues = ({ senders, peers }: PermissionPrecondition) => [
  textsValue(senders),
  textsValue(peers.map((each) => each.owner)),
  textsValue(peers.map((each) => each.uid)),
];
const shardValues = ({ open, members, guests }: KeyedPrecondition) => [
  bigintArray(open),
  ...listedValues(members),
  ...listedValues(guests),
];

/**
 * The parameters of a precondition; undefined when the channel of a member has no row: then it has
 * no members.
 */
export function preconditionValues(
  precondition: PermissionPrecondition,
  channelKeys: ReadonlyMap<string, number>,
): (Buffer | null)[] | undefined {
  const keyed = withKeys(precondition, channelKeys);
  if (keyed === undefined) return undefined;
  const [senders, owners, uids] = userValues(precondition) as [Buffer | null, Buffer | null, Buffer | null];
  return [
    bigintArray(keyed.open),
    senders,
    ...listedValues(keyed.members),
    owners,
    uids,
    ...listedValues(keyed.guests),
  ];
}

/** Where the parts of a precondition are. */
export interface AskedOf {
  /** One connection, to ask the other shards on. */
  readonly db: Db;
  /** Has the tables of users: the same connection, or the pool of the node that has them. */
  readonly users: Db;
  readonly shards: ShardLayout;
  /** The shard whose part is left to the storing statement. */
  readonly shard: Shard;
}

/**
 * The parameters of what a shard holds of a precondition, after the rest of it was asked for: from
 * the tables of users, and from other shards, where the channel is that a channel of commands
 * belongs to. Undefined when the precondition does not hold.
 */
export async function askPrecondition(
  { db, users, shards, shard }: AskedOf,
  precondition: PermissionPrecondition,
  channelKeys: ReadonlyMap<string, number>,
): Promise<(Buffer | null)[] | undefined> {
  const keyed = withKeys(precondition, channelKeys);
  if (keyed === undefined) return undefined;
  const isHere = (channelKey: number) => shards.of(channelKey) === shard;
  const own: KeyedPrecondition = {
    open: keyed.open.filter(isHere),
    members: keyed.members.filter((each) => isHere(each.channelKey)),
    guests: keyed.guests.filter((each) => isHere(each.channelKey)),
  };
  const isAboutUsers = precondition.senders.length + precondition.peers.length > 0;
  const [ofUsers, others] = await all([
    isAboutUsers ? usersStatement.run(users, userValues(precondition)) : Promise.resolve([]),
    askOtherShards(db, shards, keyed, (channelKey) => !isHere(channelKey)),
  ]);
  return [...ofUsers, ...others].every((row) => row.holds) ? shardValues(own) : undefined;
}

async function askOtherShards(
  db: Db,
  shards: ShardLayout,
  { open, members, guests }: KeyedPrecondition,
  isElsewhere: (channelKey: number) => boolean,
): Promise<HoldsRow[]> {
  const parts = [
    ...open.map((channelKey) => ({ kind: 'open' as const, channelKey, uid: '' })),
    ...members.map((each) => ({ kind: 'member' as const, ...each })),
    ...guests.map((each) => ({ kind: 'guest' as const, ...each })),
  ].filter((each) => isElsewhere(each.channelKey));
  const rows = await byShard(db, shards, { items: parts, channelKeyOf: (each) => each.channelKey }, (on, each) => {
    const ofKind = (kind: string) => each.filter((part) => part.kind === kind);
    const values = shardValues({
      open: ofKind('open').map((part) => part.channelKey),
      members: ofKind('member'),
      guests: ofKind('guest'),
    });
    return shardStatement.run(on, values);
  });
  return rows.flat();
}
