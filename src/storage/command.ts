import { sql } from 'kysely';
import type { Db, Tx } from './database.ts';
import { alive, type MessageRow, messageColumns, type StoredMessage, toStored } from './history.ts';

/** A command in a user's own numbering. */
export interface Command {
  readonly commandSeq: number;
  readonly channelId: string;
  readonly channelType: number;
  readonly message: StoredMessage;
}

/** Commands that are taken out of their channels at once. */
const takenAtOnce = 1000;

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

/**
 * Takes a user's new commands out of its channels into its own numbering, and returns those after `after` that are not acknowledged. Each channel is taken from in the order of
 * its sequence, so that what is left over is never jumped over.
 */
export async function syncCommands(db: Db, uid: string, after: number, limit: number, now: number): Promise<Command[]> {
  return await db.transaction().execute(async (tx) => {
    const { lastSeq, ackedSeq } = await lockHead(tx, uid);
    await sql`
      with fresh as (
        select k.channel_key, m.message_seq, row_number() over (order by k.channel_key, m.message_seq) as ordinal
        from sendbatch.channel_uid u
        join sendbatch.channel c on c.channel_key = u.channel_key
        join sendbatch.channel k on k.channel_id = c.channel_id and k.channel_type = c.channel_type and k.sequence = 1
        left join sendbatch.channel_info i on i.channel_key = u.channel_key
        left join sendbatch.command_taken t on t.uid = u.uid and t.channel_key = k.channel_key
        cross join lateral (
          select m.message_seq from sendbatch.message m
          where m.channel_key = k.channel_key and m.message_seq > coalesce(t.taken_seq, 0)
            and (m.subscribers ? ${uid} or (m.subscribers is null and m.from_uid <> ${uid}))
            and (c.channel_type in (1, 8, 11) or m.accepted_at >= u.created_at)
            and ${alive(now)}
          order by m.message_seq limit ${takenAtOnce}
        ) m
        where u.uid = ${uid} and u.member and i.disband is not true
        order by k.channel_key, m.message_seq limit ${takenAtOnce}
      ), numbered as (
        insert into sendbatch.command_inbox (uid, command_seq, channel_key, message_seq)
        select ${uid}, ${lastSeq}::bigint + ordinal, channel_key, message_seq from fresh
      ), taken as (
        insert into sendbatch.command_taken as t (uid, channel_key, taken_seq)
        select ${uid}, channel_key, max(message_seq) from fresh group by channel_key
        on conflict (uid, channel_key) do update set taken_seq = excluded.taken_seq
      )
      update sendbatch.command_head set last_seq = last_seq + (select count(*) from fresh) where uid = ${uid}`.execute(
      tx,
    );
    const { rows } = await sql<MessageRow & { command_seq: number; channel_id: string; channel_type: number }>`
      select b.command_seq, c.channel_id, c.channel_type, ${messageColumns}
      from sendbatch.command_inbox b
      join sendbatch.message m on m.channel_key = b.channel_key and m.message_seq = b.message_seq
      join sendbatch.channel c on c.channel_key = b.channel_key
      where b.uid = ${uid} and b.command_seq > ${Math.max(after, ackedSeq)}
        and ${alive(now)}
      order by b.command_seq limit ${limit}`.execute(tx);
    return rows.map((row) => ({
      commandSeq: row.command_seq,
      channelId: row.channel_id,
      channelType: row.channel_type,
      message: toStored(row),
    }));
  });
}

/** Acknowledges a user's commands up to one that it was handed: never back, and never beyond the last. */
export async function ackCommands(db: Db, uid: string, seq: number): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const { lastSeq } = await lockHead(tx, uid);
    const acked = Math.min(seq, lastSeq);
    await sql`update sendbatch.command_head set acked_seq = greatest(acked_seq, ${acked}) where uid = ${uid}`.execute(
      tx,
    );
    await sql`delete from sendbatch.command_inbox where uid = ${uid} and command_seq <= ${acked}`.execute(tx);
  });
}
