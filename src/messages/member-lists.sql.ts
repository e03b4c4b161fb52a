import { type RawBuilder, sql } from 'kysely';
import { mapByShard, overShards } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { Statement } from '../postgres/sql.ts';
import { agentType, type Channel, personType, tempType } from './channel.ts';
import type { ChannelStore } from './channel-keys.sql.ts';
import { firstSeqSince } from './messages-read.sql.ts';

/** The owner of flags and lists: a channel, by its key, or a user. */
export type ListOwner =
  | { readonly kind: 'channel'; readonly channelKey: number }
  | { readonly kind: 'person'; readonly uid: string };

/** The lists of an owner. A user has no members. */
export type List = 'member' | 'denied' | 'allowed';

/** The flags of an owner. */
export interface Flags {
  readonly large: boolean;
  readonly ban: boolean;
  readonly disband: boolean;
  readonly sendBan: boolean;
  readonly allowStranger: boolean;
}

/** A uid on a list; times in milliseconds since 1970. */
export interface Listed {
  readonly uid: string;
  readonly createdAt: number;
  readonly updatedAt: number;
}

/** Uids per statement. */
const chunkUids = 10_000;
/** Memberships per statement where all of a user are read. */
const membershipsAtOnce = 10_000;

const tables = {
  channel: {
    info: 'sendbatch.channel_info',
    infoKey: 'channel_key',
    uids: 'sendbatch.channel_uid',
    key: 'channel_key',
  },
  person: { info: 'sendbatch.person', infoKey: 'uid', uids: 'sendbatch.person_uid', key: 'owner' },
} as const;

function at(owner: ListOwner) {
  const { info, infoKey, uids, key } = tables[owner.kind];
  return {
    info: sql.table(info),
    infoKey: sql.ref(infoKey),
    uids: sql.table(uids),
    key: sql.ref(key),
    value: owner.kind === 'channel' ? owner.channelKey : owner.uid,
  };
}

/** Reads the flags of an owner; undefined when it was never created. */
export async function readFlags(db: Db, owner: ListOwner): Promise<Flags | undefined> {
  const { info, infoKey, value } = at(owner);
  const { rows } = await sql<{
    large: boolean;
    ban: boolean;
    disband: boolean;
    send_ban: boolean;
    allow_stranger: boolean;
  }>`
    select large, ban, disband, send_ban, allow_stranger from ${info} where ${infoKey} = ${value}`.execute(db);
  const [row] = rows;
  return row && { ...row, sendBan: row.send_ban, allowStranger: row.allow_stranger };
}

/**
 * Creates an owner if it is missing, and locks it until the transaction ends: changes of its lists
 * are serialized.
 */
export async function createAndLockListOwner(tx: Tx, owner: ListOwner, now: number): Promise<void> {
  const { info, infoKey, value } = at(owner);
  await sql`
    insert into ${info} (${infoKey}, created_at, updated_at) values (${value}, ${now}, ${now})
    on conflict (${infoKey}) do update set updated_at = excluded.updated_at`.execute(tx);
}

/**
 * Locks an existing owner until the transaction ends. A missing one is not created, and nothing is
 * locked.
 */
export async function lockListOwner(tx: Tx, owner: ListOwner, now: number): Promise<void> {
  const { info, infoKey, value } = at(owner);
  await sql`update ${info} set updated_at = ${now} where ${infoKey} = ${value}`.execute(tx);
}

/** Sets all flags of a locked owner. */
export async function setFlags(tx: Tx, owner: ListOwner, flags: Flags): Promise<void> {
  const { info, infoKey, value } = at(owner);
  await sql`
    update ${info} set large = ${flags.large}, ban = ${flags.ban}, disband = ${flags.disband},
      send_ban = ${flags.sendBan}, allow_stranger = ${flags.allowStranger}
    where ${infoKey} = ${value}`.execute(tx);
}

/** Disbands a locked channel; its other flags stay. */
export async function disband(tx: Tx, owner: ListOwner): Promise<void> {
  const { info, infoKey, value } = at(owner);
  await sql`update ${info} set disband = true where ${infoKey} = ${value}`.execute(tx);
}

/**
 * Adds uids to the denylist or allowlist of a locked owner. Entries that exist stay unchanged.
 */
export async function addUids(
  tx: Tx,
  owner: ListOwner,
  list: Exclude<List, 'member'>,
  uids: readonly string[],
  now: number,
): Promise<void> {
  const { uids: table, key, value } = at(owner);
  const column = sql.ref(list);
  for (const chunk of chunksOf(uids)) {
    await sql`
      insert into ${table} as u (${key}, uid, created_at, updated_at, ${column})
      select ${value}, uid, ${now}::bigint, ${now}::bigint, true from unnest(${chunk}::text[]) as w(uid)
      on conflict (${key}, uid) do update set ${column} = true, updated_at = excluded.updated_at where not u.${column}`.execute(
      tx,
    );
  }
}

