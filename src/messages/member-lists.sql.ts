import { type RawBuilder, sql } from 'kysely';
import type { Db, Tx } from '../postgres/schema.ts';
import { type Channel, channel, messageSequence, tempType } from './channel.ts';
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
    on conflict (${infoKey}) do update set updated_at = ${now}`.execute(tx);
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

/** Adds uids to a list of a locked owner. Entries that exist stay unchanged. */
export async function addUids(
  tx: Tx,
  owner: ListOwner,
  list: List,
  uids: readonly string[],
  now: number,
): Promise<void> {
  const { uids: table, key, value } = at(owner);
  const column = sql.ref(list);
  if (owner.kind === 'channel' && list === 'member') return await addMembers(tx, owner.channelKey, uids, now);
  for (const chunk of chunksOf(uids)) {
    await sql`
      insert into ${table} as u (${key}, uid, created_at, updated_at, ${column})
      select ${value}, uid, ${now}::bigint, ${now}::bigint, true from unnest(${chunk}::text[]) as w(uid)
      on conflict (${key}, uid) do update set ${column} = true, updated_at = ${now} where not u.${column}`.execute(tx);
  }
}

/**
 * Records the heads of the channel and its commands with each new member. They decide what a member
 * receives from joining on, which clocks cannot: what is sent after the change was answered has a
 * later sequence.
 */
async function addMembers(tx: Tx, channelKey: number, uids: readonly string[], now: number): Promise<void> {
  for (const chunk of chunksOf(uids)) {
    await sql`
      insert into sendbatch.channel_uid as u
        (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
      select ${channelKey}, w.uid, ${now}::bigint, ${now}::bigint, true, stand.seq, stand.command_seq
      from unnest(${chunk}::text[]) as w(uid), (
        select coalesce(max(h.last_seq) filter (where k.sequence = 0), 0) as seq,
          coalesce(max(h.last_seq) filter (where k.sequence = 1), 0) as command_seq
        from sendbatch.channel c
        join sendbatch.channel k on k.channel_id = c.channel_id and k.channel_type = c.channel_type
        join sendbatch.channel_head h on h.channel_key = k.channel_key
        where c.channel_key = ${channelKey}
      ) stand
      on conflict (channel_key, uid) do update set member = true, updated_at = ${now},
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

export async function addSystemUids(db: Db, uids: readonly string[]): Promise<void> {
  await sql`insert into sendbatch.system_uid (uid) select unnest(${uids}::text[]) on conflict do nothing`.execute(db);
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

/**
 * The channels `c` with flags `i` that a member `u` sees: without those that deny it, and without
 * those that only carry commands to a set of receivers and were never created by name.
 */
export const followed = (uid: string) => sql<boolean>`u.uid = ${uid} and u.member
  and (not u.denied or c.channel_type in (1, 11)) and i.disband is not true
  and (c.channel_type <> ${tempType} or i.channel_key is not null)`;

/** Lists channels of a user that it may read, at most `limit`. */
export async function memberChannels(db: Db, uid: string, limit: number): Promise<MemberChannel[]> {
  const { rows } = await sql<{
    channel_key: number;
    channel_id: string;
    channel_type: number;
    last_seq: number;
    last_change: number | null;
    joined_after: number;
  }>`
    select u.channel_key, c.channel_id, c.channel_type, h.last_seq, h.last_change,
      coalesce(u.joined_seq, case when c.channel_type in (1, 8, 11) then 0 else (
        ${firstSeqSince(sql`u.channel_key`, sql`u.created_at`)}
      ) - 1 end) as joined_after
    from sendbatch.channel_uid u
    join sendbatch.channel c using (channel_key)
    join sendbatch.channel_head h using (channel_key)
    left join sendbatch.channel_info i using (channel_key)
    where ${followed(uid)}
    order by u.channel_key limit ${limit}`.execute(db);
  return rows.map((row) => ({
    channel: channel(row.channel_type, row.channel_id, messageSequence),
    channelKey: row.channel_key,
    lastSeq: row.last_seq,
    lastChange: row.last_change ?? 0,
    joinedAfterSeq: row.joined_after,
  }));
}
