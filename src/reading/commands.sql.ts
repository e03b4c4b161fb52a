import { type RawBuilder, sql } from 'kysely';
import { limits } from '../limits.ts';
import { agentType, personType, tempType } from '../messages/channel.ts';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { alive, type MessageRow, messageColumns, toStored, withSizesBefore } from '../messages/message-select.sql.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import { bigintArray, int8Values } from '../postgres/binary-array.ts';
import { byShard, overShards } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import type { ShardLayout } from '../postgres/shards.ts';
import { runByKey } from '../postgres/sql.ts';

/** A command with its number in the user's own sequence. */
export interface Command {
  readonly commandSeq: number;
  readonly channelId: string;
  readonly channelType: number;
  readonly message: StoredMessage;
}

/** Commands examined per statement. */
const examinedAtOnce = 20_000;
/** Channels examined per statement. */
const channelsAtOnce = 500;
/** Statements per call; what they leave, after a million commands, is for the next call. */
const mostRounds = 50;

/** Locks a user's head until the transaction ends. */
async function lockHead(tx: Tx, uid: string): Promise<{ lastSeq: number; ackedSeq: number }> {
  const { rows } = await sql<{ last_seq: number; acked_seq: number }>`
    insert into sendbatch.command_head as h (uid) values (${uid})
    on conflict (uid) do update set uid = h.uid
    returning last_seq, acked_seq`.execute(tx);
  const [row] = rows;
  if (row === undefined) throw new Error('the head of a user has no row');
  return { lastSeq: row.last_seq, ackedSeq: row.acked_seq };
}

/** Commands of a user, and the last number assigned to it. */
export interface SyncedCommands {
  readonly commands: readonly Command[];
  readonly lastSeq: number;
}

/**
 * Numbers new commands of a user's channels in the user's own sequence, and returns those after
 * `after` that are not acknowledged: at most `limit`, and of large ones no more than a page and one
 * command.
 */
export async function syncCommands(
  store: ChannelStore,
  uid: string,
  after: number,
  limit: number,
  now: number,
): Promise<SyncedCommands> {
  const { lastSeq, found } = await store.db.transaction().execute(async (tx) => {
    const head = await lockHead(tx, uid);
    if (after > head.lastSeq) return { lastSeq: head.lastSeq, found: [] };
    let taken = 0;
    let due = await dueChannels(tx, store, uid);
    // Until everything is examined or enough is found. Nothing is skipped.
    for (let round = 0; due.length > 0 && taken < limit && round < mostRounds; round++) {
      const part = due.slice(0, channelsAtOnce);
      const examined = await takeCommands(tx, store, part, { uid, lastSeq: head.lastSeq + taken, now });
      taken += examined.taken;
      due = [...examined.left, ...due.slice(channelsAtOnce)];
    }
    const lastSeq = head.lastSeq + taken;
    if (taken > 0) await sql`update sendbatch.command_head set last_seq = ${lastSeq} where uid = ${uid}`.execute(tx);
    return { lastSeq, found: await readInbox(tx, store, { uid, after: Math.max(after, head.ackedSeq), limit, now }) };
  });
  const names = await store.channelKeys.names(found.map((each) => each.channelKey));
  const commands = found.flatMap(({ commandSeq, channelKey, message }) => {
    const channel = names.get(channelKey);
    return channel === undefined ? [] : [{ commandSeq, channelId: channel.id, channelType: channel.type, message }];
  });
  return { commands, lastSeq };
}

/** A channel with commands that were not examined for the user yet. */
interface Due {
  readonly channelKey: number;
  readonly examinedSeq: number;
  readonly lastSeq: number;
  /**
   * Commands before this time are not for the member: one added by a version that recorded no
   * sequence.
   */
  readonly since: number;
}

interface DueRow {
  readonly channel_key: number;
  readonly examined_seq: number;
  readonly last_seq: number;
  readonly since: number;
}

const toDue = (row: DueRow): Due => ({
  channelKey: row.channel_key,
  examinedSeq: row.examined_seq,
  lastSeq: row.last_seq,
  since: row.since,
});

/** Columns of rows, as arrays in PostgreSQL's binary format. */
interface Packed {
  readonly keys: Buffer | null;
  readonly seqs: Buffer | null;
  readonly times: Buffer | null;
}

/** The channels with new commands of a user, by key. */
async function dueChannels(tx: Tx, { shards }: ChannelStore, uid: string): Promise<Due[]> {
  return shards.count === 1 ? await dueInOneShard(tx, uid) : await dueOverShards(tx, shards, uid);
}

/**
 * Channels of a user from which on a statement is planned for their number, in about 2 ms: by key
 * it would take three times as long for 20,000.
 */