/** The last sequences of a channel and of its commands, read after the channel was locked. */
export interface JoinedAt {
  readonly seq: number;
  readonly commandSeq: number;
}

/**
 * Adds members to a locked channel. The heads are recorded with each new one. They decide what a
 * member receives from joining on, which clocks cannot: what is sent after the change was answered
 * has a later sequence.
 */
export async function addMembers(
  tx: Tx,
  channelKey: number,
  uids: readonly string[],
  { seq, commandSeq }: JoinedAt,
  now: number,
): Promise<void> {
  for (const chunk of chunksOf(uids)) {
    await sql`
      insert into sendbatch.channel_uid as u
        (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
      select ${channelKey}, w.uid, ${now}::bigint, ${now}::bigint, true, ${seq}::bigint, ${commandSeq}::bigint
      from unnest(${chunk}::text[]) as w(uid)
      on conflict (channel_key, uid) do update set member = true, updated_at = excluded.updated_at,
        joined_seq = excluded.joined_seq, joined_command_seq = excluded.joined_command_seq
      where not u.member`.execute(tx);
  }
}

/** Removes uids, or all, from a list of a locked owner. */
export async function removeUids(
  tx: Tx,
  owner: ListOwner,
  list: List,
  uids: readonly string[] | 'all',
  now: number,
): Promise<void> {
  if (uids === 'all') return await removeWhere(tx, owner, list, sql`true`, now);
  for (const chunk of chunksOf(uids)) await removeWhere(tx, owner, list, sql`uid = any(${chunk}::text[])`, now);
}

/** Deletes rows that are on no list any more. */
async function removeWhere(
  tx: Tx,
  owner: ListOwner,
  list: List,
  which: RawBuilder<unknown>,
  now: number,
): Promise<void> {
  const { uids, key, value } = at(owner);
  const others = (
    owner.kind === 'channel' ? (['member', 'denied', 'allowed'] as const) : (['denied', 'allowed'] as const)
  ).filter((other) => other !== list);
  const elsewhere = sql.join(
    others.map((other) => sql.ref(other)),
    sql` or `,
  );
  const listed = sql`${key} = ${value} and ${sql.ref(list)} and ${which}`;
  await sql`delete from ${uids} where ${listed} and not (${elsewhere})`.execute(tx);
  await sql`update ${uids} set ${sql.ref(list)} = false, updated_at = ${now} where ${listed}`.execute(tx);
}

/** Reads a page of a list, ordered by uid: at most `limit` entries after `after`. */
export async function listUids(db: Db, owner: ListOwner, list: List, after: string, limit: number): Promise<Listed[]> {
  const { uids, key, value } = at(owner);
  const { rows } = await sql<{ uid: string; created_at: number; updated_at: number }>`
    select uid, created_at, updated_at from ${uids}
    where ${key} = ${value} and ${sql.ref(list)} and uid > ${after}
    order by uid limit ${limit}`.execute(db);
  return rows.map((row) => ({ uid: row.uid, createdAt: row.created_at, updatedAt: row.updated_at }));
}

/** Returns how many there are then. */
export async function addSystemUids(db: Db, uids: readonly string[]): Promise<number> {
  await sql`insert into sendbatch.system_uid (uid) select unnest(${uids}::text[]) on conflict do nothing`.execute(db);
  const { rows } = await sql<{ count: number }>`select count(*)::int as count from sendbatch.system_uid`.execute(db);
  return rows[0]?.count ?? 0;
}

export async function removeSystemUids(db: Db, uids: readonly string[]): Promise<void> {
  await sql`delete from sendbatch.system_uid where uid = any(${uids}::text[])`.execute(db);
}

export async function listSystemUids(db: Db): Promise<string[]> {
  const rows = await db.selectFrom('sendbatch.system_uid').select('uid').orderBy('uid').execute();
  return rows.map((row) => row.uid);
}

function* chunksOf(uids: readonly string[]): Iterable<string[]> {
  const distinct = [...new Set(uids)];
  for (let start = 0; start < distinct.length; start += chunkUids) yield distinct.slice(start, start + chunkUids);
}

/** A channel of which a user is a member. */
export interface MemberChannel {
  readonly channel: Channel;
  readonly channelKey: number;
  readonly lastSeq: number;
  readonly lastChange: number;
  /**
   * The last sequence before the user joined; 0 for channels that are created with their members.
   */
  readonly joinedAfterSeq: number;
}

interface MembershipRow {
  readonly channel_key: number;
  readonly is_made: boolean;
  readonly denied: boolean;
}

/** Probes: a plain join is planned as a scan while the table is empty. */
const flagsOfMember = `
    left join lateral (select * from sendbatch.channel_info i where i.channel_key = u.channel_key limit 1) i on true`;

const membershipStatement = new Statement<MembershipRow>({
  name: 'memberships of a user',
  byKey: true,
  text: `
    select u.channel_key, i.channel_key is not null as is_made, u.denied
    from sendbatch.channel_uid u
    ${flagsOfMember}
    where u.uid = $1 and u.member and i.disband is not true and u.channel_key > $2
    order by u.channel_key limit $3`,
});

