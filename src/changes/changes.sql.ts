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
  const { rows } = await sql<
    Pick<MessageRow, 'message_seq' | 'message_id' | 'from_uid' | 'client_msg_no' | 'accepted_at' | 'changed'>
  >`
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

/**
 * Sequences of the messages with these keys, after a sequence. The index on keys needs
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

/** The number of the channel's last change, and the time of the next ones. */
interface Numbering {
  readonly lastChange: number;
  readonly now: number;
}

/**
 * The end of a statement that changes messages, in the order of `seqs`: numbers the changes and
 * advances the channel's last one. Under the lock of the head.
 */
const numbered = (
  channelKey: number,
  seqs: readonly number[],
  kind: keyof typeof changeKinds,
  { lastChange, now }: Numbering,
) => sql`
    numbered as (
      insert into sendbatch.message_change (channel_key, change_no, message_seq, kind, changed_at)
      select ${channelKey}::bigint, ${lastChange}::bigint + ordinality, seq, ${changeKinds[kind]}::smallint, ${now}::bigint
      from unnest(${[...seqs]}::bigint[]) with ordinality as w(seq, ordinality)
    )
    update sendbatch.channel_head set last_change = ${lastChange + seqs.length}::bigint where channel_key = ${channelKey}`;

/**
 * Erases the content of messages. They no longer count as unread; one that had named its receivers
 * stays hidden from everyone else.
 */
export async function recall(
  tx: Tx,
  channelKey: number,
  seqs: readonly number[],
  { by, ...numbering }: Numbering & { readonly by: string },
): Promise<void> {
  await sql`
    with erased as (
      update sendbatch.message m set payload = ''::bytea, subscribers = null,
        flags = (m.flags & ~${flagRedDot}::int) | ${flagRecalled}::int
          | case when m.subscribers is null then 0 else ${flagWasRestricted}::int end,
        changed = '{"revision": 0}'::jsonb || coalesce(m.changed, '{}'::jsonb)
          || jsonb_build_object('recalledAt', ${numbering.now}::bigint, 'recalledBy', ${by}::text)
      where m.channel_key = ${channelKey} and m.message_seq = any(${[...seqs]}::bigint[])
    ), ${numbered(channelKey, seqs, 'recalled', numbering)}`.execute(tx);
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

/** Replaces the content of a message. */
export async function edit(
  tx: Tx,
  channelKey: number,
  seq: number,
  { payload, revision, ...numbering }: Numbering & { readonly payload: Uint8Array; readonly revision: number },
): Promise<void> {
  await sql`
    with edited as (
      update sendbatch.message set payload = ${Buffer.from(payload)},
        changed = jsonb_build_object('revision', ${revision}::int, 'editedAt', ${numbering.now}::bigint)
      where channel_key = ${channelKey} and message_seq = ${seq}
    ), ${numbered(channelKey, [seq], 'edited', numbering)}`.execute(tx);
}
