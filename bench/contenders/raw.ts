import pg from 'pg';
import { limits } from '../../src/limits.ts';
import { type PreparedMessage, prepareMessage } from '../../src/messages/message.ts';
import { BinaryArray } from '../../src/postgres/binary-array.ts';
import type { Contender, ContenderJob } from '../contender.ts';
import { batchesOf, type Workload } from '../workload.ts';

interface Row {
  readonly channelKey: number;
  readonly seq: number;
  readonly id: number;
  readonly dedupeKey: Buffer;
  readonly contentHash: Buffer;
  readonly message: PreparedMessage;
}

const insert = `
  insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash,
    from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers)
  select channel_key, message_seq, message_id, $14::bigint, dedupe_key, flags, content_hash,
    from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers::jsonb
  from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[], $5::smallint[], $6::bytea[],
    $7::text[], $8::text[], $9::bytea[], $10::bigint[], $11::text[], $12::text[], $13::text[])
    as w(channel_key, message_seq, message_id, dedupe_key, flags, content_hash,
      from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers)`;

/**
 * Inserts the rows that the same sends would store, numbered in advance, without decisions, lookups
 * or locks: the best that PostgreSQL does with multi-row INSERTs. They are prepared once and sent
 * in binary, as arrays through unnest: the fastest INSERT that was measured.
 */
export async function openRaw({
  url,
  workload,
  inFlight,
  statementRows = workload.batchMessages,
  afterSeq = 0,
}: ContenderJob): Promise<Contender> {
  const groups = rowsOf(workload, statementRows, afterSeq);
  const clients = await Promise.all(
    Array.from({ length: inFlight }, async () => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      return client;
    }),
  );
  for (const client of clients) await client.query('select 1');
  const free = [...clients];
  return {
    sends: groups.length,
    async send(index) {
      const rows = groups[index] ?? [];
      const client = free.pop();
      if (client === undefined) throw new Error('more under way than there are connections');
      await client.query({ name: 'insert', text: insert, values: valuesOf(rows) });
      free.push(client);
      return { stored: rows.length, duplicates: 0 };
    },
    async close() {
      for (const client of clients) await client.end();
    },
  };
}

function rowsOf(workload: Workload, size: number, afterSeq: number): Row[][] {
  const heads = new Map<number, number>();
  const rows = batchesOf(workload)
    .flat()
    .map((work, index): Row => {
      const channelKey = work.rank + 1;
      const seq = (heads.get(channelKey) ?? afterSeq) + 1;
      heads.set(channelKey, seq);
      const message = prepareMessage(work, work.clientMsgNo);
      return {
        channelKey,
        seq,
        id: limits.idsPerBlock * (1 + afterSeq) + index,
        dedupeKey: Buffer.from(message.dedupeKey, 'latin1'),
        contentHash: Buffer.from(message.contentHash, 'latin1'),
        message,
      };
    });
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, index) =>
    rows.slice(index * size, (index + 1) * size),
  );
}

function valuesOf(rows: readonly Row[]): unknown[] {
  const numbers = (of: (row: Row) => number) => {
    const array = new BinaryArray('bigint', rows.length * 12);
    for (const row of rows) array.bigint(of(row));
    return array.value();
  };
  const texts = (of: (row: Row) => string) => {
    const array = new BinaryArray('text', rows.length * 44);
    for (const row of rows) array.text(of(row));
    return array.value();
  };
  const bytes = (type: 'uuid' | 'bytea', of: (row: Row) => Uint8Array) => {
    const array = new BinaryArray(type, rows.length * 44);
    for (const row of rows) array.bytes(of(row));
    return array.value();
  };
  const flags = new BinaryArray('smallint', rows.length * 6);
  for (const { message } of rows) flags.smallint(message.flags);
  return [
    numbers((row) => row.channelKey),
    numbers((row) => row.seq),
    numbers((row) => row.id),
    bytes('uuid', (row) => row.dedupeKey),
    flags.value(),
    bytes('bytea', (row) => row.contentHash),
    texts((row) => row.message.fromUid),
    texts((row) => row.message.clientMsgNo),
    bytes('bytea', (row) => row.message.payload),
    null,
    null,
    null,
    null,
    Date.now(),
  ];
}
