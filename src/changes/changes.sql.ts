import { sql } from 'kysely';
import { type ChangeKind, changeKinds, flagRecalled, flagRedDot, flagWasRestricted } from '../messages/message.ts';
import { alive, aliveAt, type MessageRow, messageColumns, toStored } from '../messages/message-select.sql.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import type { Db, MessageChanges, Tx } from '../postgres/schema.ts';
import { Statement } from '../postgres/sql.ts';

/** A message of a channel. */
export interface MessageRef {
  readonly channelKey: number;
  readonly messageSeq: number;
}

/** Compares messages by channel, then by sequence. */
export function inOrder(a: MessageRef, b: MessageRef): number {
  return a.channelKey - b.channelKey || a.messageSeq - b.messageSeq;
}

/** A message that may be recalled: without its content. */
export interface RecallTarget extends MessageRef {
  readonly messageId: number;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  readonly acceptedAt: number;
  readonly changes: MessageChanges | undefined;
  /** Its receivers, if it names any; undefined: they were erased with its content. */
  readonly subscribers: readonly string[] | undefined;
}

/** The last change and the last message of a channel, under the lock of its head. */
export interface ChangeHead {
  readonly lastChange: number;
  readonly lastSeq: number;
}

/**
 * Locks the heads of channels, which number their changes as they number their messages, in the
 * order of the keys as senders do. Channels that were removed are absent.
 */
export async function lockChanges(tx: Tx, channelKeys: readonly number[]): Promise<Map<number, ChangeHead>> {
  const { rows } = await sql<{ channel_key: number; last_change: number; last_seq: number }>`
    select channel_key, coalesce(last_change, 0) as last_change, last_seq from sendbatch.channel_head
    where channel_key = any(${[...channelKeys]}::bigint[]) order by channel_key for no key update`.execute(tx);
  return new Map(rows.map((row) => [row.channel_key, { lastChange: row.last_change, lastSeq: row.last_seq }]));
}

const targetsStatement = new Statement<
  Pick<
    MessageRow,
    'message_seq' | 'message_id' | 'from_uid' | 'client_msg_no' | 'accepted_at' | 'changed' | 'subscribers' | 'flags'
  > & { readonly channel_key: number }
>({
  name: 'lock messages to recall',
  text: `
    select w.channel_key, m.*
    from (select channel_key, message_seq from unnest($1::bigint[], $2::bigint[]) as w(channel_key, message_seq)
      order by channel_key, message_seq) w
    cross join lateral (
      select m.message_seq, m.message_id, m.from_uid, m.client_msg_no, m.accepted_at, m.changed, m.subscribers, m.flags
      from sendbatch.message m
      where m.channel_key = w.channel_key and m.message_seq = w.message_seq and ${aliveAt('$3')}
      limit 1 for no key update
    ) m`,
});

