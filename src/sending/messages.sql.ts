/**
 * Messages as rows: finds earlier sends by message key, draws blocks of ids, inserts rows whose
 * numbers are decided (pessimistic-append.ts), and knows the columns that every append fills.
 *
 * The statements that do all of it in one step are in optimistic-append.sql.ts.
 */
import { sql } from 'kysely';
import type { Accepted, Earlier } from '../messages/append-plan.ts';
import type { PreparedMessage } from '../messages/message.ts';
import { dedupeKeyBytes, PlainMessage, payloadBytesOf } from '../messages/plain-message.ts';
import { BinaryArray } from '../postgres/binary-array.ts';
import { byShard, merged } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { onShard, type Shard, type ShardLayout } from '../postgres/shards.ts';
import { Statement } from '../postgres/sql.ts';

/** A message and the surrogate key of its channel. */
export interface KeyedMessage {
  readonly channelKey: number;
  readonly message: PreparedMessage;
}

interface FoundRow {
  readonly ordinal: number;
  readonly message_id: number;
  readonly message_seq: number;
  readonly accepted_at: number;
  readonly content_hash: Buffer;
}

const findStatement = new Statement<FoundRow>({
  name: 'find earlier sends',
  byKey: true,
  text: `
    select w.ordinal, m.message_id, m.message_seq, m.accepted_at, m.content_hash
    from unnest($1::bigint[], $2::uuid[]) with ordinality as w(channel_key, dedupe_key, ordinal)
    cross join lateral (
      select m.message_id, m.message_seq, m.accepted_at, m.content_hash from sendbatch.message m
      where m.channel_key = w.channel_key and m.dedupe_key = w.dedupe_key
      limit 1
    ) m`,
});

/**
 * Finds the messages among these that were stored before, by message key.
 *
 * Under the heads' locks it sees every earlier send, if it is a statement after the one that waited
 * for the locks: under READ COMMITTED that one keeps the snapshot from before its wait.
 */
export async function findEarlier(
  db: Db | Tx,
  shards: ShardLayout,
  messages: readonly KeyedMessage[],
): Promise<Map<string, Earlier>> {
  const items = { items: messages, channelKeyOf: (each: KeyedMessage) => each.channelKey };
  return merged(await byShard(db, shards, items, findInShard));
}

async function findInShard(db: Db, messages: readonly KeyedMessage[]): Promise<Map<string, Earlier>> {
  const keys = new BinaryArray('bigint', messages.length * 12);
  const dedupeKeys = new BinaryArray('uuid', messages.length * 20);
  for (const { channelKey, message } of messages) {
    keys.bigint(channelKey);
    dedupeKeys.latin1(message.dedupeKey);
  }
  const rows = await findStatement.run(db, [keys.value(), dedupeKeys.value()]);
  const earlier = new Map<string, Earlier>();
  for (const row of rows) {
    const keyed = messages[row.ordinal - 1];
    if (keyed === undefined) throw new Error(`ordinal ${row.ordinal} of ${messages.length}`);
    earlier.set(keyed.message.key, {
      messageId: row.message_id,
      messageSeq: row.message_seq,
      contentHash: row.content_hash.toString('latin1'),
      acceptedAt: row.accepted_at,
    });
  }
  return earlier;
}

/**
 * Draws a block of message ids. Drawn under the heads' locks, ids increase with the sequence within
 * a channel.
 */
export async function drawBlock(db: Db | Tx, shards: ShardLayout, shard: Shard): Promise<number> {
  const drawn =
    shards.count === 1
      ? sql<{ block: number }>`select nextval('sendbatch.message_block') as block`
      : sql<{
          block: number;
        }>`update sendbatch.id_block set last = last + ${shards.count}::bigint returning last as block`;
  const [row] = (await drawn.execute(onShard(db, shard))).rows;
  if (row === undefined) throw new Error('no block of ids');
  return row.block;
}

const columns = [
  { name: 'dedupe_key', type: 'uuid' },
  { name: 'flags', type: 'smallint' },
  { name: 'content_hash', type: 'bytea' },
  { name: 'from_uid', type: 'text' },
  { name: 'client_msg_no', type: 'text' },
  { name: 'payload', type: 'bytea' },
  { name: 'expire', type: 'bigint' },
  { name: 'stream_no', type: 'text' },
  { name: 'tag_key', type: 'text' },
  { name: 'subscribers', type: 'text' },
] as const;

