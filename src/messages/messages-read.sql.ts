/** Reads ranges of channels: pages of history, and the next messages for tails. */
import { type RawBuilder, sql } from 'kysely';
import { limits } from '../limits.ts';
import { type DataRows, RowReader } from '../postgres/binary-rows.ts';
import type { Db } from '../postgres/schema.ts';
import { Statement } from '../postgres/sql.ts';
import { type Heads, noHeads } from './channel-heads.sql.ts';
import {
  aliveAt,
  type Eyes,
  halving,
  isForAll,
  isNotRecalled,
  type MessageRow,
  messageColumnNames,
  toStored,
  visible,
  withSizesBefore,
} from './message-select.sql.ts';
import { type StoredMessage, StoredRow } from './stored-row.ts';

/** The messages that a reader asks for. */
export interface Filter extends Times {
  readonly tagKey?: string;
  readonly streamNo?: string;
  readonly fromUid?: string;
}

/** Acceptance times, in milliseconds since 1970. */
export interface Times {
  /** Inclusive. */
  readonly since?: number;
  /** Exclusive. */
  readonly until?: number;
}

/** A part of a channel: the sequences between two bounds, both exclusive. */
export interface Range extends Filter, Eyes {
  readonly afterSeq: number;
  readonly beforeSeq: number;
  readonly limit: number;
  readonly descending: boolean;
  /** Leaves out recalled messages, which legacy callers do not know. */
  readonly withoutRecalled?: boolean;
}

/**
 * Finds the sequence of the first kept message that was accepted at a time or later; one above the
 * head when there is none.
 */
export const firstSeqSince = (channelKey: RawBuilder<unknown>, time: RawBuilder<unknown>) => sql<number>`
  with recursive ${halving(channelKey, 'accepted_at', time)}
  select h.low from halving h where h.low >= h.high limit 1`;

/** The sequences between which the messages of a time range are, both exclusive. */
export async function seqsOfTimes(
  db: Db,
  channelKey: number,
  { since, until }: Times,
): Promise<{ afterSeq: number; beforeSeq: number }> {
  const seqAt = (time: number | undefined, otherwise: number) =>
    time === undefined
      ? sql`${otherwise}::bigint`
      : sql`(${firstSeqSince(sql`${channelKey}::bigint`, sql`${time}::bigint`)})`;
  const { rows } = await sql<{ first: number; end: number }>`
    select ${seqAt(since, 1)} as first, ${seqAt(until, Number.MAX_SAFE_INTEGER)} as end`.execute(db);
  const [row] = rows;
  return { afterSeq: (row?.first ?? 1) - 1, beforeSeq: row?.end ?? Number.MAX_SAFE_INTEGER };
}

/**
 * Reads the messages of a range: at most `limit`, and of large ones no more than a page and one
 * message.
 */
export async function readRange(db: Db, channelKey: number, range: Range, now: number): Promise<StoredMessage[]> {
  const { tagKey, streamNo, fromUid, since, until } = range;
  const isPlain = [tagKey, streamNo, fromUid, since, until].every((each) => each === undefined);
  return isPlain
    ? await readPlainRange(db, channelKey, range, now)
    : (await readFilteredRange(db, channelKey, range, now)).map(toStored);
}

async function readFilteredRange(db: Db, channelKey: number, range: Range, now: number): Promise<MessageRow[]> {
  let query = visible(db, channelKey, range, now)
    .where('m.message_seq', '>', range.afterSeq)
    .where('m.message_seq', '<', range.beforeSeq);
  if (range.withoutRecalled) query = query.where(sql<boolean>`${sql.raw(isNotRecalled)}`);
  if (range.tagKey !== undefined) query = query.where('m.tag_key', '=', range.tagKey);
  if (range.streamNo !== undefined) query = query.where('m.stream_no', '=', range.streamNo);
  if (range.fromUid !== undefined) query = query.where('m.from_uid', '=', range.fromUid);
  if (range.since !== undefined) query = query.where('m.accepted_at', '>=', range.since);
  if (range.until !== undefined) query = query.where('m.accepted_at', '<', range.until);
  const direction = range.descending ? 'desc' : 'asc';
  const page = query.orderBy('m.message_seq', direction).limit(range.limit);
  const { rows } = await sql<MessageRow>`
    select * from (${withSizesBefore(page, sql`m.message_seq ${sql.raw(direction)}`)}) sized
    where bytes_before <= ${limits.pageBytes} order by message_seq ${sql.raw(direction)}`.execute(db);
  return rows;
}

/**
 * The same without filters, prepared: most pages and all of tails. Planning took as long as reading
 * ten messages. Parameters: channel_key, bounds, now, limit, page bytes, and the viewer.
 */
