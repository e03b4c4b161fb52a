import { sql } from 'kysely';
import { channel, type Sequence } from '../messages/channel.ts';
import type { Db } from '../postgres/schema.ts';
import { type JournalEntry, keyOf, type StoredUnder } from './journal-entry.ts';

/** The keys of the channels of entries, by `Channel.key`. */
export async function channelsOf(db: Db, entries: readonly JournalEntry[]): Promise<Map<string, number>> {
  const channels = [...new Map(entries.map((entry) => [keyOf(entry), entry])).values()];
  const { rows } = await sql<{ channel_key: number; channel_type: number; sequence: Sequence; channel_id: string }>`
    select c.channel_key, c.channel_type, c.sequence, c.channel_id
    from unnest(${channels.map((one) => one.channelId)}::text[], ${channels.map((one) => one.channelType)}::smallint[],
      ${channels.map((one) => one.sequence)}::smallint[]) as j(channel_id, channel_type, sequence)
    cross join lateral (
      select * from sendbatch.channel c
      where c.channel_id = j.channel_id collate "C" and c.channel_type = j.channel_type and c.sequence = j.sequence limit 1
    ) c`.execute(db);
  return new Map(rows.map((row) => [channel(row.channel_type, row.channel_id, row.sequence).key, row.channel_key]));
}

/**
 * Entries of channels of a shard that are not stored as acknowledged, by line, with what is stored
 * under their numbers.
 */
export async function mismatches(
  db: Db,
  entries: readonly (JournalEntry & { readonly channelKey: number })[],
): Promise<Map<number, StoredUnder>> {
  const { rows } = await sql<{ line: number; message_id: number | null; is_own: boolean }>`
    select j.line, m.message_id::float8 as message_id, m.is_own
    from unnest(${entries.map((one) => one.line)}::float8[], ${entries.map((one) => one.channelKey)}::bigint[],
      ${entries.map((one) => one.messageSeq)}::bigint[], ${entries.map((one) => one.messageId)}::bigint[],
      ${entries.map((one) => one.fromUid)}::text[], ${entries.map((one) => one.clientMsgNo)}::text[],
      ${entries.map((one) => one.payloadSha256 ?? '')}::text[]
    ) as j(line, channel_key, message_seq, message_id, from_uid, client_msg_no, digest)
    left join lateral (
      select s.message_id, s.from_uid = j.from_uid and s.client_msg_no = j.client_msg_no as is_own,
        j.digest = '' or s.changed is not null or encode(sha256(s.payload), 'hex') = j.digest as is_same
      from sendbatch.message s where s.channel_key = j.channel_key and s.message_seq = j.message_seq limit 1
    ) m on true
    where m.message_id is distinct from j.message_id or not m.is_own or not m.is_same`.execute(db);
  return new Map(
    rows.map((row) => [row.line, { messageId: row.message_id ?? undefined, isOwnKey: row.is_own ?? false }]),
  );
}

/** The numbers under which a once-only key is stored in a channel. */
export async function findByKey(
  db: Db,
  channelKey: number,
  dedupeKey: string,
): Promise<{ messageSeq: number; messageId: number } | undefined> {
  const { rows } = await sql<{ message_seq: number; message_id: number }>`
    select message_seq::float8, message_id::float8 from sendbatch.message
    where channel_key = ${channelKey} and dedupe_key = ${Buffer.from(dedupeKey, 'latin1').toString('hex')}::uuid`.execute(
    db,
  );
  const [row] = rows;
  return row === undefined ? undefined : { messageSeq: row.message_seq, messageId: row.message_id };
}

/**
 * Whether a missing message was removed by the sweeper: the channel's head is at or above it, and
 * the channel lacks no more messages than were swept. Channels without swept messages cost a probe.
 */
export async function isAccountedFor(db: Db, channelKey: number, messageSeq: number): Promise<boolean> {
  const { rows } = await sql<{ is_accounted: boolean }>`
    select h.last_seq >= ${messageSeq} and s.messages > 0
      and h.last_seq - (select count(*) from sendbatch.message m where m.channel_key = h.channel_key) <= s.messages as is_accounted
    from sendbatch.channel_head h join sendbatch.swept s on s.channel_key = h.channel_key
    where h.channel_key = ${channelKey}`.execute(db);
  return rows[0]?.is_accounted ?? false;
}