const manyChannels = 200;

async function runFor<Row>(hasMany: boolean, tx: Tx, name: string, query: RawBuilder<Row>): Promise<readonly Row[]> {
  return hasMany ? (await query.execute(tx)).rows : await runByKey(tx, name, query);
}

async function hasManyChannels(tx: Tx, uid: string): Promise<boolean> {
  const query = sql<{ count: number }>`
    select count(*)::integer as count
    from (select from sendbatch.channel_uid where uid = ${uid} and member limit ${manyChannels}) as counted`;
  const [row] = await runByKey(tx, 'number of channels of a user', query);
  return row?.count === manyChannels;
}

/** One statement where one schema has all tables: half of the time for 20,000 channels. */
async function dueInOneShard(tx: Tx, uid: string): Promise<Due[]> {
  const hasMany = await hasManyChannels(tx, uid);
  const query = sql<DueRow>`
    select k.channel_key, h.last_seq, greatest(t.taken_seq, u.joined_command_seq, 0) as examined_seq,
      case when u.joined_command_seq is null and c.channel_type not in (${createdWithMembers}) then u.created_at else 0 end as since
    from sendbatch.channel_uid u
    join sendbatch.channel c on c.channel_key = u.channel_key
    join sendbatch.channel k on k.channel_id = c.channel_id and k.channel_type = c.channel_type and k.sequence = 1
    join sendbatch.channel_head h on h.channel_key = k.channel_key
    left join sendbatch.channel_info i on i.channel_key = u.channel_key
    left join sendbatch.command_taken t on t.uid = ${uid} and t.channel_key = k.channel_key
    where u.uid = ${uid} and u.member and i.disband is not true
      and h.last_seq > greatest(t.taken_seq, u.joined_command_seq, 0)
    order by k.channel_key`;
  return (await runFor(hasMany, tx, 'channels with new commands', query)).map(toDue);
}

/**
 * The same where each shard has its own tables. Columns stay packed: most users are members of many
 * channels without new commands.
 */
async function dueOverShards(tx: Tx, shards: ShardLayout, uid: string): Promise<Due[]> {
  const joined = await overShards(tx, shards.all, async (shard) => {
    const query = sql<Packed>`
      select array_send(array_agg(u.channel_key)) as keys, array_send(array_agg(coalesce(u.joined_command_seq, 0))) as seqs,
        array_send(array_agg(case when u.joined_command_seq is null then u.created_at else 0 end)) as times
      from sendbatch.channel_uid u left join sendbatch.channel_info i using (channel_key)
      where u.uid = ${uid} and u.member and i.disband is not true`;
    return await runByKey(shard, 'packed channels of a user', query);
  });
  const member = joinPacked(joined.flat());
  if (member.keys === null) return [];
  const query = sql<Packed>`
    select array_send(array_agg(k.channel_key)) as keys,
      array_send(array_agg(greatest(t.taken_seq, u.joined_seq))) as seqs,
      array_send(array_agg(case when c.channel_type in (${createdWithMembers}) then 0 else u.since end)) as times
    from unnest(${member.keys}::bigint[], ${member.seqs}::bigint[], ${member.times}::bigint[]) as u(channel_key, joined_seq, since)
    join sendbatch.channel c on c.channel_key = u.channel_key
    join sendbatch.channel k on k.channel_id = c.channel_id and k.channel_type = c.channel_type and k.sequence = 1
    left join sendbatch.command_taken t on t.uid = ${uid} and t.channel_key = k.channel_key`;
  const hasMany = int8Values(member.keys).length >= manyChannels;
  const [commands] = await runFor(hasMany, tx, 'packed channels of commands', query);
  if (commands === undefined || commands.keys === null) return [];
  const [keys, seqs, times] = [commands.keys, commands.seqs, commands.times].map((column) => int8Values(column));
  const places = { items: [...(keys ?? []).keys()], channelKeyOf: (place: number) => keys?.[place] ?? 0 };
  const due = await byShard(tx, shards, places, (shard, own) => {
    const column = (of: Float64Array | undefined) => bigintArray(own.map((place) => of?.[place] ?? 0));
    return behindHeads(shard, { keys: column(keys), seqs: column(seqs), times: column(times) });
  });
  return due.flat().sort((a, b) => a.channelKey - b.channelKey);
}