const plainRange = (
  direction: 'asc' | 'desc',
  { isOfViewer = false, isLegacy = false, channelKey = '$1', afterSeq = '$2' }: PlainRange = {},
) => `
  select * from (
    select m.*, coalesce(sum(octet_length(m.payload) + coalesce(pg_column_size(m.subscribers), 0))
      over (order by m.message_seq ${direction} rows between unbounded preceding and 1 preceding), 0) as bytes_before
    from (
      select ${messageColumnNames} from sendbatch.message m
      where m.channel_key = ${channelKey} and m.message_seq > ${afterSeq} and m.message_seq < $3
        and ${aliveAt('$4')}
        ${isLegacy ? `and ${isNotRecalled}` : ''}
        ${isOfViewer ? `and ((${isForAll}) or m.from_uid = $7 or m.subscribers ? $7)` : ''}
      order by m.message_seq ${direction} limit $5
    ) m
  ) sized
  where bytes_before <= $6`;

interface PlainRange {
  readonly isOfViewer?: boolean;
  /** Without recalled messages. */
  readonly isLegacy?: boolean;
  /** SQL in place of the parameters. */
  readonly channelKey?: string;
  readonly afterSeq?: string;
}

const rangeStatement = (direction: 'asc' | 'desc', range: PlainRange = {}) =>
  new Statement<DataRows>({
    name: `range ${direction}${range.isOfViewer ? ' of viewer' : ''}${range.isLegacy ? ', legacy' : ''}`,
    byKey: true,
    isBinary: true,
    text: `select ${messageColumnNames} from (${plainRange(direction, range)}) m order by message_seq ${direction}`,
  });
const rangesOf = (direction: 'asc' | 'desc') => ({
  all: rangeStatement(direction),
  viewer: rangeStatement(direction, { isOfViewer: true }),
  legacyAll: rangeStatement(direction, { isLegacy: true }),
  legacyViewer: rangeStatement(direction, { isOfViewer: true, isLegacy: true }),
});
const rangeStatements = { asc: rangesOf('asc'), desc: rangesOf('desc') };

async function readPlainRange(db: Db, channelKey: number, range: Range, now: number): Promise<StoredRow[]> {
  const { all, viewer, legacyAll, legacyViewer } = rangeStatements[range.descending ? 'desc' : 'asc'];
  const values = plainValues(channelKey, range, now);
  const found =
    range.viewerUid === undefined
      ? await (range.withoutRecalled ? legacyAll : all).run(db, values)
      : await (range.withoutRecalled ? legacyViewer : viewer).run(db, [...values, range.viewerUid]);
  const messages: StoredRow[] = [];
  for (const rows of found) {
    const reader = new RowReader(rows);
    while (reader.next()) messages.push(new StoredRow(reader, reader.bigint() ?? 0));
  }
  return messages;
}

const plainValues = (
  channelKey: number,
  { afterSeq, beforeSeq, limit }: Pick<Range, 'afterSeq' | 'beforeSeq' | 'limit'>,
  now: number,
) => [channelKey, afterSeq, beforeSeq, now, limit, limits.pageBytes];

/** The heads are in the first row only: parsing two more numbers per row took 15 % of a page. */
const pageStatement = (direction: 'asc' | 'desc') =>
  new Statement<
    (MessageRow | { readonly message_id: null }) & { readonly last_seq: number; readonly first_seq: number }
  >({
    name: `page ${direction}`,
    byKey: true,
    text: `
      select case when coalesce(m.bytes_before, 0) = 0 then h.last_seq end as last_seq,
        case when coalesce(m.bytes_before, 0) = 0 then coalesce((
          select message_seq from sendbatch.message where channel_key = $1 order by message_seq limit 1
        ), h.last_seq + 1) end as first_seq, ${messageColumnNames}
      from sendbatch.channel_head h
      left join lateral (${plainRange(direction)}) m on true
      where h.channel_key = $1
      order by message_seq ${direction}`,
  });
const pageStatements = { asc: pageStatement('asc'), desc: pageStatement('desc') };

/**
 * The same without sums of sizes and without a join: 110 of 290 µs of PostgreSQL for 100 messages.
 * $6 are the bytes of a message at which `limit` messages fill a page; a larger one comes without
 * its payload, and the page has to be read by `pageStatement`. The first row has the heads in place
 * of message_seq and accepted_at, and no message_id.
 */
const smallPageStatement = (direction: 'asc' | 'desc') =>
  new Statement<DataRows>({
    name: `small page ${direction}`,
    byKey: true,
    isBinary: true,
    text: `
      select null::bigint as message_id, h.last_seq as message_seq, coalesce((
          select message_seq from sendbatch.message where channel_key = $1 order by message_seq limit 1
        ), h.last_seq + 1) as accepted_at, null::smallint as flags, null::text collate "C" as from_uid,
        null::text collate "C" as client_msg_no, null::bytea as payload, null::bigint as expire,
        null::text collate "C" as stream_no, null::text collate "C" as tag_key, null::jsonb as subscribers,
        null::jsonb as changed
      from sendbatch.channel_head h where h.channel_key = $1
      union all (
        select m.message_id, m.message_seq, m.accepted_at, m.flags, m.from_uid, m.client_msg_no,
          case when octet_length(m.payload) + coalesce(pg_column_size(m.subscribers), 0) <= $6 then m.payload end,
          m.expire, m.stream_no, m.tag_key,
          case when pg_column_size(m.subscribers) <= $6 then m.subscribers end, m.changed
        from sendbatch.message m
        where m.channel_key = $1 and m.message_seq > $2 and m.message_seq < $3 and ${aliveAt('$4')}
        order by m.message_seq ${direction} limit $5
      )`,
  });
