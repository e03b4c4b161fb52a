import { sql } from 'kysely';
import { agentType, personType } from '../messages/channel.ts';
import { flagRecalled } from '../messages/message.ts';
import type { Db, Tx } from '../postgres/schema.ts';

/**
 * An array as PostgreSQL writes it. One statement returns it and the next one takes it, so that
 * Node parses none of its elements.
 */
type ArrayText = string;

/** A stored message. */
export interface Place {
  readonly channelKey: number;
  readonly messageSeq: number;
}

/** What became of a message. */
const kinds = { plain: 0, recalled: 1, restricted: 2, removed: 3 } as const;

/** Messages as parallel arrays. */
export interface FoundMessages {
  readonly keys: ArrayText;
  readonly seqs: ArrayText;
  readonly senders: ArrayText;
  readonly kinds: ArrayText;
}

/** Allows one question per caller over all instances; ends with the transaction. False: refused. */
export async function lockCaller(tx: Tx, callerId: string): Promise<boolean> {
  const { rows } = await sql<{ is_locked: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended('sendbatch.reach ' || ${callerId}::text, 0)) as is_locked`.execute(
    tx,
  );
  return rows[0]?.is_locked === true;
}

/** Messages of one shard as parallel arrays. */
export interface Places {
  readonly shard: number;
  readonly keys: ArrayText;
  readonly seqs: ArrayText;
}

/**
 * Where the messages of a batch are, as far as there are results: slices of at most `limit`, each
 * of one shard and in the order of the index that finds them; each message once. `uncounted`:
 * results of messages that are in no channel's history. The results are parsed where they are: 10
 * MB for 100,000 messages.
 */
export async function findPlaces(
  db: Db,
  batchId: string,
  { shards, limit }: { readonly shards: number; readonly limit: number },
): Promise<{ places: Places[]; uncounted: number }> {
  const { rows } = await sql<Omit<Places, 'shard'> & { shard: number | null; uncounted: number }>`
    with result as materialized (
      select r."channelKey" as channel_key, r."messageSeq" as message_seq
      from sendbatch.batch_chunk c
      cross join lateral json_to_recordset(c.results::json) as r("channelKey" bigint, "messageSeq" bigint, refusal json)
      where c.batch_id = ${batchId}::uuid and c.results is not null and r.refusal is null
    ), place as (
      select channel_key, message_seq, (channel_key % ${shards}::bigint)::integer as shard,
        row_number() over (partition by channel_key % ${shards}::bigint order by channel_key, message_seq) as position
      from result where channel_key is not null group by channel_key, message_seq
    )
    select shard, array_agg(channel_key)::text as keys, array_agg(message_seq)::text as seqs, 0::bigint as uncounted
    from place group by shard, (position - 1) / ${limit}::bigint
    union all
    select null, '', '', count(*) from result where channel_key is null`.execute(db);
  const places = rows.flatMap(({ shard, keys, seqs }) => (shard === null ? [] : [{ shard, keys, seqs }]));
  return { places, uncounted: rows.find(({ shard }) => shard === null)?.uncounted ?? 0 };
}

/** Finds messages of channels, without their content. */
export async function findMessages(db: Db, { keys, seqs }: Places): Promise<FoundMessages> {
  const { rows } = await sql<FoundMessages>`
    select array_agg(w.channel_key)::text as keys, array_agg(w.message_seq)::text as seqs,
      array_agg(coalesce(m.from_uid, ''))::text as senders,
      array_agg(case when m.from_uid is null then ${kinds.removed}::smallint
        when m.flags & ${flagRecalled} <> 0 then ${kinds.recalled}::smallint
        when m.is_restricted then ${kinds.restricted}::smallint else ${kinds.plain}::smallint end)::text as kinds
    from unnest(${keys}::bigint[], ${seqs}::bigint[]) as w(channel_key, message_seq)
    left join lateral (
      select m.from_uid, m.flags, m.subscribers is not null as is_restricted from sendbatch.message m
      where m.channel_key = w.channel_key and m.message_seq = w.message_seq limit 1
    ) m on true`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('an aggregate without a row');
  return row;
}

/** Counts of messages and receivers of one channel type; `channelType` 0: the channel is gone. */
export interface Counts {
  readonly channelType: number;
  readonly messages: number;
  readonly recalled: number;
  readonly removed: number;
  readonly receivers: number;
  readonly read: number;
  readonly delivered: number;
}

/** Messages of one sender to one channel, or one message with named receivers. */
export interface MessageGroup {
  readonly channelType: number;
  readonly channelKey: number;
  readonly sender: string;
  /** Ascending. */
  readonly seqs: readonly number[];
  /** Whether it is one message with named receivers. */
  readonly isRestricted: boolean;
}

/** The cursors of uid `p.uid` in channel `p.channel_key`: `read_seq` and `delivered_seq`. */
const cursorsOf = (withDelivered: boolean) => sql`
  left join lateral (
    select r.read_seq from sendbatch.read_cursor r where r.uid = p.uid and r.channel_key = p.channel_key limit 1
  ) r on true
  ${
    withDelivered
      ? sql`left join lateral (
          select d.delivered_seq from sendbatch.delivery_cursor d where d.uid = p.uid and d.channel_key = p.channel_key limit 1
        ) d on true`
      : sql`cross join (select 0::bigint as delivered_seq) d`
  }`;

/**
 * Counts messages by channel type, and the receivers of those to persons, whose uid is the other
 * side of the channel's id. Returns the other messages that have receivers in groups.
 */
export async function countMessages(
  db: Db,
  { keys, seqs, senders, kinds: kindsText }: FoundMessages,
  withDelivered: boolean,
): Promise<{ counts: Counts[]; groups: MessageGroup[] }> {
  const { rows } = await sql<{ counts: Counts[] | null; groups: MessageGroup[] | null }>`
    with found as materialized (
      select w.channel_key, w.message_seq, w.sender, w.kind, coalesce(c.channel_type, 0) as channel_type,
        case when c.channel_type = ${personType} and w.kind = ${kinds.plain} then
          case when starts_with(c.channel_id, w.sender || '@') then substr(c.channel_id, length(w.sender) + 2)
            else left(c.channel_id, -length(w.sender) - 1) end
        end as peer
      from unnest(${keys}::bigint[], ${seqs}::bigint[], ${senders}::text[], ${kindsText}::smallint[])
        as w(channel_key, message_seq, sender, kind)
      left join lateral (
        select c.channel_type, c.channel_id from sendbatch.channel c where c.channel_key = w.channel_key limit 1
      ) c on true
    ), counted as (
      select p.channel_type as "channelType", count(*) as messages,
        count(*) filter (where p.kind = ${kinds.recalled}) as recalled,
        count(*) filter (where p.kind = ${kinds.removed}) as removed, count(p.uid) as receivers,
        count(*) filter (where r.read_seq >= p.message_seq) as read,
        count(*) filter (where greatest(r.read_seq, d.delivered_seq) >= p.message_seq) as delivered
      from (
        -- A message to the sender itself has no receiver.
        select channel_key, message_seq, kind, channel_type, nullif(peer, sender) collate "C" as uid from found
      ) p
      ${cursorsOf(withDelivered)}
      group by p.channel_type
    ), grouped as (
      select channel_type as "channelType", channel_key as "channelKey", sender,
        array_agg(message_seq order by message_seq) as seqs, kind = ${kinds.restricted} as "isRestricted"
      from found
      where kind = ${kinds.restricted} or (kind = ${kinds.plain} and channel_type not in (0, ${personType}))
      group by channel_type, channel_key, sender, kind, case when kind = ${kinds.restricted} then message_seq end
    )
    select (select json_agg(counted) from counted) as counts, (select json_agg(grouped) from grouped) as groups`.execute(
    db,
  );
  return { counts: rows[0]?.counts ?? [], groups: rows[0]?.groups ?? [] };
}

/** Receivers of groups as parallel arrays: the group's number from 1, the uid, where it joined. */
export interface Receivers {
  readonly groups: ArrayText;
  readonly uids: ArrayText;
  readonly joined: ArrayText;
}

/** A group, and the uid after which its receivers are read. */
export interface GroupPart {
  readonly group: MessageGroup;
  readonly afterUid: string;
}

/**
 * Reads receivers of groups, at most `limit` per group, without the senders. `next`: the groups
 * that have more.
 */
export async function readReceivers(
  db: Db,
  parts: readonly GroupPart[],
  limit: number,
): Promise<{ receivers: Receivers | undefined; next: GroupPart[] }> {
  const { rows } = await sql<{
    groups: ArrayText | null;
    uids: ArrayText;
    joined: ArrayText;
    full: { n: number; last: string }[] | null;
  }>`
    with receiver as materialized (
      select g.n, g.sender, u.uid, u.joined
      from unnest(${parts.map(({ group }) => group.channelKey)}::bigint[], ${parts.map(({ group }) => group.seqs[0] ?? 0)}::bigint[],
        ${parts.map(({ group }) => group.sender)}::text[], ${parts.map(({ group }) => group.isRestricted)}::boolean[],
        ${parts.map(({ afterUid }) => afterUid)}::text[], ${parts.map(({ group }) => group.channelType)}::smallint[])
        with ordinality as g(channel_key, message_seq, sender, is_restricted, after_uid, channel_type, n)
      cross join lateral (
        (select u.uid, coalesce(u.joined_seq, 0) as joined from sendbatch.channel_uid u
        where not g.is_restricted and u.channel_key = g.channel_key and u.uid > g.after_uid and u.member
          and (not u.denied or g.channel_type = ${agentType})
        order by u.uid limit ${limit})
        union all
        (select named.uid collate "C", 0 from (
          select jsonb_array_elements_text(m.subscribers) as uid from sendbatch.message m
          where g.is_restricted and m.channel_key = g.channel_key and m.message_seq = g.message_seq
            and m.subscribers is not null
        ) named where named.uid collate "C" > g.after_uid order by 1 limit ${limit})
      ) u
    ), others as (
      select n, uid, joined from receiver where uid <> sender
    )
    select array_agg(n)::text as groups, array_agg(uid)::text as uids, array_agg(joined)::text as joined, (
      select json_agg(each) from (
        select n, max(uid) as last from receiver group by n having count(*) = ${limit}
      ) each
    ) as full
    from others`.execute(db);
  const [row] = rows;
  const next = (row?.full ?? []).flatMap(({ n, last }) => {
    const group = parts[n - 1]?.group;
    return group === undefined ? [] : [{ group, afterUid: last }];
  });
  const { groups = null, uids = '', joined = '' } = row ?? {};
  return { receivers: groups === null ? undefined : { groups, uids, joined }, next };
}

/** Counts receivers by channel type, and whose cursors have reached the messages of their group. */
export async function countReceivers(
  db: Db,
  parts: readonly GroupPart[],
  { groups, uids, joined }: Receivers,
  withDelivered: boolean,
): Promise<Pick<Counts, 'channelType' | 'receivers' | 'read' | 'delivered'>[]> {
  // width_bucket: how many of the group's sequences are at or below a cursor, by binary search.
  const { rows } = await sql<Pick<Counts, 'channelType' | 'receivers' | 'read' | 'delivered'>>`
    with groups as materialized (
      select g.channel_type, g.channel_key, g.seqs::bigint[] as seqs, g.n
      from unnest(${parts.map(({ group }) => group.channelType)}::smallint[], ${parts.map(({ group }) => group.channelKey)}::bigint[],
        ${parts.map(({ group }) => `{${group.seqs.join(',')}}`)}::text[]) with ordinality
        as g(channel_type, channel_key, seqs, n)
    )
    select p.channel_type as "channelType", sum(p.after_joining)::bigint as receivers,
      sum(greatest(0, p.after_joining - p.total + width_bucket(coalesce(r.read_seq, 0), p.seqs)))::bigint as read,
      sum(greatest(0, p.after_joining - p.total + width_bucket(coalesce(greatest(r.read_seq, d.delivered_seq), 0), p.seqs)))::bigint as delivered
    from (
      select g.channel_type, g.channel_key, g.seqs, u.uid collate "C" as uid, cardinality(g.seqs) as total,
        cardinality(g.seqs) - width_bucket(u.joined, g.seqs) as after_joining
      from unnest(${groups}::bigint[], ${uids}::text[], ${joined}::bigint[]) as u(n, uid, joined)
      join groups g on g.n = u.n
    ) p
    ${cursorsOf(withDelivered)}
    group by p.channel_type`.execute(db);
  return rows;
}

/** Who may be a reader of one message. */
export interface Candidates extends Place {
  readonly channelType: number;
  readonly sender: string;
}

/**
 * The receivers of a message after a uid, in the order of uids (bytes), without the sender.
 * `isRestricted`: it names them.
 */
export async function listReceivers(
  db: Db,
  { channelType, channelKey, messageSeq, sender }: Candidates,
  {
    isRestricted,
    afterUid,
    limit,
  }: { readonly isRestricted: boolean; readonly afterUid: string; readonly limit: number },
): Promise<string[]> {
  const { rows } = isRestricted
    ? await sql<{ uid: string }>`
        select named.uid from (
          select jsonb_array_elements_text(m.subscribers) collate "C" as uid from sendbatch.message m
          where m.channel_key = ${channelKey} and m.message_seq = ${messageSeq} and m.subscribers is not null
        ) named
        where named.uid > ${afterUid} and named.uid <> ${sender} order by named.uid limit ${limit}`.execute(db)
    : await sql<{ uid: string }>`
        select u.uid from sendbatch.channel_uid u
        where u.channel_key = ${channelKey} and u.uid > ${afterUid} and u.uid <> ${sender} and u.member
          and (not u.denied or ${channelType === personType || channelType === agentType})
          and coalesce(u.joined_seq, 0) < ${messageSeq}::bigint
        order by u.uid limit ${limit}`.execute(db);
  return rows.map((row) => row.uid);
}

/** Those of these users whose read cursor has reached a message, in the order of uids (bytes). */
export async function selectReaders(
  db: Db,
  { channelKey, messageSeq }: Place,
  uids: readonly string[],
): Promise<string[]> {
  const { rows } = await sql<{ uid: string }>`
    select w.uid from unnest(${[...uids]}::text[]) with ordinality as w(uid, position)
    cross join lateral (
      select from sendbatch.read_cursor r
      where r.uid = w.uid and r.channel_key = ${channelKey} and r.read_seq >= ${messageSeq}::bigint limit 1
    ) r
    order by w.position`.execute(db);
  return rows.map((row) => row.uid);
}
