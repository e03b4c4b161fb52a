import { sql } from 'kysely';
import { flagRecalled, flagRedDot, flagWasRestricted } from '../messages/message.ts';
import { alive, type MessageRow, messageColumns, type StoredMessage, toStored } from '../messages/messages-read.sql.ts';
import type { Db, MessageChanges, Tx } from '../postgres/schema.ts';

/** Kinds of changes as stored. */
export const changeKinds = { edited: 1, recalled: 2 } as const;

/** A message that may be recalled: without its content. */
export interface RecallTarget {
  readonly messageSeq: number;
  readonly messageId: number;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  readonly acceptedAt: number;
  readonly changes: MessageChanges | undefined;
}

/**
 * Locks a channel's head, which numbers its changes as it numbers its messages. Returns the number
 * of the last change; undefined when the channel was removed.
 */
export async function lockChanges(tx: Tx, channelKey: number): Promise<number | undefined> {
  const { rows } = await sql<{ last_change: number }>`
    select coalesce(last_change, 0) as last_change from sendbatch.channel_head
    where channel_key = ${channelKey} for no key update`.execute(tx);
  return rows[0]?.last_change;
}

/** The kept messages among these sequences, in their order, locked until the transaction ends. */
export async function lockTargets(
  tx: Tx,
  channelKey: number,
  seqs: readonly number[],
  now: number,
): Promise<RecallTarget[]> {
  const { rows } = await sql<TargetRow>`
    select m.message_seq, m.message_id, m.from_uid, m.client_msg_no, m.accepted_at, m.changed
    from sendbatch.message m
    where m.channel_key = ${channelKey} and m.message_seq = any(${[...seqs]}::bigint[]) and ${alive(now)}
    order by m.message_seq for no key update`.execute(tx);
  return rows.map((row) => ({
    messageSeq: row.message_seq,
    messageId: row.message_id,
    fromUid: row.from_uid,
    clientMsgNo: row.client_msg_no,
    acceptedAt: row.accepted_at,
    changes: row.changed ?? undefined,
  }));
}

interface TargetRow
  extends Pick<MessageRow, 'message_seq' | 'message_id' | 'from_uid' | 'client_msg_no' | 'accepted_at' | 'changed'> {}

/**
 * Sequences and senders of the messages with these keys, after a sequence. The index on keys needs
 * the sender, which is not given.
 */
export async function findKeys(
  db: Db,
  channelKey: number,
  { keys, afterSeq, fromUid }: { keys: readonly string[]; afterSeq: number; fromUid: string | undefined },
): Promise<{ clientMsgNo: string; messageSeq: number }[]> {
  const { rows } = await sql<{ client_msg_no: string; message_seq: number }>`
    select client_msg_no, message_seq from sendbatch.message
    where channel_key = ${channelKey} and message_seq > ${afterSeq} and client_msg_no = any(${[...keys]}::text[])
      ${fromUid === undefined ? sql`` : sql`and from_uid = ${fromUid}`}
    order by message_seq`.execute(db);
  return rows.map((row) => ({ clientMsgNo: row.client_msg_no, messageSeq: row.message_seq }));
}

/**
 * Erases the content of messages and numbers the changes, under the lock of the head. They no longer
 * count as unread; one that had named its receivers stays hidden from everyone else.
 */
export async function recall(
  tx: Tx,
  channelKey: number,
  seqs: readonly number[],
  { lastChange, by, now }: { lastChange: number; by: string; now: number },
): Promise<void> {
  await sql`
    with target as materialized (
      select seq, ordinality from unnest(${[...seqs]}::bigint[]) with ordinality as w(seq, ordinality)
    ), erased as (
      update sendbatch.message m set payload = ''::bytea, subscribers = null,
        flags = (m.flags & ~${flagRedDot}::int) | ${flagRecalled}::int
          | case when m.subscribers is null then 0 else ${flagWasRestricted}::int end,
        changed = jsonb_build_object('revision', coalesce((m.changed->>'revision')::int, 0))
          || coalesce(m.changed - 'revision', '{}'::jsonb)
          || jsonb_build_object('recalledAt', ${now}::bigint, 'recalledBy', ${by}::text)
      from target where m.channel_key = ${channelKey} and m.message_seq = target.seq
    ), numbered as (
      insert into sendbatch.message_change (channel_key, change_no, message_seq, kind, changed_at)
      select ${channelKey}::bigint, ${lastChange}::bigint + ordinality, seq, ${changeKinds.recalled}::smallint, ${now}::bigint
      from target
    )
    update sendbatch.channel_head set last_change = ${lastChange + seqs.length}::bigint where channel_key = ${channelKey}`.execute(
    tx,
  );
}

/** A kept message of a channel; `lock`: until the transaction ends. */
export async function readMessage(
  db: Db | Tx,
  channelKey: number,
  seq: number,
  now: number,
  lock?: 'lock',
): Promise<StoredMessage | undefined> {
  const { rows } = await sql<MessageRow>`
    select ${messageColumns} from sendbatch.message m
    where m.channel_key = ${channelKey} and m.message_seq = ${seq} and ${alive(now)}
    ${lock === undefined ? sql`` : sql`for no key update`}`.execute(db);
  return rows.map(toStored)[0];
}

/** Replaces the content of a message and numbers the change, under the lock of the head. */
export async function edit(
  tx: Tx,
  channelKey: number,
  seq: number,
  { payload, revision, lastChange, now }: { payload: Uint8Array; revision: number; lastChange: number; now: number },
): Promise<void> {
  await sql`
    with edited as (
      update sendbatch.message set payload = ${Buffer.from(payload)},
        changed = jsonb_build_object('revision', ${revision}::int, 'editedAt', ${now}::bigint)
      where channel_key = ${channelKey} and message_seq = ${seq}
    ), numbered as (
      insert into sendbatch.message_change (channel_key, change_no, message_seq, kind, changed_at)
      values (${channelKey}, ${lastChange + 1}, ${seq}, ${changeKinds.edited}, ${now})
    )
    update sendbatch.channel_head set last_change = ${lastChange + 1} where channel_key = ${channelKey}`.execute(tx);
}