/** Those of these channels of commands whose heads are above what was examined, by key. */
async function behindHeads(shard: Tx, { keys, seqs, times }: Packed): Promise<Due[]> {
  const query = sql<DueRow>`
    select w.channel_key, w.examined_seq, w.since, h.last_seq
    from unnest(${keys}::bigint[], ${seqs}::bigint[], ${times}::bigint[]) as w(channel_key, examined_seq, since)
    join sendbatch.channel_head h on h.channel_key = w.channel_key
    where h.last_seq > w.examined_seq
    order by w.channel_key`;
  return (await runByKey(shard, 'channels behind their heads', query)).map(toDue);
}

const channelKeyOf = ({ channelKey }: { readonly channelKey: number }) => channelKey;
const createdWithMembers = sql.raw([personType, tempType, agentType].join(', '));

/** The columns of several shards as those of one. */
function joinPacked(rows: readonly Packed[]): Packed {
  const filled = rows.filter((row) => row.keys !== null);
  const [first] = filled;
  if (filled.length <= 1) return first ?? { keys: null, seqs: null, times: null };
  const column = (of: (row: Packed) => Buffer | null) => bigintArray(filled.flatMap((row) => [...int8Values(of(row))]));
  return { keys: column(({ keys }) => keys), seqs: column(({ seqs }) => seqs), times: column(({ times }) => times) };
}

/**
 * Examines the next commands of these channels, each in sequence order up to the head that was
 * read, and gives those for the user the numbers after `lastSeq`. `command_taken` records how far a
 * channel is examined, so that commands for others are passed over once. Returns what is left of
 * the channels.
 */
async function takeCommands(
  tx: Tx,
  { shards }: ChannelStore,
  due: readonly Due[],
  { uid, lastSeq, now }: { readonly uid: string; readonly lastSeq: number; readonly now: number },
): Promise<{ taken: number; left: Due[] }> {
  const examined = await byShard(tx, shards, { items: due, channelKeyOf }, (shard, own) =>
    examine(shard, own, uid, now),
  );
  const keys = examined.flatMap((each) => each.keys);
  const seqs = examined.flatMap((each) => each.seqs);
  const upTo = examined.flatMap((each) => each.upTo);
  if (keys.length > 0)
    await sql`
      insert into sendbatch.command_inbox (uid, command_seq, channel_key, message_seq)
      select ${uid}, ${lastSeq}::bigint + w.ordinal, w.channel_key, w.message_seq
      from unnest(${bigintArray(keys)}::bigint[], ${bigintArray(seqs)}::bigint[])
        with ordinality as w(channel_key, message_seq, ordinal)`.execute(tx);
  await sql`
    insert into sendbatch.command_taken (uid, channel_key, taken_seq)
    select ${uid}, w.channel_key, w.taken_seq
    from unnest(${bigintArray(upTo.map(channelKeyOf))}::bigint[], ${bigintArray(upTo.map((each) => each.seq))}::bigint[])
      as w(channel_key, taken_seq)
    on conflict (uid, channel_key) do update set taken_seq = excluded.taken_seq`.execute(tx);
  const seqOf = new Map(upTo.map(({ channelKey, seq }) => [channelKey, seq]));
  const left = due
    .map((each) => ({ ...each, examinedSeq: seqOf.get(each.channelKey) ?? each.examinedSeq }))
    .filter((each) => each.examinedSeq < each.lastSeq);
  return { taken: keys.length, left };
}

/** What was examined in a shard. */
interface Examined {
  /** The commands for the user, by channel and sequence. */
  readonly keys: readonly number[];
  readonly seqs: readonly number[];
  /** How far channels are examined. */
  readonly upTo: readonly { readonly channelKey: number; readonly seq: number }[];
}

/** Examines at most `examinedAtOnce` commands of channels of a shard. */
async function examine(shard: Db, due: readonly Due[], uid: string, now: number): Promise<Examined> {
  const column = (of: (each: Due) => number) => sql`${bigintArray(due.map(of))}::bigint[]`;
  const query = sql<{
    keys: Buffer | null;
    seqs: Buffer | null;
    examined: number;
    last_key: number | null;
    last_seq: number | null;
  }>`
    with examined as materialized (
      select d.channel_key, m.message_seq, m.mine
      from unnest(${column(channelKeyOf)}, ${column((each) => each.examinedSeq)}, ${column((each) => each.lastSeq)},
        ${column((each) => each.since)}) as d(channel_key, examined_seq, last_seq, since)
      cross join lateral (
        select m.message_seq, (m.subscribers ? ${uid} or (m.subscribers is null and m.from_uid <> ${uid}))
          and m.accepted_at >= d.since and ${alive(now)} as mine
        from sendbatch.message m
        where m.channel_key = d.channel_key and m.message_seq > d.examined_seq and m.message_seq <= d.last_seq
        order by m.message_seq limit ${examinedAtOnce}
      ) m
      order by d.channel_key, m.message_seq limit ${examinedAtOnce}
    ), last as (
      select channel_key, message_seq from examined order by channel_key desc, message_seq desc limit 1
    )
    select array_send(array_agg(channel_key order by channel_key, message_seq) filter (where mine)) as keys,
      array_send(array_agg(message_seq order by channel_key, message_seq) filter (where mine)) as seqs,
      count(*) as examined, (select channel_key from last) as last_key, (select message_seq from last) as last_seq
    from examined`;
  const [row] = await runByKey(shard, 'examine commands', query);
  if (row === undefined) throw new Error('an aggregate returned no row');
  const { last_key: lastKey, last_seq: lastSeq } = row;
  const isCut = row.examined === examinedAtOnce && lastKey !== null && lastSeq !== null;
  const upTo = due.flatMap((each) => {
    if (!isCut || each.channelKey < lastKey) return [{ channelKey: each.channelKey, seq: each.lastSeq }];
    return each.channelKey === lastKey ? [{ channelKey: lastKey, seq: lastSeq }] : [];
  });
  return { keys: [...int8Values(row.keys)], seqs: [...int8Values(row.seqs)], upTo };
}