/** The kept messages among these, locked until the transaction ends. */
export async function lockTargets(tx: Tx, refs: readonly MessageRef[], now: number): Promise<RecallTarget[]> {
  const rows = await targetsStatement.run(tx, [
    refs.map((ref) => ref.channelKey),
    refs.map((ref) => ref.messageSeq),
    now,
  ]);
  return rows.map((row) => ({
    channelKey: row.channel_key,
    messageSeq: row.message_seq,
    messageId: row.message_id,
    fromUid: row.from_uid,
    clientMsgNo: row.client_msg_no,
    acceptedAt: row.accepted_at,
    changes: row.changed ?? undefined,
    subscribers: (row.flags & flagWasRestricted) === 0 ? (row.subscribers ?? []) : undefined,
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

/** How changes are written. */
export interface ChangeOptions {
  /** Milliseconds since 1970. */
  readonly now: number;
  /** Whether webhooks exist, which receive changes. */
  readonly announces: boolean;
  /** Whether the replaced content is kept as a copy. */
  readonly keepsCopies: boolean;
}

/** A message with the number of its change. */
export interface NumberedRef extends MessageRef {
  readonly changeNo: number;
  /** The channel's last message when it changes. */
  readonly afterSeq: number;
}

/** Numbers the next changes of channels, in the order of the messages. */
export function numberChanges(
  refs: readonly MessageRef[],
  heads: ReadonlyMap<number, ChangeHead>,
): readonly NumberedRef[] {
  const lastChanges = new Map<number, number>();
  return [...refs].sort(inOrder).map(({ channelKey, messageSeq }) => {
    const head = heads.get(channelKey) ?? { lastChange: 0, lastSeq: 0 };
    const changeNo = (lastChanges.get(channelKey) ?? head.lastChange) + 1;
    lastChanges.set(channelKey, changeNo);
    return { channelKey, messageSeq, changeNo, afterSeq: head.lastSeq };
  });
}

/**
 * The parts of a statement that changes messages $1 to $4 (keys, sequences, change numbers, last
 * messages), at $5, for webhooks if $6.
 */
const changing = (kind: ChangeKind, keepsCopies: boolean) => ({
  wanted: `
    wanted as materialized (
      select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
        as w(channel_key, message_seq, change_no, after_seq)
    )${
      keepsCopies
        ? `, copied as (
      insert into sendbatch.message_copy (channel_key, message_seq, revision, kind, payload, subscribers, copied_at)
      select m.channel_key, m.message_seq, coalesce((m.changed ->> 'revision')::integer, 0), ${changeKinds[kind]},
        m.payload, m.subscribers, $5::bigint
      from wanted w cross join lateral (
        select * from sendbatch.message m
        where m.channel_key = w.channel_key and m.message_seq = w.message_seq limit 1
      ) m
    )`
        : ''
    }`,
  numbered: `
    numbered as (
      insert into sendbatch.message_change (channel_key, change_no, message_seq, kind, changed_at, after_seq, to_route)
      select channel_key, change_no, message_seq, ${changeKinds[kind]}, $5::bigint, after_seq, $6::boolean from wanted
    )
    update sendbatch.channel_head h set last_change = w.last_change
    from (select channel_key, max(change_no) as last_change from wanted group by channel_key) w
    where h.channel_key = w.channel_key`,
});

/**
 * A recall erases content. The message no longer counts as unread; one that had named its receivers
 * stays hidden from everyone else.
 */
const recallStatement = (name: string, keepsCopies: boolean) => {
  const { wanted, numbered } = changing('recalled', keepsCopies);
  return new Statement({
    name,
    byKey: true,
    text: `
    with ${wanted}, erased as (
      update sendbatch.message m set payload = '', subscribers = null,
        flags = (m.flags & ~${flagRedDot}) | ${flagRecalled}
          | case when m.subscribers is null then 0 else ${flagWasRestricted} end,
        changed = '{"revision": 0}'::jsonb || coalesce(m.changed, '{}'::jsonb)
          || jsonb_build_object('recalledAt', $5::bigint, 'recalledBy', $7::text)
      from (select channel_key, message_seq from wanted order by channel_key, message_seq) w
      where m.channel_key = w.channel_key and m.message_seq = w.message_seq
    ), ${numbered}`,
  });
};

const editStatement = (name: string, keepsCopies: boolean) => {
  const { wanted, numbered } = changing('edited', keepsCopies);
  return new Statement({
    name,
    byKey: true,
    text: `
    with ${wanted}, edited as (
      update sendbatch.message m set payload = $7::bytea,
        changed = jsonb_build_object('revision', $8::integer, 'editedAt', $5::bigint)
      from wanted w where m.channel_key = w.channel_key and m.message_seq = w.message_seq
    ), ${numbered}`,
  });
};

const statements = {
  recall: recallStatement('recall messages', false),
  recallAndKeep: recallStatement('recall messages and keep copies', true),
  edit: editStatement('edit message', false),
  editAndKeep: editStatement('edit message and keep a copy', true),
};

const changeValues = (refs: readonly NumberedRef[], { now, announces }: ChangeOptions) => [
  refs.map((ref) => ref.channelKey),
  refs.map((ref) => ref.messageSeq),
  refs.map((ref) => ref.changeNo),
  refs.map((ref) => ref.afterSeq),
  now,
  announces,
];

/** Erases the content of messages, which are locked with their heads. */
export async function recall(
  tx: Tx,
  refs: readonly NumberedRef[],
  options: ChangeOptions & { readonly by: string },
): Promise<void> {
  const statement = options.keepsCopies ? statements.recallAndKeep : statements.recall;
  await statement.run(tx, [...changeValues(refs, options), options.by]);
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

/** Replaces the content of a message, which is locked with its head. */
export async function edit(
  tx: Tx,
  ref: NumberedRef,
  options: ChangeOptions & { readonly payload: Uint8Array; readonly revision: number },
): Promise<void> {
  const statement = options.keepsCopies ? statements.editAndKeep : statements.edit;
  await statement.run(tx, [...changeValues([ref], options), Buffer.from(options.payload), options.revision]);
}