const smallPageStatements = { asc: smallPageStatement('asc'), desc: smallPageStatement('desc') };

interface RangeAndHeads {
  readonly heads: Heads;
  readonly messages: StoredMessage[];
}

type ServiceRange = Pick<Range, 'afterSeq' | 'beforeSeq' | 'limit' | 'descending'>;

/** A range without filters, for a service, with the heads of its channel in the same snapshot. */
export async function readRangeAndHeads(
  db: Db,
  channelKey: number,
  range: ServiceRange,
  now: number,
): Promise<RangeAndHeads> {
  return (await readSmallPage(db, channelKey, range, now)) ?? (await readPage(db, channelKey, range, now));
}

/** Reads a range of small messages; undefined when one of them is not small. */
async function readSmallPage(
  db: Db,
  channelKey: number,
  { afterSeq, beforeSeq, limit, descending }: ServiceRange,
  now: number,
): Promise<RangeAndHeads | undefined> {
  const messageBytes = Math.floor(limits.pageBytes / limit);
  const statement = smallPageStatements[descending ? 'desc' : 'asc'];
  const found = await statement.run(db, [channelKey, afterSeq, beforeSeq, now, limit, messageBytes]);
  const messages: StoredRow[] = [];
  let heads: Heads | undefined;
  for (const rows of found) {
    const reader = new RowReader(rows);
    while (reader.next()) {
      const messageId = reader.bigint();
      if (messageId === null) {
        heads = { lastSeq: reader.bigint() ?? 0, firstSeq: reader.bigint() ?? 0 };
        continue;
      }
      const row = new StoredRow(reader, messageId);
      if (!row.isWhole) return undefined;
      messages.push(row);
    }
  }
  return heads === undefined ? { heads: noHeads, messages: [] } : { heads, messages };
}

async function readPage(db: Db, channelKey: number, range: ServiceRange, now: number): Promise<RangeAndHeads> {
  const statement = pageStatements[range.descending ? 'desc' : 'asc'];
  const rows = await statement.run(db, plainValues(channelKey, range, now));
  const [first] = rows;
  const messages = rows.flatMap((row) => (row.message_id === null ? [] : [toStored(row)]));
  return { heads: first === undefined ? noHeads : { lastSeq: first.last_seq, firstSeq: first.first_seq }, messages };
}

/** Messages after a sequence, and whether the channel had no more when they were read. */
export interface PageAfter {
  readonly messages: readonly StoredMessage[];
  readonly isLast: boolean;
}

const nextOfEach = new Statement<MessageRow & { readonly ordinal: number }>({
  name: 'next messages of channels',
  byKey: true,
  text: `
    select r.ordinal, ${messageColumnNames}
    from unnest($1::bigint[], $2::bigint[]) with ordinality as r(channel_key, after_seq, ordinal)
    cross join lateral (${plainRange('asc', { channelKey: 'r.channel_key', afterSeq: 'r.after_seq' })}) m
    order by r.ordinal, m.message_seq`,
});

/**
 * Reads the next messages of each of these channels, without regard to a viewer: a page each,
 * `limit` messages at most, and all together as many as eight pages of one.
 */
export async function readNextOfEach(
  db: Db,
  wanted: readonly { readonly channelKey: number; readonly afterSeq: number }[],
  limit: number,
  now: number,
): Promise<PageAfter[]> {
  const share = (all: number, least: number) => Math.max(least, Math.ceil(all / wanted.length));
  const mostMessages = Math.min(limit, share(8 * limit, 10));
  const mostBytes = share(limits.pageBytes, 64 * 1024);
  const keys = wanted.map(({ channelKey }) => channelKey);
  const afterSeqs = wanted.map(({ afterSeq }) => afterSeq);
  const values = [keys, afterSeqs, Number.MAX_SAFE_INTEGER, now, mostMessages, mostBytes];
  const rows = Map.groupBy(await nextOfEach.run(db, values), ({ ordinal }) => ordinal - 1);
  return wanted.map((_, index) => {
    const found = rows.get(index) ?? [];
    const bytes = found.reduce((sum, row) => sum + pageBytesOf(row), 0);
    return { messages: found.map(toStored), isLast: found.length < mostMessages && bytes <= mostBytes };
  });
}

/** Bytes of a message in the bound of a page, rather more than PostgreSQL counts. */
function pageBytesOf({ payload, subscribers }: MessageRow): number {
  const uids = subscribers ?? [];
  return uids.reduce((sum, uid) => sum + Buffer.byteLength(uid) + 8, payload.length + 16);
}