/** An entry of a user's inbox with its message. */
interface Entry {
  readonly commandSeq: number;
  readonly channelKey: number;
  readonly message: StoredMessage;
}

/** Entries of an inbox read at least per statement. */
const entriesAtOnce = 1000;

/** Reads the entries of a user's inbox after a number whose messages have not expired. */
async function readInbox(
  tx: Tx,
  { shards }: ChannelStore,
  { uid, after, limit, now }: { uid: string; after: number; limit: number; now: number },
): Promise<Entry[]> {
  const found: Entry[] = [];
  const atOnce = Math.max(limit, entriesAtOnce);
  let bytesBefore = 0;
  for (let from = after; ; ) {
    const next = sql<{ command_seq: number; channel_key: number; message_seq: number }>`
      select command_seq, channel_key, message_seq from sendbatch.command_inbox
      where uid = ${uid} and command_seq > ${from} order by command_seq limit ${atOnce}`;
    const entries = await runByKey(tx, 'inbox of commands', next);
    const inShards = { items: entries, channelKeyOf: (entry: { channel_key: number }) => entry.channel_key };
    const ofShards = await byShard(tx, shards, inShards, async (shard, own) => {
      const column = (of: (entry: (typeof own)[number]) => number) => sql`${bigintArray(own.map(of))}::bigint[]`;
      const page = sql`(
        select w.channel_key, w.command_seq, ${messageColumns}
        from unnest(${column((entry) => entry.channel_key)}, ${column((entry) => entry.command_seq)},
          ${column((entry) => entry.message_seq)}) as w(channel_key, command_seq, message_seq)
        cross join lateral (
          select * from sendbatch.message m
          where m.channel_key = w.channel_key and m.message_seq = w.message_seq and ${alive(now)} limit 1
        ) m
        order by w.command_seq limit ${limit}
      )`;
      const sized = sql<MessageRow & { command_seq: number; channel_key: number; bytes: number }>`
        select s.*, octet_length(s.payload) + coalesce(pg_column_size(s.subscribers), 0) as bytes
        from (${withSizesBefore(page, sql`m.command_seq`)}) s
        where bytes_before <= ${limits.pageBytes} order by s.command_seq`;
      return await runByKey(shard, 'messages of an inbox', sized);
    });
    // What a shard left out for its size is out of the page here too, and so is all behind it.
    for (const row of ofShards.flat().sort((a, b) => a.command_seq - b.command_seq)) {
      if (found.length === limit || bytesBefore > limits.pageBytes) return found;
      found.push({ commandSeq: row.command_seq, channelKey: row.channel_key, message: toStored(row) });
      bytesBefore += row.bytes;
    }
    const last = entries.at(-1);
    if (last === undefined || entries.length < atOnce || found.length === limit || bytesBefore > limits.pageBytes)
      return found;
    from = last.command_seq;
  }
}

/**
 * Acknowledges commands up to a number, never back and never beyond the last, which is returned.
 */
export async function ackCommands(db: Db, uid: string, seq: number): Promise<number> {
  return await db.transaction().execute(async (tx) => {
    const { lastSeq } = await lockHead(tx, uid);
    if (seq > lastSeq) return lastSeq;
    await sql`update sendbatch.command_head set acked_seq = greatest(acked_seq, ${seq}) where uid = ${uid}`.execute(tx);
    await sql`delete from sendbatch.command_inbox where uid = ${uid} and command_seq <= ${seq}`.execute(tx);
    return lastSeq;
  });
}
