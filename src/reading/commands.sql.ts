import { sql } from 'kysely';
import { limits } from '../limits.ts';
import {
  alive,
  type MessageRow,
  messageColumns,
  type StoredMessage,
  toStored,
  withSizesBefore,
} from '../messages/messages-read.sql.ts';
import type { Db, Tx } from '../postgres/schema.ts';

/** A command with its number in the user's own sequence. */
export interface Command {
  readonly commandSeq: number;
  readonly channelId: string;
  readonly channelType: number;
  readonly message: StoredMessage;
}

/** Commands examined per statement. */
const examinedAtOnce = 20_000;
/** Channels per statement. */
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
  db: Db,
  uid: string,
  after: number,
  limit: number,
  now: number,
): Promise<SyncedCommands> {
  return await db.transaction().execute(async (tx) => {
    const { lastSeq, ackedSeq } = await lockHead(tx, uid);
    if (after > lastSeq) return { commands: [], lastSeq };
    let taken = 0;
    let due = await dueChannels(tx, uid);
    let isAll = due.length < channelsAtOnce;
    // Until everything is examined or enough is found. Nothing is skipped.
    for (let round = 0; due.length > 0 && taken < limit && round < mostRounds; round++) {
      const found = await takeCommands(tx, uid, lastSeq + taken, due, now);
      taken += found.taken;
      due = found.due;
      if (due.length > 0 || isAll) continue;
      due = await dueChannels(tx, uid);
      isAll = due.length < channelsAtOnce;
    }
    if (taken > 0)
      await sql`update sendbatch.command_head set last_seq = ${lastSeq + taken} where uid = ${uid}`.execute(tx);
    const { rows } = await sql<MessageRow & { command_seq: number; channel_id: string; channel_type: number }>`
      select s.*, c.channel_id, c.channel_type from (${withSizesBefore(
        sql`(
          select b.channel_key, b.command_seq, ${messageColumns}
          from sendbatch.command_inbox b
          join sendbatch.message m on m.channel_key = b.channel_key and m.message_seq = b.message_seq
          where b.uid = ${uid} and b.command_seq > ${Math.max(after, ackedSeq)} and ${alive(now)}
          order by b.command_seq limit ${limit}
        )`,
        sql`m.command_seq`,
      )}) s
      join sendbatch.channel c on c.channel_key = s.channel_key
      where bytes_before <= ${limits.pageBytes} order by s.command_seq`.execute(tx);
    const commands = rows.map((row) => ({
      commandSeq: row.command_seq,
      channelId: row.channel_id,
      channelType: row.channel_type,
      message: toStored(row),
    }));
    return { commands, lastSeq: lastSeq + taken };
  });
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

/** The first of these channels, by key. */
async function dueChannels(tx: Tx, uid: string): Promise<Due[]> {
  const { rows } = await sql<{ channel_key: number; examined_seq: number; last_seq: number; since: number }>`
    select k.channel_key, h.last_seq, greatest(t.taken_seq, u.joined_command_seq, 0) as examined_seq,
      case when u.joined_command_seq is null and c.channel_type not in (1, 8, 11) then u.created_at else 0 end as since
    from sendbatch.channel_uid u
    join sendbatch.channel c on c.channel_key = u.channel_key
    join sendbatch.channel k on k.channel_id = c.channel_id and k.channel_type = c.channel_type and k.sequence = 1
    join sendbatch.channel_head h on h.channel_key = k.channel_key
    left join sendbatch.channel_info i on i.channel_key = u.channel_key
    left join sendbatch.command_taken t on t.uid = ${uid} and t.channel_key = k.channel_key
    where u.uid = ${uid} and u.member and i.disband is not true
      and h.last_seq > greatest(t.taken_seq, u.joined_command_seq, 0)
    order by k.channel_key limit ${channelsAtOnce}`.execute(tx);
  return rows.map((row) => ({
    channelKey: row.channel_key,
    examinedSeq: row.examined_seq,
    lastSeq: row.last_seq,
    since: row.since,
  }));
}

/**
 * Examines the next commands of these channels, each in sequence order up to the head that was
 * read, and gives those for the user the numbers after `lastSeq`. `command_taken` records how far a
 * channel is examined, so that commands for others are passed over once. Returns what is left of
 * the channels.
 */
async function takeCommands(
  tx: Tx,
  uid: string,
  lastSeq: number,
  due: readonly Due[],
  now: number,
): Promise<{ taken: number; due: Due[] }> {
  const column = (of: (each: Due) => number) => sql`${due.map(of)}::bigint[]`;
  const { rows } = await sql<{ taken: string; examined: [key: number, seq: number][] | null }>`
    with due as materialized (
      select * from unnest(${column((each) => each.channelKey)}, ${column((each) => each.examinedSeq)},
        ${column((each) => each.lastSeq)}, ${column((each) => each.since)}
      ) as d(channel_key, examined_seq, last_seq, since)
    ), examined as materialized (
      select d.channel_key, m.message_seq, m.mine
      from due d
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
    ), bound as (
      select count(*) = ${examinedAtOnce} as is_reached from examined
    ), numbered as (
      insert into sendbatch.command_inbox (uid, command_seq, channel_key, message_seq)
      select ${uid}, ${lastSeq}::bigint + row_number() over (order by channel_key, message_seq), channel_key, message_seq
      from examined where mine
    ), noted as (
      insert into sendbatch.command_taken as t (uid, channel_key, taken_seq)
      select ${uid}, d.channel_key, case when is_reached and d.channel_key = last.channel_key
          then last.message_seq else d.last_seq end
      from due d cross join bound left join last on true
      where not is_reached or d.channel_key <= last.channel_key
      on conflict (uid, channel_key) do update set taken_seq = excluded.taken_seq
      returning channel_key, taken_seq
    )
    select (select count(*) from examined where mine)::text as taken,
      (select jsonb_agg(jsonb_build_array(channel_key, taken_seq)) from noted) as examined`.execute(tx);
  const [row] = rows;
  const examined = new Map(row?.examined ?? []);
  const left = due
    .map((each) => ({ ...each, examinedSeq: examined.get(each.channelKey) ?? each.examinedSeq }))
    .filter((each) => each.examinedSeq < each.lastSeq);
  return { taken: Number(row?.taken ?? 0), due: left };
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