/** The keys of the channels that a user sees, in no order. */
export async function followedKeys(store: ChannelStore, uid: string): Promise<number[]> {
  const keys: number[] = [];
  for await (const page of membershipPages(store, membershipStatement, uid, membershipsAtOnce))
    for (const { row } of page) keys.push(row.channel_key);
  return keys;
}

interface FollowedRow extends MembershipRow {
  readonly last_seq: number;
  readonly last_change: number | null;
  readonly joined_seq: number | null;
  readonly created_at: number;
}

const followedStatement = new Statement<FollowedRow>({
  name: 'channels of a user',
  byKey: true,
  text: `
    select u.channel_key, i.channel_key is not null as is_made, u.denied,
      h.last_seq, h.last_change, u.joined_seq, u.created_at
    from sendbatch.channel_uid u
    cross join lateral (select * from sendbatch.channel_head h where h.channel_key = u.channel_key limit 1) h
    ${flagsOfMember}
    where u.uid = $1 and u.member and i.disband is not true and u.channel_key > $2
    order by u.channel_key limit $3`,
});

/** Lists at most `limit` channels of a user that it may read, by key. */
export async function memberChannels(store: ChannelStore, uid: string, limit: number): Promise<MemberChannel[]> {
  const found: Followed<FollowedRow>[] = [];
  for await (const page of membershipPages(store, followedStatement, uid, limit)) {
    for (const each of page) found.push(each);
    if (found.length >= limit) break;
  }
  found.sort((a, b) => a.row.channel_key - b.row.channel_key);
  if (found.length > limit) found.length = limit;
  const unrecorded = found.filter(({ row, channel }) => row.joined_seq === null && !hasFirstMembers(channel));
  const joined =
    unrecorded.length === 0
      ? undefined
      : await joinedSeqs(
          store,
          unrecorded.map(({ row }) => row),
        );
  return found.map(({ row, channel }) => ({
    channel,
    channelKey: row.channel_key,
    lastSeq: row.last_seq,
    lastChange: row.last_change ?? 0,
    joinedAfterSeq: row.joined_seq ?? joined?.get(row.channel_key) ?? 0,
  }));
}

/**
 * By channel key: the last sequence before members joined that a version added which recorded none.
 */
async function joinedSeqs(
  { db, shards }: ChannelStore,
  rows: readonly { readonly channel_key: number; readonly created_at: number }[],
): Promise<Map<number, number>> {
  const createdAt = new Map(rows.map((row) => [row.channel_key, row.created_at]));
  return await mapByShard(db, shards, createdAt.keys(), async (shard, keys) => {
    const { rows: found } = await sql<{ channel_key: number; seq: number }>`
      select w.channel_key, (${firstSeqSince(sql`w.channel_key`, sql`w.created_at`)}) - 1 as seq
      from unnest(${keys}::bigint[], ${keys.map((key) => createdAt.get(key))}::bigint[]) as w(channel_key, created_at)`.execute(
      shard,
    );
    return new Map(found.map((row) => [row.channel_key, row.seq]));
  });
}

/** A channel that a user sees, and its row. */
interface Followed<Row> {
  readonly row: Row;
  readonly channel: Channel;
}

/**
 * Reads the memberships of a user from all shards, `limit` of each at a time, without those of
 * channels that the user does not see.
 */
async function* membershipPages<Row extends MembershipRow>(
  { db, shards, channelKeys }: ChannelStore,
  statement: Statement<Row>,
  uid: string,
  limit: number,
): AsyncGenerator<Followed<Row>[]> {
  /** The last key that was read of each shard that has more. */
  const cursors = new Map(shards.all.map((shard) => [shard, -1]));
  while (cursors.size > 0) {
    const asked = [...cursors.keys()];
    const pages = await overShards(db, asked, (connection, shard) =>
      statement.run(connection, [uid, cursors.get(shard), limit]),
    );
    const names = await channelKeys.names(pages.flat().map((row) => row.channel_key));
    for (const [index, shard] of asked.entries()) {
      const rows = pages[index] ?? [];
      yield rows.flatMap((row) => {
        const channel = names.get(row.channel_key);
        return channel !== undefined && isFollowed(row, channel) ? [{ row, channel }] : [];
      });
      const last = rows.at(-1)?.channel_key;
      if (last === undefined || rows.length < limit) cursors.delete(shard);
      else cursors.set(shard, last);
    }
  }
}

/**
 * Whether a member sees a channel: not when it is denied, nor when the channel only carries
 * commands to a set of receivers and was never created by name.
 */
function isFollowed({ is_made: isMade, denied }: MembershipRow, { type }: Channel): boolean {
  return (!denied || type === personType || type === agentType) && (isMade || type !== tempType);
}

/** Whether channels of this type are created with their members. */
export const hasFirstMembers = ({ type }: Pick<Channel, 'type'>): boolean =>
  type === personType || type === tempType || type === agentType;
