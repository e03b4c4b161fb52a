/** Finds messages of a channel by what names them: sequence, id, or client_msg_no. */
import { sql } from 'kysely';
import { limits } from '../limits.ts';
import { bigintArray } from '../postgres/binary-array.ts';
import type { Db } from '../postgres/schema.ts';
import { runByKey } from '../postgres/sql.ts';
import { type Eyes, halving, type MessageRow, toStored, visible, withSizesBefore } from './message-select.sql.ts';
import type { StoredMessage } from './stored-row.ts';

/** Finds messages by sequence or id. */
export async function findByNumbers(
  db: Db,
  channelKey: number,
  { seqs, ids, viewerUid: eyes }: Eyes & { readonly seqs: readonly number[]; readonly ids: readonly number[] },
  now: number,
): Promise<StoredMessage[]> {
  const found = await seqsOfIds(db, channelKey, ids);
  const wanted = bigintArray([...new Set([...seqs, ...found.values()])]);
  const all = visible(db, channelKey, { viewerUid: eyes }, now).where(
    sql<boolean>`m.message_seq = any(${wanted}::bigint[])`,
  );
  const query = sql<MessageRow>`
    select * from (${withSizesBefore(all, sql`m.message_seq`)}) sized
    where bytes_before <= ${limits.pageBytes} order by message_seq`;
  const rows = await runByKey(db, eyes === undefined ? 'messages by number' : 'messages by number, of viewer', query);
  return rows.map(toStored);
}

/**
 * The sequences of messages by id. Ids have no index: a binary search finds each.
 */
export async function seqsOfIds(db: Db, channelKey: number, ids: readonly number[]): Promise<Map<number, number>> {
  if (ids.length === 0) return new Map();
  const { rows } = await sql<{ id: number; message_seq: number }>`
    select wanted.id, hit.message_seq from unnest(${[...ids]}::bigint[]) as wanted(id)
    cross join lateral (
      with recursive ${halving(sql`${channelKey}`, 'message_id', sql`wanted.id`)}
      select m.message_seq from halving h
      cross join lateral (
        select message_id, message_seq from sendbatch.message
        where channel_key = ${channelKey} and message_seq >= h.low order by message_seq limit 1
      ) m
      where h.low >= h.high and m.message_id = wanted.id
    ) hit`.execute(db);
  return new Map(rows.map((row) => [row.id, row.message_seq]));
}

/**
 * Finds messages by client_msg_no, after a sequence: the index on keys needs the sender, which is
 * not given.
 */
export async function findByKeys(
  db: Db,
  channelKey: number,
  { keys, afterSeq, viewerUid: eyes }: Eyes & { readonly keys: readonly string[]; readonly afterSeq: number },
  now: number,
): Promise<StoredMessage[]> {
  const all = visible(db, channelKey, { viewerUid: eyes }, now)
    .where('m.message_seq', '>', afterSeq)
    .where('m.client_msg_no', 'in', [...keys]);
  const { rows } = await sql<MessageRow>`
    select * from (${withSizesBefore(all, sql`m.message_seq`)}) sized
    where bytes_before <= ${limits.pageBytes} order by message_seq`.execute(db);
  return rows.map(toStored);
}