/** The columns of a message that do not depend on its numbers, as parts of an INSERT. */
export const ownColumns = {
  names: columns.map(({ name }) => name).join(', '),
  /** Parameters of `ownValues`, arrays in the order of the names, of which this is the first. */
  parameters: (first: number) => columns.map(({ type }, index) => `$${first + index}::${type}[]`).join(', '),
  /** Values from a row `w` of these arrays. */
  values: columns.map(({ name }) => (name === 'subscribers' ? 'w.subscribers::jsonb' : `w.${name}`)).join(', '),
  count: columns.length,
};

/** The parameters for `ownColumns`. */
export function ownValues(messages: readonly PreparedMessage[]): (Buffer | null)[] {
  const count = messages.length;
  let payloadBytes = 0;
  for (const message of messages) payloadBytes += payloadBytesOf(message);
  const dedupeKeys = new BinaryArray('uuid', count * 20);
  const flags = new BinaryArray('smallint', count * 6);
  const contentHashes = new BinaryArray('bytea', count * 36);
  const fromUids = new BinaryArray('text', count * 24);
  const clientMsgNos = new BinaryArray('text', count * 44);
  const payloads = new BinaryArray('bytea', count * 4 + payloadBytes);
  // Rarely set: an array of NULLs alone is sent as NULL.
  const expires = new BinaryArray('bigint', count * 4);
  const streamNos = new BinaryArray('text', count * 4);
  const tagKeys = new BinaryArray('text', count * 4);
  const subscribers = new BinaryArray('text', count * 4);
  for (const message of messages) {
    flags.smallint(message.flags);
    contentHashes.latin1(message.contentHash);
    if (message instanceof PlainMessage) {
      dedupeKeys.latin1(message.keyHash, dedupeKeyBytes);
      fromUids.slice(message.bytes, message.uidStart, message.uidEnd);
      clientMsgNos.slice(message.bytes, message.keyStart, message.keyEnd);
      payloads.slice(message.content, message.payloadStart, message.payloadEnd);
    } else {
      dedupeKeys.latin1(message.dedupeKey);
      fromUids.text(message.fromUid);
      clientMsgNos.text(message.clientMsgNo);
      payloads.bytes(message.payload);
    }
    if (message.expire === 0) expires.null();
    else expires.bigint(message.expire);
    if (message.streamNo === '') streamNos.null();
    else streamNos.text(message.streamNo);
    if (message.tagKey === '') tagKeys.null();
    else tagKeys.text(message.tagKey);
    if (message.subscribers.length === 0) subscribers.null();
    else subscribers.text(JSON.stringify(message.subscribers));
  }
  return [
    dedupeKeys,
    flags,
    contentHashes,
    fromUids,
    clientMsgNos,
    payloads,
    expires,
    streamNos,
    tagKeys,
    subscribers,
  ].map((column) => column.value());
}

const { names, parameters, values } = ownColumns;

const insertStatement = new Statement<never>({
  name: 'insert messages',
  text: `
    insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, ${names})
    select w.channel_key, w.message_seq, w.message_id,
      coalesce((select h.last_at from sendbatch.channel_head h where h.channel_key = w.channel_key), $1::bigint), ${values}
    from unnest($2::bigint[], $3::bigint[], $4::bigint[], ${parameters(5)}) as w(channel_key, message_seq, message_id, ${names})`,
});

/**
 * Inserts rows whose numbers are decided, after `setHeads`: their time is the head's, which never
 * decreases.
 */
export async function insertMessages(
  tx: Tx,
  rows: readonly Accepted[],
  channelKeys: ReadonlyMap<string, number>,
  acceptedAt: number,
): Promise<void> {
  const keys = new BinaryArray('bigint', rows.length * 12);
  const seqs = new BinaryArray('bigint', rows.length * 12);
  const ids = new BinaryArray('bigint', rows.length * 12);
  for (const { messageSeq, messageId, message } of rows) {
    const channelKey = channelKeys.get(message.channel.key);
    if (channelKey === undefined) throw new Error(`no key for channel ${message.channel.key}`);
    keys.bigint(channelKey);
    seqs.bigint(messageSeq);
    ids.bigint(messageId);
  }
  await insertStatement.run(tx, [
    acceptedAt,
    keys.value(),
    seqs.value(),
    ids.value(),
    ...ownValues(rows.map((row) => row.message)),
  ]);
}
